"""Preparation of a run on a mesh: where weights lie, and how large batches are."""

from __future__ import annotations

from dataclasses import replace

from jax.sharding import Mesh

from pie_jax.devices.mesh import DATA, MODEL, mesh_of
from pie_jax.devices.placement import move, move_encoder
from pie_jax.devices.shapes import multiple
from pie_jax.errors import InputError
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.options import PruneOptions
from pie_jax.transcoders.store import Transcoder


def on_mesh(
    model: LanguageModel, transcoder: Transcoder, mesh: Mesh | None
) -> tuple[LanguageModel, Transcoder]:
    """Return model and transcoder with their weights on a mesh; what is there already stays.

    Without a mesh it is the one that either was loaded on; where there is none, nothing changes.
    """
    mesh = mesh or transcoder.mesh or mesh_of(model.transformer.embedding.get_value())
    if mesh is not None and set(mesh.axis_names) != {DATA, MODEL}:
        raise InputError(
            f"mesh: its axes are {', '.join(map(str, mesh.axis_names))}; say which is which with "
            'pie_jax.adopted_mesh(mesh, data="...", model="...").'
        )
    if mesh is None:
        return model, transcoder
    encoders = tuple(move_encoder(encoder, mesh) for encoder in transcoder.resident)
    return (
        replace(model, transformer=move(model.transformer, mesh)),
        replace(transcoder, resident=encoders, mesh=mesh),
    )


def whole_batches(options: PruneOptions, mesh: Mesh | None) -> PruneOptions:
    """Round the batch size up, so that every device along `data` has as many prompts."""
    if mesh is None:
        return options
    return replace(options, batch_size=multiple(options.batch_size, mesh.shape[DATA]))
