"""Training: one loop, a task for each family of networks, and what feeds and exports them."""
