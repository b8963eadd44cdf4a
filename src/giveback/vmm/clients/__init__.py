"""Clients of VMMs' protocols; their answers are parsed as untrusted input."""
