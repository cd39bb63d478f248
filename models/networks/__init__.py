"""Network definitions and the distances that training and search descend."""
