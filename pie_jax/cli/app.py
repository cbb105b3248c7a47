"""`pie-jax`: commands, and the one place where errors become exit codes."""

from __future__ import annotations

import io
import platform
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from pie_jax.cli.output import printable_lines
from pie_jax.cli.stages import evaluate, examples, interpret, prune, report, run
from pie_jax.cli.tools import check, compare, convert, graph, intervene, plan, tasks, train
from pie_jax.errors import PieError

app = typer.Typer(
    name="pie-jax",
    help="Find the few transcoder features that carry a language model's behaviour.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        parts = [f"{name} {version(name)}" for name in ("pie-jax", "jax", "jaxlib", "flax")]
        typer.echo(", ".join([*parts, f"Python {platform.python_version()}", platform.platform()]))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show versions and exit."
        ),
    ] = False,
) -> None:
    pass


app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("prune")(prune.prune)
app.command("examples")(examples.examples)
app.command("interpret")(interpret.interpret)
app.command("evaluate")(evaluate.evaluate)
app.command("convert")(convert.convert)
app.command("check")(check.check)
app.command("compare")(compare.compare)
app.command("intervene")(intervene.intervene)
app.command("graph")(graph.graph)
app.command("report")(report.report)
app.command("train-clt")(train.train_clt)
app.add_typer(tasks.app, name="tasks")


def main() -> None:
    """Run the command line; exit code 2 for bad input, 1 for a failure, 130 for Ctrl-C."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    _show_what_the_output_can()
    try:
        app()
    except PieError as error:
        _fail(f"error: {error}", error.exit_code, debug)
    except KeyboardInterrupt:
        _fail("interrupted; repeat the command to resume where that is offered", 130, debug)
    except MemoryError:
        _fail("error: out of memory; try a smaller --batch-size", 1, debug)
    except OSError as error:
        what = f"{error.filename or 'a file'}: {error.strerror or error}"
        _fail(f"error: {what}; mend that and repeat the command (--debug shows where)", 1, debug)
    except Exception as error:  # the last resort: one sentence, and how to see the rest
        kind = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        _fail(f"error: {kind} (a defect or a lack of memory; --debug shows where)", 1, debug)


def _show_what_the_output_can() -> None:
    """Have characters that the output has none of, such as a dash in ASCII, replaced."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    shown = Console(stderr=True, soft_wrap=True, emoji=False)
    shown.print(printable_lines(message), markup=False, highlight=False)
    raise SystemExit(code)
