"""Networks prepared for fast inference on the CPU."""
