"""The networks of the codec: their definitions, shipped weights, training and evaluation."""
