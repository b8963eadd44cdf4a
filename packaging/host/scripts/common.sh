# The build puts these functions in front of each of the other scripts.
unit=giveback-daemon.service
folder=/usr/lib/giveback-host

# Compiled once, by the Python that runs it: each command would compile it again otherwise.
compile() {
    "$(sed -n '1s/^#!\([^ ]*\).*/\1/p' /usr/bin/giveback)" -I -m compileall -q -j 0 "$folder" || true
}

systemd_runs() {
    [ -d /run/systemd/system ]
}

make_group() {
    if [ -x /usr/bin/systemd-sysusers ]; then
        systemd-sysusers /usr/lib/sysusers.d/giveback.conf
    elif ! getent group giveback >/dev/null; then
        groupadd --system giveback
    fi
}

start_now_and_at_boot() {
    if systemd_runs; then
        systemctl daemon-reload
        systemctl enable --quiet --now "$unit" || echo "giveback: the daemon was not started: see journalctl -u giveback-daemon" >&2
    elif [ -x /usr/bin/systemctl ]; then
        systemctl enable --quiet "$unit" || true
        echo "giveback: systemd does not run here: the daemon starts when this system is booted"
    else
        echo "giveback: start the daemon as root at every boot: giveback daemon"
    fi
}

restart() {
    systemd_runs || return 0
    systemctl daemon-reload
    systemctl try-restart "$unit" || echo "giveback: the daemon was not restarted: see journalctl -u giveback-daemon" >&2
}

# It returns what it has lent as it stops: balloons are deflated.
stop_for_good() {
    if systemd_runs; then
        systemctl disable --quiet --now "$unit" || true
    elif [ -x /usr/bin/systemctl ]; then
        systemctl disable --quiet "$unit" || true
    fi
}

remove_compiled() {
    find "$folder" -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
}
