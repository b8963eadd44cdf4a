"""Settings of the guest's kernel that prevent memory from being returned.

init_on_free and page poisoning change free pages. virtio_balloon then withdraws
VIRTIO_BALLOON_F_REPORTING unless the host offers VIRTIO_BALLOON_F_PAGE_POISON
(virtballoon_validate() in drivers/virtio/virtio_balloon.c). Reserved huge pages, and memory kept
from the kernel by `mem=`, are never free.

Source: Documentation/admin-guide/kernel-parameters.txt, report_meminit() in mm/mm_init.c.
"""

from __future__ import annotations

from giveback_kernel import files, kmsg, meminfo
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record, replace

PATH = "/proc/cmdline"
READ_LIMIT_BYTES = 1 << 16
_SAID_MEMINIT = "mem auto-init: "
_SUFFIXES = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


class Hardening(Record):
    """The settings; None if neither the command line nor the kernel log states one."""

    init_on_free: bool | None = None
    init_on_alloc: bool | None = None
    page_poison: bool | None = None
    debug_pagealloc: bool | None = None
    mem_limit_bytes: int | None = None
    hugetlb_bytes: int | None = None

    @property
    def withdraws_reporting(self) -> bool:
        """Page reporting is off unless the host offers VIRTIO_BALLOON_F_PAGE_POISON.

        debug_pagealloc alone does not turn it off: where the processor can unmap free pages it
        poisons none.
        """
        return bool(self.init_on_free or self.page_poison)


def parse(data: bytes) -> Hardening:
    """Parse a kernel command line. Never raises: unknown words are ignored."""
    values = {}
    limits = []
    for name, value in _parameters(data.decode("utf-8", "replace")):
        values[name] = value
        if name == "mem":
            limit = _memparse(value)
            if limit is not None:
                limits.append(limit)
    return Hardening(
        _kstrtobool(values.get("init_on_free")),
        _kstrtobool(values.get("init_on_alloc")),
        _kstrtobool(values.get("page_poison")),
        _kstrtobool(values.get("debug_pagealloc")),
        min(limits) if limits else None,
    )


def with_log(found: Hardening, messages: tuple[str, ...]) -> Hardening:
    """Let the kernel's boot message `mem auto-init: ...` override the command line.

    The message also shows what was compiled in (CONFIG_INIT_ON_FREE_DEFAULT_ON).
    """
    for message in messages:
        if message.startswith(_SAID_MEMINIT) and "heap free:" in message:
            found = replace(
                found,
                init_on_free="heap free:on" in message,
                init_on_alloc="heap alloc:on" in message,
            )
    return found


def read_hardening(root: str = "/") -> Hardening:
    """Gather all settings under `root`. Never raises: what cannot be read is None."""
    try:
        found = parse(files.read(root, PATH, READ_LIMIT_BYTES))
    except KernelFileError:
        found = Hardening()
    found = with_log(found, kmsg.search(root, (_SAID_MEMINIT,)).messages)
    try:
        return replace(found, hugetlb_bytes=meminfo.read_meminfo(root).hugetlb_bytes)
    except KernelFileError:
        return found


def _parameters(line: str) -> list[tuple[str, str | None]]:
    """Split as the kernel's next_arg() does: blanks, quotes; `--` ends the kernel's own words."""
    words = []
    word = ""
    quoted = False
    for character in line + " ":
        if character == '"':
            quoted = not quoted
        elif character.isspace() and not quoted:
            if word == "--":
                break
            if word:
                words.append(word)
            word = ""
        else:
            word += character
    pairs: list[tuple[str, str | None]] = []
    for one in words:
        name, equals, value = one.partition("=")
        # The kernel treats dashes and underscores alike.
        pairs.append((name.replace("-", "_"), value if equals else None))
    return pairs


def _kstrtobool(value: str | None) -> bool | None:
    if not value:
        return None
    first = value[0].lower()
    if first in ("1", "y", "t"):
        return True
    if first in ("0", "n", "f"):
        return False
    return {"on": True, "of": False}.get(value[:2].lower())


def _memparse(value: str | None) -> int | None:
    if not value:
        return None
    digits, shift = value, 0
    if value[-1].lower() in _SUFFIXES:
        digits, shift = value[:-1], _SUFFIXES[value[-1].lower()]
    is_hex = digits[:2].lower() == "0x"
    body = digits[2:] if is_hex else digits
    alphabet = "0123456789abcdef" if is_hex else "0123456789"
    if not 0 < len(body) <= 20 or body.lower().strip(alphabet):
        return None
    return int(body, 16 if is_hex else 10) << shift
