"""Pages of the site that no file of docs/ holds: the API, the notebooks, and the repository's top.

mkdocs calls the hooks `on_files` and `on_page_markdown`; see mkdocs.yml.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the tree's own, which names its parts without importing them

import pie_jax  # noqa: E402

# Every public name of pie_jax belongs to one group; a new one that has none stops the build.
GROUPS = {
    "Models and transcoders": (
        "load_model LanguageModel load_transcoder Transcoder transcoder_in_memory convert"
        " check_transcoder"
    ),
    "Pairs of prompts": "load_pairs Pair TokenPair prompt_pair",
    "Prune": (
        "prune PruneOptions PruneResult load_result own_metric prune_task TaskResult"
        " load_task_result"
    ),
    "Interpret and evaluate": (
        "Chosen examples_run store_examples_run make_roles estimate_interpretation interpret_run"
        " estimate_evaluation evaluate_run report_run"
    ),
    "Graphs and interventions": (
        "attribution_graph attribution_graphs graph_prompt graph_run task_graph prompt_difference"
        " task_difference intervene Change generate"
    ),
    "Devices": "make_mesh adopted_mesh",
    "Errors": "InputError PieError",
}
# What is called by its package, and the same under a second name.
CALLABLE = {
    "prune": "pie_jax.prune.run.prune",
    "intervene": "pie_jax.intervene.run.intervene",
    "InputError": "pie_jax.errors.InputError",
    "PieError": "pie_jax.errors.PieError",
}
NOT_LISTED = {"prune_pairs"}
TOP = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to those of docs/."""
    made = {
        "api/index.md": _public_names(),
        "api/arrays.md": _package("arrays", "pie_jax.arrays"),
        "api/kernels.md": _package("kernels", "pie_jax.kernels"),
        "changelog.md": _from_top("CHANGELOG.md"),
        "contributing.md": _from_top("CONTRIBUTING.md"),
    }
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = _notebook(path)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links that leave docs/ to the pages made of what lies there."""
    for name, page in TOP.items():
        markdown = re.sub(rf"\]\(\.\./{re.escape(name)}(#[\w-]+)?\)", rf"]({page}\1)", markdown)
    return re.sub(r"\]\(\.\./(notebooks/[\w-]+)\.ipynb\)", r"](\1.md)", markdown)


def _from_top(name: str) -> str:
    """Return a page of the repository's top, its links as seen from docs/."""
    return (ROOT / name).read_text("utf-8").replace("](docs/", "](")


def _entry(path: str, shown: str) -> str:
    return f"::: {path}\n    options:\n      heading: {shown}\n      toc_label: {shown}\n"


def _public_names() -> str:
    where = {
        **{
            name: f"{module}.{pie_jax._OTHERWISE.get(name, name)}"
            for name, module in pie_jax._WHERE.items()
        },
        **CALLABLE,
    }
    listed = " ".join(GROUPS.values()).split()
    wanted = where.keys() - NOT_LISTED
    if len(listed) != len(set(listed)) or set(listed) != wanted:
        raise SystemExit(f"docs/_site/pages.py: GROUPS differs in {set(listed) ^ wanted}")
    lines = [
        "# pie_jax\n",
        "The names of `import pie_jax`. [`pie_jax.arrays`](arrays.md) and",
        "[`pie_jax.kernels`](kernels.md) have pages of their own.\n",
    ]
    for group, names in GROUPS.items():
        lines += [f"## {group}\n", *(_entry(where[name], name) for name in names.split())]
    return "\n".join(lines)


def _package(folder: str, name: str) -> str:
    """Return the page of a package: its docstring's first paragraph, and all that it exports."""
    tree = ast.parse((ROOT / "pie_jax" / folder / "__init__.py").read_text("utf-8"))
    about = (ast.get_docstring(tree) or "").split("\n\n")[0]
    (exported,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    entries = (_entry(f"{name}.{one}", one) for one in exported)
    return "\n".join([f"# {name}\n", f"{about}\n", *entries])


def _notebook(path: Path) -> str:
    """Return a notebook as a page: text, code, and the text that the code printed."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            if text:
                parts.append(f"```text\n{''.join(text).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
