"""The networks of the image codec."""
