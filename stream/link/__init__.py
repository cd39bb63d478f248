"""The connection between two ends: messages, keys, clocks and endpoints."""
