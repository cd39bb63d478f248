"""Training: data, objective, the stages of the recipe, and their bookkeeping."""
