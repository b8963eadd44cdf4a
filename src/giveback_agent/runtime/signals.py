"""The kernel's signals without `signal`'s enums, which cost the service 0.6 MiB of private memory."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import (
        SIG_DFL,
        SIG_IGN,
        SIGCHLD,
        SIGHUP,
        SIGINT,
        SIGIO,
        SIGKILL,
        SIGTERM,
        SIGUSR1,
        getsignal,
        set_wakeup_fd,
        signal,
    )
else:
    from _signal import (
        SIG_DFL,
        SIG_IGN,
        SIGCHLD,
        SIGHUP,
        SIGINT,
        SIGIO,
        SIGKILL,
        SIGTERM,
        SIGUSR1,
        getsignal,
        set_wakeup_fd,
        signal,
    )

__all__ = [
    "SIGCHLD",
    "SIGHUP",
    "SIGINT",
    "SIGIO",
    "SIGKILL",
    "SIGTERM",
    "SIGUSR1",
    "SIG_DFL",
    "SIG_IGN",
    "getsignal",
    "set_wakeup_fd",
    "signal",
]
