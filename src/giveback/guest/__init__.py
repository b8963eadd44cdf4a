"""The guest's side, as the host asks for it: channels, sessions, memory reports."""
