"""Prune a model that pie_jax has never seen: own weights, own transcoder arrays, own metric.

    python docs/own_model.py

Nothing is read from a file. On eight devices (here simulated ones) the same functions run on arrays
that lie on a mesh with axes of any name.
"""

from __future__ import annotations

import os
from functools import partial

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from pie_jax import arrays

VOCABULARY, LAYERS, WIDTH, FEATURES = 50, 3, 32, 128


class TinyModel(nnx.Module):
    """One head and one MLP a layer, written as one likes; no class of pie_jax."""

    def __init__(self, rngs: nnx.Rngs):
        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), shape) / shape[-1] ** 0.5)

        self.embedding = weight(VOCABULARY, WIDTH)
        self.attention = weight(LAYERS, 4, WIDTH, WIDTH)  # query, key, value, output
        self.up, self.down = weight(LAYERS, 64, WIDTH), weight(LAYERS, WIDTH, 64)

    def __call__(self, tokens: jax.Array, mlp_delta: jax.Array) -> arrays.Run:
        x = self.embedding[...][tokens]
        seen = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        inputs = []
        for layer in range(LAYERS):
            query, key, value = (x @ self.attention[layer, part].T for part in range(3))
            scores = jnp.where(seen, query @ key.T / WIDTH**0.5, -jnp.inf)
            # What FAP freezes: gradients take no part in where the model looks.
            pattern = jax.lax.stop_gradient(jax.nn.softmax(scores))
            x = x + pattern @ value @ self.attention[layer, 3].T
            inputs.append(x)
            x = x + jax.nn.relu(x @ self.up[layer].T) @ self.down[layer].T + mlp_delta[layer]
        return arrays.Run(jnp.stack(inputs), x @ self.embedding[...].T)


def probability_of_target(logits: jax.Array, prompt: arrays.Prompt) -> jax.Array:
    """A metric of one's own: the log-probability of the target at the last position."""
    return jax.nn.log_softmax(logits[prompt.length - 1])[prompt.target]


def random_transcoder(seed: int) -> arrays.Dictionary:
    encode, decode = jax.random.split(jax.random.key(seed))
    weight = jax.random.normal(encode, (LAYERS, FEATURES, WIDTH)) / WIDTH**0.5
    keys = jax.random.split(decode, LAYERS)
    shapes = [(FEATURES, LAYERS - layer, WIDTH) for layer in range(LAYERS)]
    decoders = [0.5 * jax.random.normal(*one) for one in zip(keys, shapes, strict=True)]
    return arrays.dictionary(weight, jnp.full((LAYERS, FEATURES), -0.5), decoders)


def main() -> None:
    model, transcoder = TinyModel(nnx.Rngs(0)), random_transcoder(1)
    prompt = arrays.prompt([1, 7, 3, 9, 4, 4, 8, 2], target=5)
    corrupted = prompt.tokens.at[3].set(30)

    found = arrays.occurrences(model, transcoder, prompt, corrupted)
    scores = arrays.attribute(model, transcoder, found, prompt, probability_of_target)
    best = jnp.argsort(-abs(scores))[:20]
    print(f"{int(found.count)} occurrences; the strongest: {scores[best[0]]:+.4f}")

    kl = jax.jit(partial(arrays.circuit_kl, model, transcoder, found, prompt))
    kept = jnp.zeros(len(scores)).at[best].set(1.0)
    print(f"KL with nothing kept {kl(jnp.zeros_like(kept)):.4f}, with 20 kept {kl(kept):.4f}")

    # A soft mask, learned: KL plus a price for every occurrence that is kept.
    def loss(logits: jax.Array) -> jax.Array:
        mask = jax.nn.sigmoid(logits)
        return kl(mask) + 1e-3 * (mask * found.valid).sum()

    step = jax.jit(jax.value_and_grad(loss))
    logits = jnp.zeros_like(scores)
    first, gradient = step(logits)
    for _ in range(50):
        value, gradient = step(logits)
        logits = logits - 50.0 * gradient
    print(f"loss of the soft mask {first:.4f} -> {value:.4f}")
    assert value < first

    on_mesh(model, transcoder, prompt, corrupted, found, kept, kl(kept))


def on_mesh(model, transcoder, prompt, corrupted, found, kept, expected) -> None:
    """Many prompts side by side, over a mesh of the caller: prompts along one axis, decoder rows
    along the other."""
    if jax.device_count() < 8:
        print("fewer than 8 devices: the mesh is left out")
        return
    mesh = jax.make_mesh((4, 2), ("replica", "tensor"), axis_types=(AxisType.Auto,) * 2)
    columns = NamedSharding(mesh, P(None, "tensor"))
    transcoder = transcoder._replace(table=jax.device_put(transcoder.table, columns))
    rows = NamedSharding(mesh, P("replica"))
    prompts, others, masks = jax.device_put(
        jax.tree.map(lambda x: jnp.stack([x] * 8), (prompt, corrupted, kept)), rows
    )

    @jax.jit
    @jax.vmap
    def kl_of(prompt, corrupted, mask):
        again = arrays.occurrences(model, transcoder, prompt, corrupted, size=len(mask))
        return arrays.circuit_kl(model, transcoder, again, prompt, mask)

    values = kl_of(prompts, others, masks)
    assert jnp.allclose(values, expected, rtol=1e-4, atol=1e-6), (values, expected)
    print(f"8 prompts on {mesh.shape_tuple}: KL {values[0]:.4f} each, as {values.sharding.spec}")


if __name__ == "__main__":
    main()
