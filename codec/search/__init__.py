"""The latent search: ADMM and rate-distortion optimised quantisation."""
