"""The command line: reads what was asked, runs it, prints a short summary. The work is in `pipeline`."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from probe.commands.circuit import circuit, matrix, overlap
from probe.commands.compare import compare
from probe.commands.export import export
from probe.commands.job import Job, numbers
from probe.commands.options import (
    Bos,
    Context,
    Depths,
    Device,
    Dtype,
    Fresh,
    Json,
    Lengths,
    Model,
    Out,
    Seed,
    Sequences,
    Sinks,
    Text,
    Trials,
    Window,
    visible,
)
from probe.commands.study import ablate, run_study, tasks
from probe.progress import on_terminal

if TYPE_CHECKING:
    from probe.commands.pipeline import Outcome

BAD_INPUT, INTERRUPTED = 2, 130
# Newer typers carry a click of their own; the base class of its errors is reached by one that they export.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])

app = typer.Typer(
    help="What every attention head of a pretrained model does, at any length.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

ALL_DEPTHS = "0,25,50,75,100"
DEFAULT_MODEL, DEFAULT_OUT = "smollm2-135m", Path("out/report")
Reported = Annotated[
    list[str] | None,
    typer.Argument(help="A model (see `probe models`; default smollm2-135m), or folders of results of one model."),
]
ReportOut = Annotated[
    Path | None, typer.Option("--out", help="Folder to write. Default: out/report; of one results folder, that folder.")
]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")] = False,
) -> None:
    """Options of all commands; `--debug` is read in `main`, wherever it stands."""


@app.command()
def report(
    given: typer.Context,
    model: Reported = None,
    out: ReportOut = None,
    text: Text = None,
    context: Context = None,
    sequences: Sequences = 8,
    bos: Bos = False,
    window: Window = 64,
    sinks: Sinks = 4,
    lengths: Lengths = None,
    depths: Depths = ALL_DEPTHS,
    trials: Trials = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Scan every head of a model, find the retrieval heads, and write a page; or write the page of results again."""
    names = model or [DEFAULT_MODEL]
    if len(names) > 1 or _holds_results(names[0]):
        _again(names, out, given, as_json)
        return
    _finish(
        _job(
            "report", names[0], out or DEFAULT_OUT, text=text, context=context, sequences=sequences, bos=bos,
            window=window, sinks=sinks, lengths=lengths, depths=depths, trials=trials, dtype=dtype, device=device,
            seed=seed, fresh=fresh,
        ),
        as_json,
    )  # fmt: skip


@app.command()
def scan(
    model: Model,
    out: Out,
    tokens: Annotated[
        Path | None, typer.Option(help="JSON file with a list of lists of ids, read as they are.")
    ] = None,
    text: Text = None,
    context: Context = None,
    sequences: Sequences = 8,
    bos: Bos = False,
    window: Window = 64,
    sinks: Sinks = 4,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Measure what every head attends to, on ids or on text."""
    if tokens is not None and (text is not None or context is not None or bos):
        raise typer.BadParameter("--tokens takes ids as they are: leave out --text, --context and --bos")
    _finish(
        _job(
            "scan", model, out, tokens=tokens, text=text, context=context, sequences=sequences, bos=bos,
            window=window, sinks=sinks, dtype=dtype, device=device, seed=seed, fresh=fresh,
        ),
        as_json,
    )  # fmt: skip


@app.command()
def retrieval(
    model: Model,
    out: Out,
    text: Text = None,
    lengths: Lengths = None,
    depths: Depths = ALL_DEPTHS,
    trials: Trials = None,
    bos: Bos = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Hide needles in a text and find the heads that fetch them."""
    _finish(
        _job(
            "retrieval", model, out, text=text, lengths=lengths, depths=depths, trials=trials, bos=bos,
            dtype=dtype, device=device, seed=seed, fresh=fresh,
        ),
        as_json,
    )  # fmt: skip


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that are known by name, and whether they can be loaded here."""
    from probe.models import list_models

    rows = list_models()
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {'yes' if row.available else 'no ':<3}  {row.what} ({row.how})")
    print("Also: any hub id, local folder with safetensors, or .gguf file.")


app.command()(ablate)
app.command("run")(run_study)
app.command()(tasks)
app.command()(circuit)
app.command()(overlap)
app.command()(matrix)
app.command()(export)
app.command()(compare)


def _job(command: str, model: str, out: Path, **asked: Any) -> Job:
    if asked.get("lengths") is not None:
        asked["lengths"] = numbers("--lengths", asked["lengths"], int)
    if "depths" in asked:
        asked["depths"] = numbers("--depths", asked["depths"], float)
    return Job(command, model, out, **asked)


def _holds_results(name: str) -> bool:
    from probe.commands.report_again import holds_results

    return Path(name).is_dir() and holds_results(name)


def _again(names: list[str], out: Path | None, given: typer.Context, as_json: bool) -> None:
    """Pages from results folders; what is asked of a model is refused by name."""
    from probe.commands.report_again import report_again

    asked = [name for name in given.params if name not in ("model", "out", "as_json")]
    for name in asked:
        source = given.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name} is for a model; {names[0]} holds results, which stay as they are")
    made = report_again([Path(name) for name in names], out)
    if as_json:
        print(json.dumps({"files": [str(path) for path in made]}))
        return
    for path in made:
        print(visible(str(path)))


def _finish(job: Job, as_json: bool) -> None:
    """Run a job and print what came of it: the summary on standard output, the rest on standard error."""
    from probe.commands.pipeline import run

    with on_terminal() as progress:
        outcome = run(job, say=lambda line: print(visible(line), file=sys.stderr), progress=progress)
    if as_json:
        from probe.formats import plain

        print(json.dumps(plain({**asdict(outcome), "folder": str(outcome.folder)}), allow_nan=False))
    else:
        _print(outcome)


def _print(outcome: Outcome) -> None:
    from probe.commands.summary import retrieval_lines, role_lines

    lines = [*role_lines(outcome.roles)] if outcome.roles is not None else []
    lines += retrieval_lines(outcome.retrieval) if outcome.retrieval is not None else []
    page = outcome.folder / "report.html"
    lines.append(f"{page if 'report.html' in outcome.files else outcome.folder}: {', '.join(outcome.files)}")
    for line in lines:
        print(visible(line))


def ours(error: ValueError) -> bool:
    """Whether an error is one that this project raises for bad input (each package has its own class)."""
    return type(error).__module__.partition(".")[0] == "probe"


def main() -> NoReturn:
    """The `probe` command. Exit codes: 0; 2 for bad input, said in one line; 130 interrupted."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(arguments or ["--help"], prog_name="probe", standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _quiet()
    except OSError as error:
        # A path too long, a disk that is full: what the system refuses, in its own words.
        if debug or error.strerror is None:
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror)
    except ValueError as error:
        if debug or not ours(error):
            raise
        _fail(str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    print(f"probe: {visible(message)}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def _quiet() -> NoReturn:
    """Whoever read our output has gone: say nothing, also not when the interpreter flushes at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _terminated(number: int, frame: object) -> NoReturn:
    """Leave by an exception, so that temporary folders are removed."""
    sys.exit(128 + number)
