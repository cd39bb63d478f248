"""A call: what is sent, what is received, and what a screen shows of it."""
