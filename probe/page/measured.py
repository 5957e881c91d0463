"""What was measured, and how: the page's first lines."""

from __future__ import annotations

from typing import Any

from probe.page.findings import kept
from probe.page.material import Material
from probe.text import tokens_in_words


def summary(page: Material) -> str:
    """The model's size, what was read, and what every study did, in a sentence each."""
    frame, metadata = page.table.frame, page.table.metadata
    layers = len(frame[["stack", "kind", "layer"]].drop_duplicates())
    n, length = metadata.get("n_sequences"), metadata.get("length")
    heads = f"{len(frame)} heads in {layers} layers"
    text = f", read on {n} {'sequence' if n == 1 else 'sequences'}" if n is not None else ""
    text += f" of {tokens_in_words(length)}" if length is not None else ""
    bos = f" Begin-of-sequence token: {metadata['bos']}." if metadata.get("bos") is not None and n is not None else ""
    return " ".join([f"{heads}{text}.{bos}", *(chapter.summary for chapter in page.chapters if chapter.summary)])


def measured(page: Material) -> list[str]:
    """How: the model as it ran, the text, what the scan and the retrieval run did; only what the files record."""
    return [line for line in (_model(page.table.metadata), _scan(page), _retrieval(page)) if line]


def _model(metadata: dict[str, Any]) -> str:
    parts = [str(metadata[name]) for name in ("dtype", "device") if metadata.get(name)]
    weights = metadata.get("weight_hash")
    told = f"Model: {metadata.get('model', 'unnamed')}" + (f", {' on '.join(parts)}" if parts else "")
    return told + (f", weights {str(weights)[:12]}…." if weights else ".")


def _scan(page: Material) -> str:
    metadata = page.table.metadata
    if not page.table.scanned:
        return ""
    text = f"Text: {metadata['text']}. " if metadata.get("text") else ""
    return (
        f"{text}Attention was read where the model computes it, from its own queries and keys, at full length; "
        f"patterns on repeated random tokens too; streaming keeps {kept(page.table)}."
    )


def _retrieval(page: Material) -> str:
    if page.run is None:
        return ""
    lengths = sorted({int(trial["length"]) for trial in page.run.trials})
    removal = ", and recall with retrieval heads removed beside random heads of the same layers" if len(
        page.run.ablation) else ""  # fmt: skip
    between = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"
    return f"Retrieval: {len(page.run.trials)} sentences hidden in {between} tokens, each with its control{removal}."
