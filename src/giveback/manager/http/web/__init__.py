"""The web page: sessions of browsers, the live stream, and the files that make the page."""
