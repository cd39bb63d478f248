"""Quantisers and entropy coders."""
