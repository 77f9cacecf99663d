"""`python -m plait` is `plait`."""

from plait.cli.main import entry

entry()
