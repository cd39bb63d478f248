"""Training: one loop, a task for each model, their data and their export."""
