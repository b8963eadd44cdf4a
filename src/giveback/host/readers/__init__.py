"""Child processes that read whatever a stranger can make hang: they have limits and can be abandoned."""
