"""The speech codec."""
