"""pie_jax."""
