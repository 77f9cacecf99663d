"""Arithmetic: the ops protocol and its backends."""
