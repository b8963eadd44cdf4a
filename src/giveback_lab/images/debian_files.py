"""The units and settings that the distribution guest has in addition to its packages, by their paths."""

from __future__ import annotations

import io
import tarfile

from giveback_lab.packages.cache import content_key

CONTAINER_ARCHIVE = "/usr/share/giveback-lab/container.tar"
USER = "lab"
# This word on the kernel's command line keeps the agent from being installed.
WITHOUT_AGENT = "giveback_lab_agent=off"

INIT = """#!/bin/busybox sh
# Mounts the root disk and this kernel's modules, and hands over to systemd.
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdc ] && break; $b sleep 0.2; done
$b mount -t ext4 -o rw,noinit_itable /dev/vda /root || { echo 'lab: no root disk'; $b poweroff -f; }
$b mount -t ext4 -o ro /dev/vdc /root/usr/lib/modules
$b mount -t tmpfs -o mode=755 run /root/run
$b cp /payload/* /root/run/
$b mount --move /proc /root/proc; $b mount --move /sys /root/sys; $b mount --move /dev /root/dev
exec $b switch_root /root /usr/lib/systemd/systemd
"""
LAB_UNIT = """[Unit]
Description=The lab's end in its guest
After=basic.target

[Service]
ExecStart=/usr/bin/python3 /run/giveback-lab.pyz serve
Slice=lab.slice
Environment=HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
# What it runs is a measurement's workload: not to be ended with it, nor limited.
KillMode=process
OOMPolicy=continue
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""
INSTALL_UNIT = f"""[Unit]
Description=Installs giveback-agent by its own command, as a user would
After=basic.target
ConditionKernelCommandLine=!{WITHOUT_AGENT}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 /run/giveback-agent.pyz install

[Install]
WantedBy=multi-user.target
"""
TEXTS = {
    "etc/systemd/system/giveback-lab.service": LAB_UNIT,
    "etc/systemd/system/giveback-agent-install.service": INSTALL_UNIT,
    # The status lines would go to the emulated serial port, and emulated starts take longer.
    "etc/systemd/system.conf.d/lab.conf": (
        "[Manager]\nShowStatus=no\nDefaultTimeoutStartSec=300s\nDefaultDeviceTimeoutSec=300s\n"
    ),
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n",
    "etc/fstab": "/dev/vdb /work ext4 noatime,noinit_itable 0 0\n",
    "etc/hostname": "lab\n",
    "etc/hosts": "127.0.0.1 localhost lab\n::1 localhost\n",
    "etc/machine-id": content_key("giveback", "lab") * 2 + "\n",
    # As after the first boot: nothing of /usr is built again.
    "etc/.updated": "",
    "var/.updated": "",
    # The user's service manager runs without a login, as for a user with containers.
    f"var/lib/systemd/linger/{USER}": "",
}
WANTS = "etc/systemd/system/multi-user.target.wants"
LINKS = {
    f"{WANTS}/giveback-lab.service": "../giveback-lab.service",
    f"{WANTS}/giveback-agent-install.service": "../giveback-agent-install.service",
    # A getty hangs up other writers of its terminal; the other units would try the network.
    **{
        f"etc/systemd/system/{unit}": "/dev/null"
        for unit in (
            "getty@.service",
            "serial-getty@.service",
            "console-getty.service",
            "apt-daily.timer",
            "apt-daily-upgrade.timer",
        )
    },
}
CONTAINER_APPLETS = ("sh", "cat", "dd", "echo", "ls", "md5sum", "sleep", "sync", "tar", "true")


def container_archive(busybox: bytes) -> bytes:
    """Return an archive for `podman import`: busybox, and links for the programs that it provides."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        for name in ("bin", "tmp", "work"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        program.size, program.mode = len(busybox), 0o755
        archive.addfile(program, io.BytesIO(busybox))
        for name in CONTAINER_APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return into.getvalue()
