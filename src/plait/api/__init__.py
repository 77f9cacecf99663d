"""The engine in one's own process."""
