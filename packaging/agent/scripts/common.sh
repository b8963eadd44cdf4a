# The build puts these functions in front of each of the other scripts.
unit=giveback-agent.service
folder=/usr/lib/giveback
conf=/etc/giveback.conf

agent_python() {
    /usr/bin/python3 -IBS -c "import sys; sys.path.insert(0, '$folder'); $1"
}

# From sources alone the service would use 1.2 MiB more memory.
compile() {
    agent_python "from giveback_agent.install.files import compile_in_place; compile_in_place('$folder')"
}

systemd_runs() {
    [ -d /run/systemd/system ]
}

# An agent that `giveback-agent install` has put below some prefix has the same unit: the package takes over.
take_over() {
    started=$(sed -n 's/^ExecStart=\([^ ]*\/bin\/giveback-agent\) run$/\1/p' "/etc/systemd/system/$unit" 2>/dev/null) || true
    for launcher in "$started" /usr/local/bin/giveback-agent; do
        prefix=${launcher%/bin/giveback-agent}
        [ -n "$launcher" ] && [ -e "$prefix/lib/giveback/manifest" ] || continue
        echo "giveback-agent: taking over from the agent below $prefix, which is uninstalled; its settings stay"
        "$launcher" uninstall --prefix "$prefix" || {
            echo "giveback-agent: it could not be uninstalled: run '$launcher uninstall --prefix $prefix', and try again" >&2
            exit 1
        }
    done
}

start_now_and_at_boot() {
    if systemd_runs; then
        systemctl daemon-reload
        systemctl enable --quiet --now "$unit" || echo "giveback-agent: not started: see journalctl -u giveback-agent" >&2
        return 0
    fi
    if [ -x /usr/bin/systemctl ]; then systemctl enable --quiet "$unit" || true; fi
    # An image that is being built has no init system that runs, but may have systemd's programs.
    agent_python "
from giveback_agent.install import init_system, systemd_unit
init = init_system.find('/')
if init or not init_system.has_systemd('/'):
    print(systemd_unit.hint(init, '/usr/bin/giveback-agent'), end='')
else:
    print('giveback-agent: systemd does not run here: the service starts when this system is booted')"
}

restart() {
    systemd_runs || return 0
    systemctl daemon-reload
    systemctl try-restart "$unit" || echo "giveback-agent: not restarted: see journalctl -u giveback-agent" >&2
}

# It restores the kernel's settings as it stops.
stop_for_good() {
    if systemd_runs; then
        systemctl disable --quiet --now "$unit" || true
    else
        # Started by another init system, or by hand: it would run on without its files.
        agent_python "from giveback_agent.commands._stop import stop; print('\\n'.join(stop('/', '/usr/bin/giveback-agent')))" || true
        if [ -x /usr/bin/systemctl ]; then systemctl disable --quiet "$unit" || true; fi
    fi
}

remove_compiled() {
    find "$folder/giveback_agent" "$folder/giveback_kernel" -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
}

# Other packages may have files below the same folder.
remove_folder() {
    rm -rf "$folder/giveback_agent" "$folder/giveback_kernel"
    rmdir "$folder" 2>/dev/null || true
    if systemd_runs; then systemctl daemon-reload; fi
}
