"""Files that are almost right: every one is read, or refused in one sentence.

    python -m benchmarks.fuzz [--cases 100000] [--only config.json] [--seed 0]

Cases are config.json, config.yaml, the header of safetensors, tokenizer files and pairs, with
values, keys or bytes of working ones changed by hypothesis (extra `dev`). A case fails where it
ends in anything but a result or an `InputError` of one line, or takes more than ten seconds; the
smallest such file is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names of repositories may come out of a mutation; none is fetched.
os.environ["HF_HUB_OFFLINE"] = "1"

import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from pie_jax.errors import InputError
from pie_jax.files.tensor_reader import TensorFile
from pie_jax.models.config import PRESETS
from pie_jax.models.families import FAMILIES
from pie_jax.models.loader import load_model_tokenizer, read_config
from pie_jax.models.tokenizer import load_tokenizer
from pie_jax.tasks import read_pairs
from pie_jax.tasks.encode import encode_pairs
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.formats import circuit_tracer, transcoder_set
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.modules import CrossLayerTranscoder, Encoder

SECONDS = 10.0
_NOTABLE = (0, -1, 1, 2**31, 10**9, 10**17, 2**63, 10**400, 1e-320, float("nan"), float("inf"))
_WORDS = ("", "relu", "topk", "F32", "BF16", "I64", "hf://a/b/c", "../x", "\n", "\0", "\ud800", "é")
_LAYERS, _WIDTH, _FEATURES = 2, 4, 6


@dataclass(frozen=True)
class Target:
    """One kind of file: what it is in `folder`, what changes it, and what reads the folder."""

    name: str
    file: str
    cases: Callable[[bytes], st.SearchStrategy[bytes]]
    make: Callable[[Path], None]
    read: Callable[[Path], Any]


class Broken(Exception):
    """A case that did not end as it should."""


# Strategies


def _values() -> st.SearchStrategy[Any]:
    """Return any JSON value, notable ones more often."""
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(_NOTABLE),
        st.sampled_from(_WORDS),
        st.integers(-10, 100),
        st.floats(),
        st.text(max_size=8),
    )
    return st.recursive(
        plain,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=6,
    )


def paths_of(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where all values of a JSON document stand, the whole of it first."""
    found = [before]
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value[:3])
        for key, inner in pairs:
            found += paths_of(inner, (*before, key))
    return found


def changed_json(base: Any) -> st.SearchStrategy[Any]:
    """Return JSON documents like `base`, up to three of their values replaced, gone or new."""
    where = st.sampled_from(paths_of(base))
    kind = st.sampled_from(("replace", "replace", "remove", "add"))
    change = st.tuples(where, kind, st.text(max_size=8), _values())
    return st.lists(change, max_size=3).map(lambda changes: _apply(base, changes))


def _apply(base: Any, changes: list[tuple[tuple[Any, ...], str, str, Any]]) -> Any:
    whole = {"": json.loads(json.dumps(base))}
    for path, kind, name, value in changes:
        *before, last = ("", *path)
        at: Any = whole
        for key in before:
            at = _inside(at, key)
        inside = _inside(at, last)
        if kind == "add" and isinstance(inside, dict):
            inside[name] = value
        elif kind == "remove" and path and _has(at, last):
            del at[last]
        elif at is not None and _has(at, last):
            at[last] = value
    return whole[""]


def _has(at: Any, key: Any) -> bool:
    if isinstance(at, dict):
        return key in at
    return isinstance(at, list) and isinstance(key, int) and key < len(at)


def _inside(at: Any, key: Any) -> Any:
    return at[key] if _has(at, key) else None


def changed_bytes(base: bytes) -> st.SearchStrategy[bytes]:
    """Return `base` with some bytes replaced, cut out, put in, or gone from the end."""
    edit = st.tuples(st.integers(0, len(base)), st.integers(0, 20), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]], end: int | None) -> bytes:
        out = base
        for at, gone, new in edits:
            out = out[:at] + new + out[at + gone :]
        return out[:end]

    return st.builds(apply, st.lists(edit, max_size=3), st.none() | st.integers(0, len(base)))


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def json_cases(base: bytes) -> st.SearchStrategy[bytes]:
    """Return JSON files like `base`, which is one."""
    return changed_json(json.loads(base)).map(_dumped) | changed_bytes(base)


def lines_cases(base: bytes) -> st.SearchStrategy[bytes]:
    """Return files of JSON lines like `base`."""
    rows = [json.loads(line) for line in base.splitlines()]
    return changed_json(rows).map(_lines) | changed_bytes(base)


def _lines(rows: Any) -> bytes:
    return b"\n".join(map(_dumped, rows if isinstance(rows, list) else [rows]))


def yaml_cases(base: bytes) -> st.SearchStrategy[bytes]:
    """Return YAML files like `base`; JSON is YAML."""
    import yaml

    return changed_json(yaml.safe_load(base)).map(_dumped) | changed_bytes(base)


def header_cases(base: bytes) -> st.SearchStrategy[bytes]:
    """Return safetensors files like `base`, their headers and sizes changed."""
    length = struct.unpack("<Q", base[:8])[0]
    header, data = json.loads(base[8 : 8 + length]), base[8 + length :]

    def joined(changed: Any, off: int) -> bytes:
        text = _dumped(changed)
        return struct.pack("<Q", max(0, min(len(text) + off, 2**64 - 1))) + text + data

    off = st.just(0) | st.sampled_from((-1, 1, 2**62, -(10**6)))
    return st.builds(joined, changed_json(header), off) | changed_bytes(base)


# What is read


def _made_transcoder(cross_layer: bool) -> CrossLayerTranscoder:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    sizes = (_LAYERS, _WIDTH, _FEATURES)
    config = TranscoderConfig(*sizes, "jumprelu", cross_layer=cross_layer, model_name="made")
    encoders = [
        Encoder(draw(_FEATURES, _WIDTH), draw(_FEATURES), abs(draw(_FEATURES)))
        for _ in range(_LAYERS)
    ]
    decoders = [draw(_FEATURES, config.targets(layer), _WIDTH) for layer in range(_LAYERS)]
    return CrossLayerTranscoder(config, encoders, decoders, draw(_LAYERS, _WIDTH))


def _make_clt(folder: Path) -> None:
    circuit_tracer.save_transcoder(_made_transcoder(True), folder)


def _make_set(folder: Path) -> None:
    transcoder_set.save_transcoder(_made_transcoder(False), folder)


def _read_transcoder(folder: Path) -> None:
    transcoder = load_transcoder(folder, encoders_on_disk=True)
    for layer in range(transcoder.config.num_layers):
        transcoder.rows(layer, np.array([0]))
        transcoder.encoder(layer)


def _read_tensors(folder: Path) -> None:
    file = TensorFile(folder / "layer_0.safetensors")
    for name in file.names():
        np.asarray(file.tensor(name, file.shape(name)))


def _make_config(family: str) -> Callable[[Path], None]:
    preset = next(config for config in PRESETS.values() if config.family == family)
    raw = FAMILIES[family].unparse(preset)
    return lambda folder: (folder / "config.json").write_text(json.dumps(raw))  # type: ignore


def _make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = ["<unk>", "<s>", "</s>", "▁", "▁When", "▁Ann", "▁met", "ing"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    inner.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def _read_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, 8)
    tokenizer.first_token()
    tokenizer.decode(tokenizer.encode("When Ann met</s>"))
    tokenizer.answer_id(" Ann")


def _make_pairs(folder: Path) -> None:
    prompt = "When Mary and John went to the store, John gave a drink to"
    row = {"clean": prompt, "corrupted": [prompt.replace("John gave", "Anne gave")]}
    answers = {"target": " Mary", "distractor": " John"}
    rows = [{**row, **answers}, {**row, "corrupted": row["corrupted"][0], **answers}]
    (folder / "pairs.jsonl").write_bytes(_lines(rows))


def _read_pairs(folder: Path) -> None:
    pairs = read_pairs(folder / "pairs.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encode_pairs(pairs, load_model_tokenizer("demo"), needs_target=True)


TARGETS = (
    *(
        Target(
            f"config.json of {family}",
            "config.json",
            json_cases,
            _make_config(family),
            lambda folder: read_config(folder / "config.json"),
        )
        for family in FAMILIES
    ),
    Target("config.yaml of a CLT", "config.yaml", yaml_cases, _make_clt, _read_transcoder),
    Target("config.yaml of a set", "config.yaml", yaml_cases, _make_set, _read_transcoder),
    Target("header", "layer_0.safetensors", header_cases, _make_set, _read_tensors),
    Target(
        "safetensors of a set", "layer_1.safetensors", header_cases, _make_set, _read_transcoder
    ),
    Target(
        "safetensors of a CLT", "W_enc_0.safetensors", header_cases, _make_clt, _read_transcoder
    ),
    Target("tokenizer.json", "tokenizer.json", json_cases, _make_tokenizer, _read_tokenizer),
    Target(
        "tokenizer_config.json",
        "tokenizer_config.json",
        json_cases,
        _make_tokenizer,
        _read_tokenizer,
    ),
    Target("pairs", "pairs.jsonl", lines_cases, _make_pairs, _read_pairs),
)


# Running


def check(target: Target, folder: Path, content: bytes) -> None:
    """Read one case; raises `Broken` unless that ends in a result or in one sentence."""
    (folder / target.file).write_bytes(content)
    began = time.monotonic()
    try:
        target.read(folder)
    except InputError as error:
        if not str(error).strip() or len(str(error).splitlines()) != 1:
            raise Broken(f"not one line: {str(error)!r}") from error
    except BaseException as error:  # a panic of Rust code is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Broken("".join(traceback.format_exception(error)[-3:])) from error
    if time.monotonic() - began > SECONDS:
        raise Broken(f"took {time.monotonic() - began:.0f} seconds")


def fuzz(target: Target, cases: int, seed: int = 0) -> None:
    """Read so many cases of a target; raises what `check` raises, for the smallest case found."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    target.make(folder)
    base = (folder / target.file).read_bytes()

    @seeded(seed)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.cases(base))
    def every(content: bytes) -> None:
        check(target, folder, content)

    try:
        check(target, folder, base)
        every()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz")
    parser.add_argument("--cases", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--only", default="", help="targets whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    chosen = [target for target in TARGETS if options.only in target.name]
    failed = 0
    for target in chosen:
        began, each = time.monotonic(), -(-options.cases // len(chosen))
        try:
            fuzz(target, each, options.seed)
            said = "fine"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            said = "FAILED\n" + "".join(traceback.format_exception_only(error))
            said += "".join(getattr(error, "__notes__", []))
            for one in getattr(error, "exceptions", ()):
                said += f"\n{one}" + "".join(getattr(one, "__notes__", []))
        print(
            f"{target.name}: {each:,} cases, {time.monotonic() - began:.0f} s: {said}", flush=True
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
