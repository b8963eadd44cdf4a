"""Render what was found as text, as JSON documents and as pictures: data in, text out.

A reporter does not sample, ask or decide. It names no command: a command chooses its reporter.
"""
