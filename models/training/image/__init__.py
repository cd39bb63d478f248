"""Training of the image codec."""
