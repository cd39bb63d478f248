"""GANZ (Smedemark-Margulies, Park & Vann 2020): a BEGAN generator whose first layer is random."""
