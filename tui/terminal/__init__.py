"""Terminal parts of all commands: options, messages, progress and signals."""
