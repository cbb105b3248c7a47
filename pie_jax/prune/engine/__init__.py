"""Exact runs and gradients of a batch, which every method and measure uses."""
