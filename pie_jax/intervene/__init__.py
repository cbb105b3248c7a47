"""Interventions: runs, and generation, in which chosen features have other activations.

The package is callable: `pie_jax.intervene(model, transcoder, prompts, changes)` is
`pie_jax.intervene.run.intervene`.
"""

from pie_jax.callable_package import make_callable

make_callable(__name__, "pie_jax.intervene.run", "intervene")
