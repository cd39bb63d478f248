"""The terminal UI of a call: draws snapshots of it, and passes on what the keys ask for."""
