"""The page of an attribution graph: one HTML file that needs nothing from outside."""

from pie_jax.graph.page.html import write_page
from pie_jax.graph.page.payload import Measured

__all__ = ["Measured", "write_page"]
