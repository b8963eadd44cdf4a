"""The steps of a release pass, and what they read and write."""
