"""What commands share of the terminal: options, messages, progress and signals."""
