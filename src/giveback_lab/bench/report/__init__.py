"""The benchmark's page, figures and tables."""
