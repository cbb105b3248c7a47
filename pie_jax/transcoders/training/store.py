"""The folder of a training: checkpoints while it runs, the transcoder and a report afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from pie_jax.errors import InputError
from pie_jax.files.atomic import replacing
from pie_jax.transcoders.formats import circuit_tracer, transcoder_set
from pie_jax.transcoders.modules import CrossLayerTranscoder
from pie_jax.transcoders.training.report import TrainReport, read_report

_REPORT = "training_report.json"
_WORK = ".training"


class TrainStore:
    """What a training keeps in `out`; `run` is all that its result depends on.

    Raises `InputError` where `out` holds files of anything but this run.
    """

    def __init__(self, out: Path, run: dict[str, Any]):
        self._out, self._work = out.absolute(), out.absolute() / _WORK
        self._report = self._out / _REPORT
        # As it is read back, so that the two compare.
        self.run = json.loads(json.dumps(run))
        self._require_own()

    def finished(self) -> TrainReport | None:
        """Return the report of a finished training, and clear what it left."""
        if not self._report.exists():
            return None
        shutil.rmtree(self._work, ignore_errors=True)
        return read_report(self._report)

    @contextmanager
    def checkpoints(self) -> Iterator[Checkpoints]:
        """Open the checkpoints of this run."""
        self._work.mkdir(parents=True, exist_ok=True)
        _write_json(self._work / "run.json", self.run)
        policy = ocp.training.preservation_policies.LatestN(2)
        folder = self._work / "checkpoints"
        with ocp.training.Checkpointer(folder, preservation_policy=policy) as inner:
            yield Checkpoints(inner)

    def publish(self, clt: CrossLayerTranscoder, report: TrainReport) -> None:
        """Move the transcoder and last its report into place, then drop the checkpoints."""
        draft = self._work / "draft"
        layout = circuit_tracer if clt.config.cross_layer else transcoder_set
        layout.save_transcoder(clt, draft)
        report.write(draft / _REPORT)
        names = sorted(path.name for path in draft.iterdir())
        # The report comes last: where it is, everything is.
        for name in sorted(names, key=lambda name: name == _REPORT):
            os.replace(draft / name, self._out / name)
        shutil.rmtree(self._work)

    def _require_own(self) -> None:
        if self._out.exists() and not self._out.is_dir():
            raise InputError(f"{self._out} is a file; name a folder for the transcoder.")
        if self._report.exists():
            self._require_same(_read_json(self._report).get("run"))
        elif (self._work / "run.json").exists():
            self._require_same(_read_json(self._work / "run.json"))
        elif self._out.exists() and any(path.name != _WORK for path in self._out.iterdir()):
            raise InputError(f"{self._out} holds other files; name a new or empty folder.")

    def _require_same(self, found: Any) -> None:
        if found == self.run:
            return
        raise InputError(
            f"{self._out} holds a training with other {_difference(found, self.run)}; use those "
            "again, or name another folder."
        )


class Checkpoints:
    """The states of one run by step; each is whole, as orbax renames it into place."""

    def __init__(self, inner: ocp.training.Checkpointer):
        self._inner = inner

    def newest(self, like: Any) -> tuple[int, Any] | None:
        """Return the last step saved and its tree, in the shapes and types of `like`."""
        newest = self._inner.latest
        if newest is None:
            return None
        return newest.step, self._inner.load(newest.step, jax.tree.map(_abstract, like))

    def save(self, step: int, tree: Any) -> None:
        """Write the tree of a step and return once it is on disk."""
        self._inner.save(step, tree)


def _abstract(leaf: Any) -> Any:
    if not hasattr(leaf, "shape"):
        return leaf
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _difference(found: Any, run: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return "settings"
    for part, values in run.items():
        theirs = found.get(part)
        if theirs == values:
            continue
        if part != "options" or not isinstance(theirs, dict):
            return f"{part} files"
        return ", ".join(
            f"`{key}` ({theirs.get(key)}, now {values.get(key)})"
            for key in {**theirs, **values}
            if theirs.get(key) != values.get(key)
        )
    return "settings"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a file of a training; name another folder.") from error
    return raw if isinstance(raw, dict) else {}


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
