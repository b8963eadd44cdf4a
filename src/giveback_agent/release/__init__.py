"""The steps of a release pass, with the kernel files that they read and write."""
