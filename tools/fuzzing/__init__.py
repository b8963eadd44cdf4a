"""Fuzzing of every parser of foreign bytes: harnesses, mutations, and a corpus that is kept small."""
