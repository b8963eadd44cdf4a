"""What a stranger can make hang is read by child processes, which are limited and can be abandoned."""
