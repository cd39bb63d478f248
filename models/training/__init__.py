"""Training: one loop, a task for each model, and their data and export."""
