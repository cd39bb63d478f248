"""The latent search: mean-field rounding, ADMM, rate-distortion optimised quantisation."""
