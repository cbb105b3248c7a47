"""Make tests/golden/models and tests/golden/logits.npz with transformers.

    pip install -e '.[parity]' && python tests/golden/make_logits.py [CASE ...]

What it wrote is committed, so that the tests need neither torch nor this script.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hf_models import CASES, build, observe, random_tokens, write

HERE = Path(__file__).parent


def main(names: Sequence[str]) -> None:
    """Write the named cases' checkpoints, or all, and what transformers computes with them."""
    golden: dict[str, np.ndarray] = {}
    if names:
        with np.load(HERE / "logits.npz") as stored:
            golden.update(stored)
    else:
        shutil.rmtree(HERE / "models", ignore_errors=True)
    for seed, case in enumerate(CASES):
        if names and case.name not in names:
            continue
        model, tokens = build(case, seed), random_tokens(seed)
        write(model, case, HERE / "models" / case.name)
        seen = observe(model, tokens)
        golden[f"{case.name}/tokens"] = tokens.astype(np.int16)
        golden[f"{case.name}/logits"] = seen["logits"]
        # One prompt is enough to tell which layer goes wrong.
        golden[f"{case.name}/resid_mid"] = seen["resid_mid"][0]
        golden[f"{case.name}/mlp_out"] = seen["mlp_out"][0]
    np.savez_compressed(HERE / "logits.npz", **golden)


if __name__ == "__main__":
    main(sys.argv[1:])
