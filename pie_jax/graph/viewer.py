"""A folder that circuit-tracer's own page opens: graphs, their list, and features' examples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pie_jax.errors import InputError
from pie_jax.features.promoted import PromotedTokens
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.features.texts import Reader
from pie_jax.files.atomic import replacing
from pie_jax.graph.json_file import cantor, write_json
from pie_jax.graph.listing import kept_nodes
from pie_jax.graph.types import Graph, Pruned

LIST = "graph-metadata.json"
Examples = Mapping[FeatureKey, FeatureExamples]
Promoted = Mapping[FeatureKey, Sequence[PromotedTokens]]
# Windows of a feature's record: the strongest, and of each tenth of the range.
_TOP, _TENTH = 20, 5


def write_viewer_folder(
    folder: str | Path,
    graph: Graph,
    pruned: Pruned,
    *,
    slug: str,
    scan: str,
    examples: Examples | None = None,
    promoted: Promoted | None = None,
    read: Reader | None = None,
    **options: Any,
) -> None:
    """Write a graph into a folder for circuit-tracer's `serve(data_dir=folder)`.

    Enters the graph in `graph-metadata.json`, beside those that are there. Where `examples` or
    `promoted` tokens are given, every kept feature gets a JSON file under `features/`, and the
    graph's `scan` leads there instead of to a repository; `read` turns a window into text.
    `options` are the others of `write_json`.

    Raises `InputError` where the folder's list is broken, or as `write_json` does.
    """
    given = examples is not None or promoted is not None
    if examples and read is None:
        raise ValueError("examples need `read`, which turns their windows into text")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = _listed(folder / LIST)
    # The server gives out everything in the folder under this address.
    store = f"features/{re.sub(r'[^A-Za-z0-9_.-]+', '--', scan).strip('.') or 'features'}"
    about = write_json(
        folder / f"{slug}.json",
        graph,
        pruned,
        slug=slug,
        scan=f"./graph_data/{store}" if given else scan,
        **options,
    )
    if given:
        (folder / store).mkdir(parents=True, exist_ok=True)
        keys = {FeatureKey(*one.key) for one in kept_nodes(graph, pruned) if one.key is not None}
        for key in sorted(keys):
            record = feature_record(
                key, scan, (examples or {}).get(key), (promoted or {}).get(key, ()), read
            )
            _write(folder / store / f"{cantor(*key)}.json", record)
    graphs = [one for one in listed if one.get("slug") != slug] + [about]
    _write(folder / LIST, {"graphs": graphs})


def feature_record(
    key: FeatureKey,
    scan: str,
    found: FeatureExamples | None,
    promoted: Sequence[PromotedTokens],
    read: Reader | None,
) -> dict[str, Any]:
    """Return a feature's JSON; keys of what is not known are left out, its lists are empty."""
    record: dict[str, Any] = {
        "transcoder_id": scan,
        "index": cantor(*key),
        "examples_quantiles": [],
        "top_logits": [token.text for one in promoted[:1] for token in one.promoted],
        "bottom_logits": [token.text for one in promoted[:1] for token in one.suppressed],
    }
    if found is None:
        return record
    assert read is not None
    groups = [("Top activations", found.top[:_TOP])]
    for tenth in range(len(found.deciles) - 1, -1, -1):
        name = f"{10 * tenth} to {10 * tenth + 10}% of the largest activation"
        groups.append((name, found.deciles[tenth][:_TENTH]))
    record["examples_quantiles"] = [
        {"quantile_name": name, "examples": [_example(window, read) for window in windows]}
        for name, windows in groups
        if windows
    ]
    if found.maximum > 0:
        record |= {"act_min": 0.0, "act_max": float(found.maximum)}
        if found.histogram.sum() > 0:
            record["histogram"] = found.histogram.tolist()
            record["quantile_values"] = quantiles(found.histogram, found.maximum)
    if found.frequency is not None:
        record["activation_frequency"] = found.frequency
    return record


def quantiles(histogram: np.ndarray, maximum: float) -> list[float]:
    """Return the activations below which 1, 2, ... 100 percent of the active tokens lie.

    Known to the width of the histogram's steps of (0, `maximum`]: the step's upper end.
    """
    share = np.cumsum(histogram) / histogram.sum()
    steps = np.searchsorted(share, np.arange(1, 101) / 100 - 1e-12)
    return ((steps + 1) * maximum / len(histogram)).tolist()


def _example(window: Window, read: Reader) -> dict[str, Any]:
    text = read(window)
    return {
        "tokens": list(text.tokens),
        "tokens_acts_list": list(text.activations),
        "train_token_ind": int(np.argmax(text.activations)),
        "is_repeated_datapoint": False,
    }


def _listed(path: Path) -> list[dict[str, Any]]:
    """Return the graphs that the folder's list has; none where there is no list yet."""
    try:
        graphs = json.loads(path.read_bytes())["graphs"]
        if not isinstance(graphs, list) or not all(isinstance(one, dict) for one in graphs):
            raise TypeError("graphs is no list of objects")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: is not a list of graphs ({error}); remove it or name another folder."
        ) from error
    return graphs


def _write(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, allow_nan=False), encoding="ascii")
