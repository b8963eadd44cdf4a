"""The matrix: one workload on every kernel, machine and guest of the lab, and what came back of it."""
