"""The command line: the only package that prints or exits.

Exit codes: 0 done · 1 failed · 2 wrong usage or settings · 3 done, with rejected rows · 75 stopped,
run again. Results and summaries go to standard output, progress and messages to standard error.
"""

from __future__ import annotations

import signal
import sys

import typer

from engine.cli import bench, convert, demo, export, gc, interrupt, run, show, tune
from engine.cli.options import EVERY, taking
from engine.errors import EngineError, Stopped
from engine.version import __version__

_ONE_DEVICE = "auto, cpu, cuda or cuda:N."

app = typer.Typer(
    name="engine",
    cls=interrupt.Interruptible,
    help="Offline batch inference for pipeline-class transformers: a corpus in, Arrow out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("export")(export.export)
app.command("quantize")(export.quantize)
app.command("run", cls=taking(*EVERY))(run.run)
app.command("bench", cls=taking("text", "max_length", device=_ONE_DEVICE))(bench.bench)
app.command("tune", cls=taking("text", device=_ONE_DEVICE))(tune.tune)
app.command("demo")(demo.demo)
app.command("convert")(convert.convert)
app.command("gc")(gc.gc)
app.command("inspect")(show.inspect)
app.command("head")(show.head)
app.command("rejects")(show.rejects)
app.command("verify")(show.verify)
app.command("tasks")(show.tasks)
app.command("doctor")(show.doctor)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"corpus-engine {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Entry point: run the command, turn errors into a message and an exit code."""
    interrupt.install()
    try:
        app(standalone_mode=True)
    except EngineError as error:
        _print_error(str(error))
        if isinstance(error, Stopped):
            interrupt.leave()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _print_error("stopped")
        interrupt.leave()
    except SystemExit as end:
        # typer's own, where the signal came before the command.
        if end.code == 128 + signal.SIGINT:
            interrupt.leave()
        raise


def _print_error(text: str) -> None:
    first, _, rest = text.partition("\n")
    typer.echo(f"error: {first}" + (f"\n{rest}" if rest else ""), err=True)
