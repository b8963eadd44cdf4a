"""The matrix: one workload on every kernel, machine and guest of the lab, and how much came back."""
