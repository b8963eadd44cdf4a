"""`giveback bench`: every strategy on the same workload, side by side."""
