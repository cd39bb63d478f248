"""What opens over the call: help, details, lists to choose from, questions."""
