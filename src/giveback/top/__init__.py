"""`giveback top`: every VM as needed, cache, trapped and returned memory, live and replayed."""
