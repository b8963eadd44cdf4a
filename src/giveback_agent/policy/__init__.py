"""Decisions: pure, no clock, no files."""
