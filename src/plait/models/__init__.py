"""Architectures, composed from ops; config mappings and name tables."""
