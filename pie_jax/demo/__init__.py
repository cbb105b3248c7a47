"""A small trained model and its CLT, and the scripts that make and measure them."""
