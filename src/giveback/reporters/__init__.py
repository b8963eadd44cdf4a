"""Render what was found as text, as JSON documents and as pictures: data in, text out.

Nothing here samples, asks or decides. A reporter names no command: a command chooses its reporter.
"""
