"""The main job: a model and tokens in, one row a head out, in one forward pass a sequence and no T × T map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import TokensError
from probe.hooks.call import AttentionCall, Site
from probe.kernels import metrics as reduce
from probe.kernels.dispatch import chosen
from probe.kernels.inputs import Request
from probe.kernels.numba_backend import numba_version
from probe.models import Loaded, load
from probe.observe import described, observed, repeats, token_lookups, uniform_mass
from probe.profiles import Profiles
from probe.progress import Progress, silent
from probe.provenance import provenance
from probe.running import Running
from probe.table import HeadTable
from probe.tokens import check_ids, random_repeats, special_ids, tokens_hash

RANDOM_DISTINCT = 256
RANDOM_SEQUENCES = 8


def scan(
    model: str | nn.Module | Loaded,
    tokens: Sequence[Sequence[int]] | Int[Tensor, "sequences T"],
    *,
    sinks: int = 4,
    window: int = 64,
    seed: int = 0,
    bands: int = 64,
    random_sequences: int = RANDOM_SEQUENCES,
    verify: bool = True,
    backend: str = "auto",
    progress: Progress = silent,
) -> HeadTable:
    """Measure every attention head of a model on sequences of token ids.

    model: a name (`probe.load`), a loaded transformers model, or a TransformerLens bridge.
    tokens: ids, read as they are: no BOS is added, nothing is cut or padded.
    sinks, window: what a streaming head keeps: the first `sinks` keys, and those less than `window` back.
    seed: of the random-token sequences and of the bootstrap. bands: side of the thumbnails.
    random_sequences: how many repeated random sequences the `_random` columns are measured on; 0 leaves them NaN.
    verify: False for a model whose hook points were proved before in this process.

    Returns the head table of METRICS with its profiles. Raises ModelError, TokensError, HookError or KernelError,
    one line each, before anything is measured wherever it can be known before.
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    running = Running(loaded.model)
    ids = check_ids(tokens, vocabulary=running.vocabulary, limit=running.n_ctx)
    if verify:
        running.verify()
    scanner = _Scan(running, sinks, window, bands, backend, progress, steps=len(ids))
    for sequence in ids:
        scanner.read(torch.tensor([sequence]))
    per_sequence = scanner.finish()
    repeated = _random(scanner, loaded, random_sequences, seed)
    return HeadTable.build(
        {**per_sequence, **repeated},
        scanner.profiles.arrays(),
        _metadata(loaded, running, ids, scanner, seed),
        kv_heads=running.n_kv_heads,
        layers=[site.layer for site in running.sites],
        stack=running.sites[0].stack,
        kind="self",
    )


class _Scan:
    """One model, observed sequence by sequence; layers are reduced as they come, so nothing of a layer is kept."""

    def __init__(
        self,
        running: Running,
        sinks: int,
        window: int,
        bands: int,
        backend: str,
        progress: Progress,
        steps: int,
    ) -> None:
        self.running, self.backend, self.progress = running, backend, progress
        self.request = Request(sinks=sinks, window=window, bands=bands)
        self.layer_of = {site: number for number, site in enumerate(running.sites)}
        self.profiles = Profiles(len(running.sites), running.n_heads)
        self.values: dict[str, list[np.ndarray]] = defaultdict(list)
        self.backends: set[str] = set()
        self.rows_without_key = 0
        self.random_tokens: str | dict[str, Any] = ""
        self.done, self.total = 0, steps * len(running.sites)
        self.grams = {site: _gram(running.head_writes(site)) for site in running.sites}

    def read(self, ids: Int[Tensor, "1 T"]) -> None:
        """Observe one sequence and keep its metrics and profiles."""
        position = torch.arange(ids.shape[1])[None]
        layers = self._observe(ids, position, profiles=True)
        for name in layers[0]:
            self.values[name].append(np.stack([layer[name].cpu().numpy()[0] for layer in layers]))
        self.profiles.next_sequence()

    def repeated(self, ids: Int[Tensor, "sequences T"], half: int) -> dict[str, np.ndarray]:
        """The `_random` scores on [BOS] + R + R: the second copy's rows only, [sequences, L, H]."""
        length = ids.shape[1]
        second = torch.zeros(ids.shape, dtype=torch.bool)
        second[:, length - half :] = True
        later = second.clone()
        later[:, length - half] = False
        layers = self._observe(ids, torch.arange(length).expand_as(ids), profiles=False, rows=(second, later))
        names = ("previous_token", "duplicate_token", "induction")
        return {f"{n}_random": np.stack([layer[n].cpu().numpy() for layer in layers], 1) for n in names}

    def _observe(
        self,
        ids: Int[Tensor, "B T"],
        position: Int[Tensor, "B T"],
        *,
        profiles: bool,
        rows: tuple[Tensor, Tensor] | None = None,
    ) -> list[dict[str, Float[Tensor, "B H"]]]:
        """One forward: metrics of every layer. rows: the queries of the random scores instead of the text's own."""
        device = self.running.device
        ids, position = ids.to(device), position.to(device)
        bands = self.request.bands if profiles else 0
        request = Request(self.request.sinks, self.request.window, token_lookups(ids), bands, parts=False)
        matched = repeats(ids)
        layers: list[dict[str, Float[Tensor, "B H"]]] = [{} for _ in self.layer_of]
        chances: dict[object, dict[str, Float[Tensor, "B H T"]]] = {}
        ordered = [True] * len(layers)

        def handler(call: AttentionCall) -> Tensor:
            backend = chosen(described(call), self.backend)
            self.backends.add(backend)
            z, statistics = observed(call, request, backend=backend)
            number, causal, sink = self.layer_of[call.site], call.rule().causal, call.sinks is not None
            layer, ordered[number] = layers[number], causal
            if rows is None:
                layer |= reduce.head_metrics(statistics, z, position, learned_sink=sink, ordered=causal)
                # A lookup asks for earlier keys: without an order no query counts, and the mean is NaN.
                matching = matched[:, None] & (statistics.visible > 0) & causal
                for name, mass in statistics.lookup.items():
                    chance = uniform_mass(call, request, chances, backend=backend)[name]
                    layer[name] = reduce.mean_rows(mass, matching)
                    layer[f"{name}_chance"] = reduce.mean_rows(chance, matching[:, :1]).expand_as(layer[name])
                self.profiles.add(number, statistics, position)
                self.rows_without_key += int((statistics.visible[:, 0] == 0).sum())
            else:
                second, later = (chosen[:, None].to(device) & causal for chosen in rows)
                layer["previous_token"] = reduce.mean_rows(statistics.previous, second)
                layer["duplicate_token"] = reduce.mean_rows(statistics.lookup["duplicate_token"], second)
                layer["induction"] = reduce.mean_rows(statistics.lookup["induction"], later)
            if profiles:
                self.done += 1
                self.progress(self.done, self.total, "scan")
            return z

        def write(site: Site, heads: Float[Tensor, "B T HDv"]) -> None:
            number = self.layer_of[site]
            layer, norms = layers[number], _write_norms(heads, self.grams[site])
            layer["output_norm"] = reduce.mean_rows(norms, (position >= int(ordered[number]))[:, None])
            sums = norms.double().sum(-1)
            layer["output_share"] = sums / sums.sum(-1, keepdim=True)

        with self.running.instrument(handler), self.running.watching_writes(write):
            self.running.forward(ids)
        return layers

    def finish(self) -> dict[str, np.ndarray]:
        """[sequences, L, H] of every metric."""
        return {name: np.stack(values) for name, values in self.values.items()}


def _random(scanner: _Scan, loaded: Loaded, count: int, seed: int) -> dict[str, np.ndarray]:
    """The `_random` columns, or none of them where the model cannot read such sequences (said in the metadata)."""
    if count == 0:
        scanner.random_tokens = "not asked for"
        return {}
    running = scanner.running
    special = special_ids(loaded.tokenizer) if loaded.tokenizer is not None else ()
    try:
        made = random_repeats(
            vocabulary=running.vocabulary,
            bos=running.bos,
            special=special,
            sequences=count,
            distinct=RANDOM_DISTINCT,
            seed=seed,
            limit=running.n_ctx,
        )
    except TokensError as error:
        scanner.random_tokens = str(error)
        return {}
    scanner.random_tokens = {"sequences": count, "distinct": RANDOM_DISTINCT, "bos": running.bos, "seed": seed}
    return scanner.repeated(torch.tensor(made.ids), RANDOM_DISTINCT)


def _gram(write: Float[Tensor, "H Dv d_model"]) -> Float[Tensor, "H Dv Dv"]:
    """W_O W_Oᵀ of each head, float32: norms of what a head writes without building it."""
    wide = write.double()
    return (wide @ wide.mT).float()


def _write_norms(heads: Float[Tensor, "B T HDv"], gram: Float[Tensor, "H Dv Dv"]) -> Float[Tensor, "B H T"]:
    """‖z W_O‖₂ of every head and token: sqrt(z · Gram · zᵀ)."""
    z = heads.view(*heads.shape[:2], gram.shape[0], -1).transpose(1, 2).to(gram.dtype)
    squares: Tensor = ((z @ gram) * z).sum(-1)
    return squares.clamp(min=0).sqrt()


def _metadata(loaded: Loaded, running: Running, ids: list[list[int]], scanner: _Scan, seed: int) -> dict[str, Any]:
    lengths = sorted({len(sequence) for sequence in ids})
    request = scanner.request
    made = provenance(loaded, seed)
    if "numba" in scanner.backends:
        made["versions"]["numba"] = numba_version()
    return {
        **made,
        "tokens_hash": tokens_hash(ids),
        "n_sequences": len(ids),
        "length": lengths[0] if len(lengths) == 1 else lengths,
        "bos": "none added",
        "backend": ", ".join(sorted(scanner.backends)),
        "rows_without_key": scanner.rows_without_key,
        "random_tokens": scanner.random_tokens,
        "parameters": {
            "sinks": request.sinks,
            "window": request.window,
            "bands": request.bands,
            "epsilon": reduce.SINK_RATE_THRESHOLD,
        },
    }
