"""The build's own metadata hook: giveback's distributions require each other at exactly one version.

It stands here because `src` is the one folder that all three distributions' builds see, from a checkout
and from their source archives alike. Built wheels do not have it.
Source: hatch.pypa.io, "Metadata hook plugins: custom".
"""

from __future__ import annotations

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ExactSiblings(MetadataHookInterface):
    """Add `name==VERSION` for each of `siblings`, and the `others`, to the dependencies."""

    def update(self, metadata: dict[str, object]) -> None:
        """Set `dependencies`; hatchling calls this with the project's table."""
        pinned = [f"{name}=={metadata['version']}" for name in self.config["siblings"]]
        metadata["dependencies"] = [*pinned, *self.config["others"]]
