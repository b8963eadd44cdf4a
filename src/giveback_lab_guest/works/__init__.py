"""The works of the benchmark: what a guest does before, while and after it is watched."""
