"""A report of use: as text, as CSV and JSON, and as one HTML page."""
