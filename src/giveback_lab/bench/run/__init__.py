"""Measure the cells."""
