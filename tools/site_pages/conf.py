"""Sphinx's settings for the site."""

from __future__ import annotations

project = "giveback"
author = "The giveback developers"
copyright = author  # noqa: A001  # the name that Sphinx reads
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
html_theme = "furo"
html_title = "giveback"
html_show_sourcelink = False
# Links to headings of other pages are checked as those to pages are.
myst_heading_anchors = 4
# Pages begin with a question, not with a heading, and quote examples that are no JSON or TOML as a whole.
suppress_warnings = ["misc.highlighting_failure"]
linkcheck_timeout = 20
