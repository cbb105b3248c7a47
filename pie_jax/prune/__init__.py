"""Stage I: find the few features that carry a behaviour.

The package is callable: `pie_jax.prune(model, transcoder, pairs)` is `pie_jax.prune.run.prune`,
although the folder of the stage has the same name.
"""

from pie_jax.callable_package import make_callable

make_callable(__name__, "pie_jax.prune.run", "prune")
