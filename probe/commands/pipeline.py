"""The three jobs of the command line, from a model's name to a folder of results."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probe.analyses.needles import NEEDLES, Needle, word_needles
from probe.analyses.retrieval import LENGTHS, cost, prepare, retrieval
from probe.analyses.retrieval_ablation import STANDARD
from probe.analyses.retrieval_result import RetrievalResult
from probe.closeups import closeups
from probe.commands.job import Job, reproduced
from probe.commands.report_again import write_card, write_page
from probe.commands.summary import heads_by_role, retrieval_summary
from probe.errors import TokensError
from probe.hooks.spec import spec_of
from probe.machine import machine, now
from probe.models import Loaded, load
from probe.planted.prompts import planted_text
from probe.planted.words import NEEDLE_WORDS, planted_words
from probe.progress import Progress, silent
from probe.results import read_results
from probe.scan import scan
from probe.store import Results, results_folder
from probe.table import HeadTable
from probe.token_file import save_tokens, token_texts
from probe.tokens import Tokens, cut_pieces, natural_text, read_ids, read_text

CONTEXT, PLANTED_CONTEXT = 4_096, 512
PLANTED_LENGTHS, PLANTED_TRIALS = (128, 256), 2
REPORT_TRIALS, TRIALS = 2, 3
SCAN_FACTOR = 1.7
"""A scan takes about this many times the plain forward that its time is foretold from: attention grows with
the context, and the statistics come on top."""
Say = Callable[[str], None]


@dataclass
class Outcome:
    """What was made: the folder, its files, and the summaries to print."""

    folder: Path
    files: list[str]
    model: str
    roles: dict[str, dict[str, Any]] | None = None
    retrieval: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def run(job: Job, *, say: Say, progress: Progress = silent) -> Outcome:
    """Load, measure, and put a whole folder in place: `job.command` is report, scan or retrieval.

    say: takes one line before anything that takes long. Raises ProbeError, HookError or KernelError, with
    nothing left half-written.
    """
    begun = time.monotonic()
    loaded = load(job.model, dtype=job.dtype, device=job.device)
    job = _filled(job, loaded)
    tokens = _tokens(job, loaded) if job.command != "retrieval" else None
    haystack = _haystack(job, loaded) if job.command != "scan" else None
    if haystack is not None:
        prepare(loaded, haystack, **_grid(job, loaded))
    seconds = {"load": time.monotonic() - begun}
    with results_folder(job.out, _asked(job, loaded, tokens, haystack), fresh=job.fresh) as results:
        say(_foretell(job, loaded, tokens, haystack))
        outcome = Outcome(Path(job.out), [], loaded.name, seconds=seconds)
        table, found = None, None
        if tokens is not None:
            with _timed(seconds, "scan"):
                table = scan(loaded, tokens.ids, sinks=job.sinks, window=job.window, seed=job.seed, progress=progress)
                table.metadata["bos"] = "none added" if tokens.bos is None else f"{tokens.bos} before each"
                table.metadata["text"] = tokens.source
            with _timed(seconds, "close-ups"):
                table = closeups(table, loaded, tokens.ids[0], progress=progress)
        if haystack is not None:
            with _timed(seconds, "retrieval"):
                found = retrieval(loaded, haystack, progress=progress, **_grid(job, loaded))
        with _timed(seconds, "write"):
            _write(job, loaded, results, table, found, tokens, outcome)
        results.run = {"seconds": seconds, "machine": machine(), "finished": now(), "command": reproduced(job)}
        outcome.files = sorted([*(path.name for path in results.path.iterdir()), "run.json"])
    return outcome


def _filled(job: Job, loaded: Loaded) -> Job:
    """The job with every default filled in; planted models are small and begin their texts with `<bos>`."""
    planted = loaded.source == "planted"
    lengths = PLANTED_LENGTHS if planted else LENGTHS
    trials = PLANTED_TRIALS if planted else REPORT_TRIALS if job.command == "report" else TRIALS
    return replace(
        job,
        context=job.context or (PLANTED_CONTEXT if planted else CONTEXT),
        lengths=job.lengths or lengths,
        trials=job.trials or trials,
        bos=job.bos or planted,
    )


def _tokens(job: Job, loaded: Loaded) -> Tokens:
    limit = spec_of(loaded.model).n_ctx
    if job.tokens is not None:
        return read_ids(job.tokens, vocabulary=_vocabulary(loaded), limit=limit)
    if loaded.tokenizer is None:
        raise TokensError(f"{loaded.name} has no tokenizer to read text with; give ids with --tokens")
    context = job.context or CONTEXT
    text, source = _text(job, loaded, min(context, limit or context) * job.sequences)
    return cut_pieces(
        loaded.tokenizer,
        text,
        length=context,
        sequences=job.sequences,
        bos=job.bos,
        limit=limit,
        source=source,
    )


def _vocabulary(loaded: Loaded) -> int:
    size = loaded.model.config.get_text_config().vocab_size
    return int(size)


def _haystack(job: Job, loaded: Loaded) -> str:
    return _text(job, loaded, 4 * max(job.lengths or LENGTHS))[0]


def _text(job: Job, loaded: Loaded, words: int) -> tuple[str, str]:
    """The text to read and its name: the file asked for, a planted model's own words, or natural text."""
    if job.text is not None:
        return read_text(job.text), job.text.name
    if loaded.source == "planted":
        return planted_text(words, seed=job.seed), "planted text"
    return natural_text(), "pydoc_data.topics"


def _needles(job: Job, loaded: Loaded) -> tuple[Needle, ...]:
    if loaded.source != "planted":
        return NEEDLES
    words = planted_words()
    return word_needles([words[token] for token in NEEDLE_WORDS], len(NEEDLE_WORDS) // 7, job.seed)


def _asked(job: Job, loaded: Loaded, tokens: Tokens | None, haystack: str | None) -> dict[str, Any]:
    """What decides the results: paths do not, the texts and weights behind them do."""
    asked = {
        name: value for name, value in asdict(job).items() if name not in ("out", "fresh", "text", "tokens", "device")
    }
    asked["weight_hash"] = loaded.weight_hash
    asked["tokens_hash"] = tokens.sha256 if tokens is not None else None
    text = None if haystack is None else hashlib.sha256(haystack.encode("utf-8", "surrogatepass")).hexdigest()
    return {**asked, "haystack_hash": text}


def _foretell(job: Job, loaded: Loaded, tokens: Tokens | None, haystack: str | None) -> str:
    """One line: how much work it is and about how long, from a short forward timed here."""
    work, parts = 0.0, []
    if tokens is not None:
        count = sum(map(len, tokens.ids))
        work += SCAN_FACTOR * (count + len(tokens.ids[0]))  # the first one again, for the close-ups
        parts.append(f"{len(tokens.ids)} sequences, {count:,} tokens")
    if haystack is not None:
        lengths, trials = job.lengths or LENGTHS, job.trials or TRIALS
        work += cost(lengths, job.depths, trials, STANDARD)
        parts.append(f"{len(lengths) * len(job.depths) * trials} needles of up to {max(lengths):,} tokens")
    seconds = work * _seconds_a_token(loaded)
    about = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{max(seconds, 1):.0f} seconds"
    return f"{loaded.name}: {', '.join(parts)}; about {about}"


def _seconds_a_token(loaded: Loaded) -> float:
    ids = torch.arange(256, device=loaded.model.device)[None]
    taken = []
    with torch.no_grad():
        for _ in range(2):
            begun = time.monotonic()
            # The first run warms up; logits of one position, so that a large vocabulary costs nothing.
            bool(loaded.model(ids, use_cache=False, logits_to_keep=1).logits.isfinite().all())
            taken.append(time.monotonic() - begun)
    return min(taken) / ids.numel()


def _grid(job: Job, loaded: Loaded) -> dict[str, Any]:
    """What a retrieval run is asked."""
    return {
        "lengths": job.lengths or LENGTHS,
        "depths": job.depths,
        "trials": job.trials or TRIALS,
        "seed": job.seed,
        "bos": job.bos,
        "needles": _needles(job, loaded),
    }


def _write(
    job: Job,
    loaded: Loaded,
    results: Results,
    table: HeadTable | None,
    found: RetrievalResult | None,
    tokens: Tokens | None,
    outcome: Outcome,
) -> None:
    """The files of the run, and the summaries of what is in them."""
    if found is not None:
        outcome.retrieval = retrieval_summary(found)
    if table is None:
        if found is not None:
            found.save(results.path)
        return
    if found is not None:
        found.save_evidence(results.path)
        table = table.with_columns(found.heads)
        table.metadata["retrieval"] = found.metadata
    table.save(results.path)
    outcome.roles = heads_by_role(table)
    if tokens is None:
        return
    written = [values for name, values in table.profiles.items() if name.partition(".")[0] == "writes"]
    texts = token_texts(loaded.tokenizer, tokens.ids, np.concatenate(written, axis=None).tolist())
    save_tokens(results.path, texts)
    if job.command == "report":
        # From the files, so that the page is the one that they give again.
        made = replace(read_results(results.path), run={"command": reproduced(job)})
        write_page(made, results.path)
        write_card(made, results.path)


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[what] = time.monotonic() - begun
