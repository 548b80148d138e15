"""``python -m octvideo`` is the command ``octvideo``."""

from octvideo.cli.main import entry

entry()
