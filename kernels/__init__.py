"""Attribution and ablation kernels: pure functions on arrays, most of them for one prompt.

Import them as `pie_jax.kernels`, and use `vmap` for batches of prompts; the tiled
products take a batch. They depend on no model and no file.
"""

from pie_jax.kernels.ablation import map_sets, removal_delta
from pie_jax.kernels.attribution import gradient_times_write
from pie_jax.kernels.encode import ActiveUnion, active_union, block_size
from pie_jax.kernels.tiles import TILE, Tiles, tiled_gradient_times_write, tiled_write
from pie_jax.kernels.top import top_activations, top_union
from pie_jax.kernels.writes import Writes, write, write_layer

__all__ = [
    "TILE",
    "ActiveUnion",
    "Tiles",
    "Writes",
    "active_union",
    "block_size",
    "gradient_times_write",
    "map_sets",
    "removal_delta",
    "tiled_gradient_times_write",
    "tiled_write",
    "top_activations",
    "top_union",
    "write",
    "write_layer",
]
