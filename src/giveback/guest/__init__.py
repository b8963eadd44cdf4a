"""The guest's side as seen from the host: channels, sessions, memory reports."""
