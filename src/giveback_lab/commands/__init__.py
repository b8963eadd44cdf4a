"""One file per command of the lab; `giveback` finds them by an entry point."""
