"""A run's tables, folder and measures."""
