"""The agent's own errors, below the root that all of giveback's packages share."""

from __future__ import annotations

from giveback_kernel.errors import GivebackError


class AgentError(GivebackError):
    """The agent cannot do its task. The text names the file and says what to do."""


class UsageError(AgentError):
    """The user's input is not valid: exit code 2."""

    exit_code = 2
