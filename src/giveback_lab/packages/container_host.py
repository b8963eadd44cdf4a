"""How to run the lab on a host without apt: in a container of Debian."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

IMAGE = "docker.io/library/debian:trixie"
# The set-up that a Debian image needs before `run` can do the rest. The copy of the checkout leaves
# out what `run` has built for the host: those programs are not Debian's.
SET_UP = (
    "apt-get update -q && apt-get install -qy python3 && mkdir /lab && "
    "tar -C /giveback --exclude=./.venv --exclude=./.tools -c . | tar -xC /lab && "
    "/lab/run giveback --version && cd /out"
)
DEFAULT_COMMAND = "demo"


def container_command(arguments: tuple[str, ...] | None = None) -> str:
    """Return a shell line that runs the same giveback command in a container.

    The cache is a volume, so that packages are fetched once; output is written to the current
    folder. Without a checkout of giveback, the line has a placeholder for its path.
    """
    words = tuple(sys.argv[1:]) if arguments is None else arguments
    program = next((name for name in ("podman", "docker") if shutil.which(name)), "docker")
    checkout = Path(__file__).parents[3]
    source = str(checkout) if (checkout / "run").is_file() else "PATH-OF-A-GIVEBACK-CHECKOUT"
    kvm = ["--device", "/dev/kvm"] if Path("/dev/kvm").exists() else []
    # Under SELinux (Fedora) the checkout would not be visible in the container.
    seen = ["--security-opt", "label=disable"] if Path("/sys/fs/selinux/enforce").exists() else []
    asked = shlex.join(("/lab/.venv/bin/giveback", *(words or (DEFAULT_COMMAND,))))
    command = [
        program, "run", "--rm", "-it", *kvm, *seen,
        "-v", f"{source}:/giveback:ro", "-v", "giveback-cache:/root/.cache",
        "-v", f"{Path.cwd()}:/out", IMAGE, "sh", "-c", f"{SET_UP} && {asked}",
    ]  # fmt: skip
    return shlex.join(command)
