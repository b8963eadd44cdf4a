"""Analyse the measured cells: figures, comparisons, verdicts."""
