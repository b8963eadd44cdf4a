"""Why free memory is not reported to the host: the words of the service, `release`, `status` and `doctor`."""

from __future__ import annotations


def why_not_reported(active: bool | None, allowed: bool = True) -> str:
    """Return why this guest's free memory is not known to go back to its host, or "" where it goes.

    `active` is that of giveback_kernel.page_reporting.ReportingState: None where it cannot be told.
    `allowed`: the settings permit it.
    """
    if active is None:
        return "it cannot be seen whether free page reporting is active in this guest"
    if not active:
        return "free page reporting is not active in this guest"
    return "" if allowed else "the settings forbid it (pageReporting)"
