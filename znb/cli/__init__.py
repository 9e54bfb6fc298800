"""The command line ``znb``, and the tables and parsing that it shares with the magics."""

from znb.cli.main import main

__all__ = ["main"]
