"""Options of the commands of stages II and III: whose features, and which LLMs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pie_jax.errors import InputError
from pie_jax.terminal import console, errors

if TYPE_CHECKING:
    from pie_jax.llm import Estimate, Prices
    from pie_jax.llm.roles import Roles

Method = Annotated[
    str | None,
    typer.Option("--method", help="Whose kept features; default: the run's first method."),
]
Budget = Annotated[
    int | None, typer.Option("--budget", help="At which budget; default: the run's middle one.")
]
Features = Annotated[
    int, typer.Option(help="At most so many kept features, those of most prompts first; 0: all.")
]
Baselines = Annotated[
    int, typer.Option(help="Random active, and strongest, features to compare with; 0: none.")
]
MovedModel = Annotated[str | None, typer.Option("--model", help="The run's, if it has moved.")]
MovedTranscoder = Annotated[
    str | None, typer.Option("--transcoder", help="The run's, if it has moved.")
]
Explainer = Annotated[
    str | None,
    typer.Option(help="llm or patterns; default: llm with --base-url, else patterns."),
]
Judge = Annotated[
    str | None,
    typer.Option(help="llm or patterns; default: llm with a base URL, else patterns."),
]
BaseUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")
]
JudgeBaseUrl = Annotated[
    str | None, typer.Option(help="The judge's server, if it is another than --base-url.")
]
ExplainerModel = Annotated[str | None, typer.Option(help="The explainer's name on its server.")]
JudgeModel = Annotated[str | None, typer.Option(help="The judge's; default: the explainer's.")]
ApiKeyEnv = Annotated[
    str, typer.Option(help="Environment variable that holds the key; empty sends none.")
]
Concurrency = Annotated[int, typer.Option(help="Calls at once.")]
Rpm = Annotated[int | None, typer.Option(help="Requests a minute, of each role.")]
Tpm = Annotated[int | None, typer.Option(help="Tokens a minute, of each role.")]
MaxCalls = Annotated[
    int | None, typer.Option(help="Calls that this results folder may take, reruns included.")
]
MaxCost = Annotated[
    float | None, typer.Option(help="Money that this results folder may take; needs --prices.")
]
MaxOutputTokens = Annotated[
    int, typer.Option(help="Tokens that a reply may have, reasoning included.")
]
Timeout = Annotated[float, typer.Option(help="Seconds that a reply may take.")]
PricesOption = Annotated[
    str | None,
    typer.Option("--prices", help="PROMPT,COMPLETION: money a million tokens, such as 0.15,0.6."),
]
JudgePrices = Annotated[
    str | None, typer.Option("--judge-prices", help="The judge's, if they differ.")
]
Scorers = Annotated[
    str,
    typer.Option(
        help="Comma-separated: clarity, responsiveness, purity, detection, fuzzing, "
        "steering-faithfulness."
    ),
]
Preset = Annotated[str, typer.Option(help="How many texts: pie (few), default or fade (many).")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say how many calls and tokens it would take.")
]

SCORERS = "clarity,responsiveness,purity,detection,fuzzing"


def prices(text: str | None, option: str) -> Prices | None:
    """Read PROMPT,COMPLETION."""
    from pie_jax.llm import Prices

    if text is None:
        return None
    try:
        prompt, completion = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"{option}: `{text}` is not two numbers like 0.15,0.6.") from error
    return Prices(prompt, completion)


def report_failures(folder: Path, name: str) -> None:
    """Say why calls of a stage failed: the commonest reason of each role, in the server's words."""
    from pie_jax.files.stage_record import load_stages
    from pie_jax.llm.failures import Failures

    rows = load_stages(folder)[name]["llm_failures"]
    for client in dict.fromkeys(row["client"] for row in rows):
        reasons = {row["reason"]: row["calls"] for row in rows if row["client"] == client}
        errors.print(Failures(Counter(reasons)).sentence(client), markup=False, highlight=False)


def report_estimate(stage: str, roles: Roles, found: Estimate) -> None:
    """Say what a stage would take."""
    asks = roles.explainer_config or roles.judge_config
    said = str(found) if asks else "no calls: patterns ask no LLM"
    console.print(f"{stage} would take {said}", highlight=False)
