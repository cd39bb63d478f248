"""The image codec: pictures by the same latent search."""
