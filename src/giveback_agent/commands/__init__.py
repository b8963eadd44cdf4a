"""The commands of `giveback-agent`, one file each."""
