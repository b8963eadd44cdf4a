"""The commit of this build. A release's build replaces this file; in a checkout it is not known."""

from __future__ import annotations

COMMIT = ""
