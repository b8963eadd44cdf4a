"""The terminal interface of `giveback top`: Textual widgets that show what the pure modules make."""
