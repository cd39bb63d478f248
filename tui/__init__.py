"""The terminal: the `sotto` command line."""
