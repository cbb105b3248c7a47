"""Attribution and ablation kernels: pure functions on arrays, for one prompt; vmap outside.

Importable as `pie_jax.kernels`; nothing here knows a model or a file.
"""

from pie_jax.kernels.ablation import map_sets, removal_delta
from pie_jax.kernels.attribution import gradient_times_write
from pie_jax.kernels.writes import Writes, write, write_layer

__all__ = ["Writes", "gradient_times_write", "map_sets", "removal_delta", "write", "write_layer"]
