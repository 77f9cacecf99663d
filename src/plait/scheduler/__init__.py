"""Which tokens run in the next step. Pure Python."""
