"""Containers: what users of a VM start and end all day, beside a service that stays.

A container of root's, a rootless one, a systemd service and a user's session each unpack a package,
read it, build from it, and end. Their page cache is then charged to cgroups that no longer exist.
The hot files belong to a service that stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from giveback_lab_guest.works.demo import read_files
from giveback_lab_guest.works.files import FileTree
from giveback_lab_guest.works.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USER = "lab"
ARCHIVE = "/usr/share/giveback-lab/container.tar"
IMAGE = "localhost/lab"
PART_PERCENT = 5.0
HOT_PERCENT = 4.0
HOT_READS = 4
KEEPER_DEADLINE_S = 300.0
POLL_S = 0.2
FOR_EVER_S = 1_000_000
# Only programs that are in the container's image, too, where busybox provides them.
BUILD = (
    "tar -xf package.tar && for d in tree/*; do cat $d/* | md5sum > $d.sum; cat $d/* > $d.o; done"
)
READ = "for d in tree/*; do [ -d $d ] && cat $d/* | md5sum > $d.again; done; true"
OF_USER = ("systemd-run", "--user", "-M", f"{USER}@", "--quiet", "--wait", "--pipe", "--collect")
OF_SYSTEM = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--slice=machine.slice")
PODMAN = ("podman", "run", "--rm", "--network=none", "--workdir=/job")


class Part:
    """One of the parts that come and go: how its shell is started in its folder."""

    def __init__(self, name: str, folder: str, *, prefix: Sequence[str], podman: bool) -> None:
        self.name, self.folder = name, folder
        self._prefix, self._podman = prefix, podman
        self.is_of_user = prefix is OF_USER

    def prepare(self) -> None:
        """Import the container's image if it does not exist yet."""
        if self._podman:
            run([*self._prefix, "podman", "import", "-q", ARCHIVE, IMAGE])

    def shell(self, script: str) -> None:
        """Run a script in its folder, to its end. Raises OSError."""
        if self._podman:
            inside = [*PODMAN, "-v", f"{self.folder}:/job", IMAGE, "sh", "-c", script]
        else:
            inside = ["sh", "-c", f"cd {self.folder} && {script}"]
        run([*self._prefix, *inside])


class Containers(Job):
    """The parts one after the other, after the keeper of the hot files."""

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        super().__init__(folder, ram_bytes, seed, cpus)
        self.parts = [
            Part("container", f"{folder}/container", prefix=(), podman=True),
            Part("rootless", f"{folder}/rootless", prefix=OF_USER, podman=True),
            Part("service", f"{folder}/service", prefix=OF_SYSTEM, podman=False),
            Part("session", f"{folder}/session", prefix=OF_USER, podman=False),
        ]
        self.hot_tree = FileTree(f"{folder}/hot", self.percent(HOT_PERCENT), seed + 1)

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the phases: packages, images, the keeper, then each part."""
        return [
            ("packages", self._pack),
            ("images", self._images),
            ("keeper", self._keep),
            *((part.name, lambda part=part: part.shell(BUILD)) for part in self.parts),
        ]

    def _pack(self) -> None:
        for number, part in enumerate(self.parts):
            os.makedirs(part.folder, exist_ok=True)
            path = f"{part.folder}/package.tar"
            FileTree("tree", self.percent(PART_PERCENT), self.seed + number).pack(path)
            forget(path)
            if part.is_of_user:
                run(["chown", "-R", f"{USER}:", part.folder])

    def _images(self) -> None:
        for part in self.parts:
            part.prepare()

    def _keep(self) -> None:
        """Start the service that stays and has read the hot files several times."""
        done = f"{self.folder}/kept"
        words = [sys.executable, sys.argv[0], "bench", "warm", "containers", self.folder]
        run([
            "systemd-run", "--quiet", "--collect", "--unit=lab-keeper", "--slice=system.slice",
            *words, str(self.ram_bytes), str(self.seed), str(self.cpus),
        ])  # fmt: skip
        deadline_s = time.monotonic() + KEEPER_DEADLINE_S
        while not os.path.exists(done):
            if time.monotonic() > deadline_s:
                raise OSError("containers: the service with the hot files did not start")
            time.sleep(POLL_S)

    def warm(self) -> None:
        """Be the keeper: unpack and read its files, and stay."""
        path = f"{self.folder}/hot.tar"
        self.hot_tree.pack(path)
        forget(path)
        self.hot_tree.unpack(path)
        os.unlink(path)
        for _ in range(HOT_READS):
            read_files(self.hot_tree.files)
        with open(f"{self.folder}/kept", "w"):
            pass
        time.sleep(FOR_EVER_S)

    def again(self) -> None:
        """Start root's container and the service again; they read their files."""
        for part in (self.parts[0], self.parts[2]):
            part.shell(READ)

    def hot_bytes(self) -> int:
        """Return the page cache bytes of the keeper's files."""
        return sum(size + -size % 4096 for _, size in self.hot_tree.files)

    def prepare_reread(self) -> Callable[[], int]:
        """Return a reader of the whole of the keeper's files."""
        files = self.hot_tree.files
        return lambda: read_files(files)


def run(words: Sequence[str]) -> None:
    """Run a program to its end. Raises OSError with its last output if it fails."""
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout[-300:].decode("utf-8", "replace")
        raise OSError(f"{' '.join(words[:6])}: exit code {done.returncode}: {said}")


def forget(path: str) -> None:
    """Write a file to disk and drop it from the page cache, so that the next reader is charged for it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
