"""`giveback bench`: every strategy on the same work, side by side."""
