"""The agent's own errors, below the root that all of giveback's packages share."""

from __future__ import annotations

from giveback_kernel.errors import GivebackError


class AgentError(GivebackError):
    """The agent cannot do what it is there for; its text names the file and what to do."""


class UsageError(AgentError):
    """The user asked for something that cannot be: exit code 2."""

    exit_code = 2
