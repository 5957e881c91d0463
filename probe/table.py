"""HeadTable: one row per head, one column per metric; what every analysis returns and every page shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from probe import formats, roles
from probe.columns import BESIDE, KEYS, SCAN_COLUMNS, metrics_of
from probe.errors import ResultsError
from probe.statistics import bootstrap
from probe.store import write_file
from probe.table_check import check_table

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(eq=False)
class HeadTable:
    """Every head's numbers.

    frame: one row a head: the keys of METRICS, then each metric with `<metric>_low`, `<metric>_high` (95 %
        percentile bootstrap), of an effect `_p` and `_q` too, and, where a sequence did not count, `n_<metric>`;
        last `roles`, lists of text.
    profiles: what does not fit a row, by METRICS' names (`received` [L, H, T], `offset_mass` [L, H, B],
        `thumbnail` [L, H, 64, 64], `sink_other_at` [sequences, L, H]), and `sequences_<metric>` [L, H, n]: the values
        behind each mean, sequence by sequence, so that two tables of the same sequences can be compared in pairs.
    metadata: how it was made (model, hashes, versions, seed, parameters, thresholds); JSON values only.
    """

    frame: pd.DataFrame
    profiles: dict[str, np.ndarray]
    metadata: dict[str, Any]

    @classmethod
    def build(
        cls,
        per_sequence: Mapping[str, Float[np.ndarray, "n #L #H"]],
        profiles: Mapping[str, np.ndarray],
        metadata: Mapping[str, Any],
        *,
        kv_heads: int,
        layers: Sequence[int] | None = None,
        stack: str = "decoder",
        kind: str = "self",
    ) -> HeadTable:
        """Average and bootstrap per-sequence values into a table with roles.

        per_sequence: metric → one value a sequence and head, NaN where not defined there; n may differ by
            metric (the random-token scores have their own sequences). A scan's metric that is missing is NaN.
        kv_heads: key/value heads of a layer. layers: the model's own layer numbers (default 0 … L − 1).
        `metadata["seed"]` (default 0) seeds the resamples, `metadata["n_sequences"]` decides which `n_`
        columns are written, `metadata["role_thresholds"]` (default METRICS') the roles.
        Raises ResultsError for arrays that do not fit together.
        """
        height, width = _shape(per_sequence)
        numbers = list(range(height)) if layers is None else list(layers)
        if len(numbers) != height:
            raise ResultsError(f"{len(numbers)} layer numbers for {height} layers: give one a layer")
        frame = _keys(numbers, width, kv_heads, stack, kind)
        seed, n_sequences = int(metadata.get("seed", 0)), metadata.get("n_sequences")
        columns: dict[str, Any] = {}
        for name in metrics_of({*SCAN_COLUMNS, *per_sequence}):
            if name in per_sequence:
                columns |= _measured(name, per_sequence[name], (height, width), seed, n_sequences)
            else:
                missing = np.full(height * width, np.nan)
                columns |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), missing)
        frame = pd.concat([frame, pd.DataFrame(columns)], axis=1)
        thresholds = {**roles.THRESHOLDS, **metadata.get("role_thresholds", {})}
        document = formats.plain({**metadata, "role_thresholds": thresholds})
        sequences = {f"sequences_{name}": _by_head(values, (height, width)) for name, values in per_sequence.items()}
        kept = {profile_key(name, stack, kind): values for name, values in {**sequences, **profiles}.items()}
        return cls(_with_roles(frame, thresholds), kept, document)

    @classmethod
    def of_heads(
        cls, layers: Sequence[int], heads: int, metadata: Mapping[str, Any], *, kv_heads: int, stack: str = "decoder"
    ) -> HeadTable:
        """A table of a model's heads without a metric yet, for `with_columns`.

        layers: the model's own layer numbers. Raises ResultsError where heads cannot share the key/value heads.
        """
        frame = _keys(layers, heads, kv_heads, stack, "self")
        return cls(_with_roles(frame, roles.THRESHOLDS), {}, formats.plain(dict(metadata)))

    def with_columns(self, added: pd.DataFrame) -> HeadTable:
        """A new table with the columns of `added`, keyed by layer and head (and stack and kind, if there).

        Columns of the same name are replaced, METRICS' order is kept, roles are decided again. Joins a
        retrieval run or a study to a scan. Raises ResultsError when heads are missing or named twice.
        """
        keys = [key for key in ("stack", "kind", "layer", "head") if key in added]
        if added.duplicated(keys).any():
            raise ResultsError("a head is named twice in the added columns: give one row a head")
        new = [name for name in added if name not in (*KEYS, "roles")]
        kept = self.frame.drop(columns=[*new, "roles"], errors="ignore")
        joined = kept.merge(added[[*keys, *new]], on=keys, how="left", validate="m:1", indicator="_found")
        missing = int((joined.pop("_found") != "both").sum())
        if missing:
            raise ResultsError(f"{missing} heads have no row in the added columns: give one a head")
        return HeadTable(_with_roles(joined, self.thresholds), self.profiles, self.metadata)

    @property
    def thresholds(self) -> dict[str, float]:
        """The role thresholds that this table was made with."""
        return {**roles.THRESHOLDS, **self.metadata.get("role_thresholds", {})}

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in METRICS' order."""
        return metrics_of(self.frame.columns)

    @property
    def scanned(self) -> bool:
        """Whether the table holds a scan's metrics, not only what was joined to a model's heads."""
        return any(name in SCAN_COLUMNS for name in self.frame)

    def profile(self, name: str, row: int) -> np.ndarray:
        """What `profiles[name]` [L, H, …] holds for the head in table row `row`.

        Raises ResultsError when that profile was not kept for the head's stack and kind.
        """
        key = self._profile_key(name, row)
        if key not in self.profiles:
            raise ResultsError(f"no profile {key!r} in this table; it has {sorted(self.profiles)}")
        return np.asarray(self.profiles[key][self._places[row][2:]])

    def has_profile(self, name: str, row: int) -> bool:
        """Whether `profile(name, row)` was kept."""
        return self._profile_key(name, row) in self.profiles

    def _profile_key(self, name: str, row: int) -> str:
        return profile_key(name, *self._places[row][:2])

    @cached_property
    def _places(self) -> list[tuple[str, str, int, int]]:
        """Stack, kind, place of the layer among its stack's, and head, of every row."""
        layers: dict[tuple[str, str], dict[int, int]] = {}
        places = []
        for stack, kind, layer, head in self.frame[["stack", "kind", "layer", "head"]].itertuples(index=False):
            seen = layers.setdefault((stack, kind), {})
            places.append((str(stack), str(kind), seen.setdefault(layer, len(seen)), int(head)))
        return places

    def with_profiles(self, added: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> HeadTable:
        """A new table with the profiles of `added` (of the table's first stack and kind) and more metadata."""
        stack, kind = self.frame["stack"].iloc[0], self.frame["kind"].iloc[0]
        kept = {profile_key(name, stack, kind): values for name, values in added.items()}
        return HeadTable(self.frame, {**self.profiles, **kept}, formats.plain({**self.metadata, **metadata}))

    def save(self, folder: str | Path) -> None:
        """Write heads.parquet, heads.csv, heads.json and profiles.safetensors into `folder`.

        Each file is replaced whole. heads.parquet comes last and holds the hash of the profiles, so a save
        that was cut between two files is found by `load`, never read as a mixture.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        profiles = save_arrays({key: np.ascontiguousarray(value) for key, value in self.profiles.items()})
        checks = {
            "heads": _heads_hash(self.frame, self.metadata),
            "profiles.safetensors": _hash(profiles),
        }
        document = {"metadata": formats.plain(self.metadata), "heads": formats.records(self.frame)}
        write_file(place / "profiles.safetensors", profiles)
        write_file(place / "heads.csv", formats.csv(self.frame))
        write_file(
            place / "heads.json",
            json.dumps(document, allow_nan=False, indent=1, sort_keys=True).encode() + b"\n",
        )
        parquet = formats.parquet(self.frame, {"probe": self.metadata, "probe_checksums": checks})
        write_file(place / "heads.parquet", parquet)

    @classmethod
    def load(cls, folder: str | Path) -> HeadTable:
        """The table that `save` wrote, every page and file verified.

        Raises ResultsError, naming the file, for anything missing, damaged, of two different saves, or that is no head
        table although its checksums are right (`check_table`).
        """
        place = Path(folder)
        frame, documents = formats.read_parquet(place / "heads.parquet")
        if "probe" not in documents or "probe_checksums" not in documents:
            raise ResultsError(f"{place / 'heads.parquet'}: not a head table (no `probe` metadata)")
        metadata, checks = documents["probe"], documents["probe_checksums"]
        if not isinstance(checks, dict) or _heads_hash(frame, metadata) != checks.get("heads"):
            raise ResultsError(f"{place / 'heads.parquet'}: damaged (its checksum differs); run again to replace it")
        path = place / "profiles.safetensors"
        try:
            data = path.read_bytes()
            if _hash(data) != checks.get("profiles.safetensors"):
                raise ResultsError(f"{path}: damaged, or of another save than heads.parquet; save again")
            profiles = load_arrays(data)
        except (OSError, SafetensorError) as error:
            raise ResultsError(f"{path}: cannot be read ({error}); save again") from error
        check_table(place, frame, profiles, metadata)
        return cls(frame, profiles, metadata)

    def plot(self, column: str | None = None) -> go.Figure:
        """The layer × head map of `column` (default: the first metric that was measured)."""
        from probe.plots import heads as plots

        measured = [name for name in self.metrics if self.frame[name].notna().any()]
        return plots.head_map(self, column or (measured or self.metrics)[0])

    def __repr__(self) -> str:
        model = self.metadata.get("model", "?")
        return f"HeadTable({model}: {len(self.frame)} heads, {len(self.metrics)} metrics)"


def _hash(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def _heads_hash(frame: pd.DataFrame, metadata: Mapping[str, Any]) -> str:
    """Names, order, values and metadata together: page checksums do not cover a Parquet file's footer."""
    return _hash(formats.canonical([list(frame), formats.records(frame), metadata]))


def _shape(per_sequence: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Layers and heads that all arrays agree on; an axis of one is spread over them."""
    if not per_sequence:
        raise ResultsError("no metric was given: a head table needs at least one")
    for name, values in per_sequence.items():
        if values.ndim != 3 or not len(values):
            raise ResultsError(f"{name} has shape {list(values.shape)}; wanted [sequences, layers, heads]")
    try:
        height, width = np.broadcast_shapes(*(values.shape[1:] for values in per_sequence.values()))
    except ValueError as error:
        raise ResultsError(f"metrics of different models: {error}") from error
    return int(height), int(width)


def _keys(layers: Iterable[int], width: int, kv_heads: int, stack: str, kind: str) -> pd.DataFrame:
    if kv_heads < 1 or width % kv_heads:
        raise ResultsError(f"{width} heads cannot share {kv_heads} key/value heads: give a divisor")
    group = width // kv_heads
    rows = [(stack, kind, layer, head, head // group) for layer in layers for head in range(width)]
    return pd.DataFrame(rows, columns=list(KEYS))


def _measured(
    name: str, values: np.ndarray, shape: tuple[int, int], seed: int, n_sequences: int | None
) -> dict[str, np.ndarray]:
    spread = np.broadcast_to(values, (len(values), *shape)).reshape(len(values), -1)
    try:
        summary = bootstrap(spread, seed=seed)
    except ValueError as error:
        raise ResultsError(f"{name}: {error}") from error
    columns = {name: summary.mean, f"{name}_low": summary.low, f"{name}_high": summary.high}
    for column in columns.values():
        column[np.isnan(column)] = np.nan  # one bit pattern, so that a saved and loaded table is byte-equal
    if (summary.n != (len(values) if n_sequences is None else n_sequences)).any():
        columns[f"n_{name}"] = summary.n
    return columns


def _by_head(values: Float[np.ndarray, "n #L #H"], shape: tuple[int, int]) -> Float[np.ndarray, "L H n"]:
    return np.ascontiguousarray(np.moveaxis(np.broadcast_to(values, (len(values), *shape)), 0, -1))


def _with_roles(frame: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """`frame` in METRICS' order with its `roles` column decided anew."""
    order = [key for key in KEYS if key in frame]
    for name in metrics_of(frame.columns):
        order += [part for part in (name, *(name + end for end in BESIDE), f"n_{name}") if part in frame]
    ordered = frame[order].copy()
    ordered["roles"] = roles.assign(ordered, thresholds)
    return ordered


def profile_key(name: str, stack: str, kind: str) -> str:
    """A profile's name in `profiles`: bare for a decoder's own attention, else `received.encoder.self`."""
    return name if (stack, kind) == ("decoder", "self") else f"{name}.{stack}.{kind}"


def head_name(layer: int, head: int, stack: str = "decoder") -> str:
    """`L10H7`; `EL3H2` in an encoder, `VL3H2` in a vision tower."""
    return {"encoder": "E", "vision": "V"}.get(stack, "") + f"L{layer}H{head}"
