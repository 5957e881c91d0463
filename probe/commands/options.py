"""The options that several commands share, and how a line looks on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="Hub id, local folder, .gguf file, smollm2-135m, planted; see `probe models`.")
]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Text = Annotated[
    Path | None,
    typer.Option(help="UTF-8 file or folder to read. Default: the help topics that every Python carries."),
]
Context = Annotated[int | None, typer.Option(help="Tokens a sequence. Default 4096; planted models 512.")]
Sequences = Annotated[int, typer.Option(help="Disjoint sequences to cut from the text.")]
Bos = Annotated[bool, typer.Option("--bos", help="Put the tokenizer's first token before every sequence.")]
Window = Annotated[int, typer.Option(help="Tokens that a local head is allowed, itself included.")]
Sinks = Annotated[int, typer.Option(help="First tokens that a streaming head keeps.")]
Lengths = Annotated[
    str | None,
    typer.Option(help="Prompt lengths in tokens. Default 256,512,1024,2048; planted models 128,256."),
]
Depths = Annotated[str, typer.Option(help="Where the needle stands, per cent of the haystack.")]
Trials = Annotated[int | None, typer.Option(help="Needles for every length and depth.")]
Dtype = Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Of everything drawn at random.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Move aside a folder that holds another run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


def visible(text: str) -> str:
    """One line for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
