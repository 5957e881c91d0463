"""The main job: planted heads are found, every column is its dense formula on the model's own eager attention,
and a scan leaves nothing behind, builds no T × T tensor, and grows linearly."""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from probe.errors import ModelError, TokensError
from probe.hooks import attention
from probe.hooks.call import AttentionCall
from probe.hooks.spec import output_projection
from probe.kernels import reference_metrics as dense
from probe.kernels.dispatch import BACKENDS
from probe.kernels.inputs import Attention, Mask, Request, Score
from probe.kernels.reference import statistics as dense_statistics
from probe.kernels.reference_metrics import Head
from probe.models import load
from probe.planted import models as planted
from probe.planted.heads import GRADED_SINK_SCORE
from probe.planted.models import PLANTED_ROLES, PLANTED_TOLERANCE
from probe.planted.prompts import repeated_tokens
from probe.scan import RANDOM_DISTINCT, RANDOM_SEQUENCES, scan
from probe.table import HeadTable
from probe.tokens import cut_pieces, natural_text, random_repeats

CONTENT = {
    "previous_token": "previous_token",
    "duplicate_token": "duplicate_token",
    "induction": "induction",
    "negative_induction": "induction",
    "graded_induction": "induction",
}


PLANTED = [("llama", 64), ("llama", 512), ("gpt2", 512), pytest.param("gpt2", 64, marks=pytest.mark.full)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Planted heads


@cache
def planted_scan(kind: str, length: int, shuffled: bool) -> HeadTable:
    """Two sequences of planted prompts; a window that leaves something out at every length."""
    model = {"llama": planted.planted_llama, "gpt2": planted.planted_gpt2}[kind](shuffled=shuffled)
    return scan(model, [repeated_tokens(length, seed=seed) for seed in (0, 1)], window=20)


@pytest.mark.parametrize(("kind", "length"), PLANTED)
def test_every_planted_head_is_found(kind: str, length: int) -> None:
    frame = planted_scan(kind, length, False).frame.set_index(["layer", "head"])
    i = np.arange(1, length)
    for (layer, head), role in PLANTED_ROLES.items():
        row = frame.loc[(layer, head)]
        near = {"abs": PLANTED_TOLERANCE}
        wanted_roles = {CONTENT[role]} if role in CONTENT else set()
        assert set(row.roles) & {"previous_token", "duplicate_token", "induction"} == wanted_roles, (layer, head, role)
        if role in CONTENT and role != "graded_induction":
            assert row[f"{CONTENT[role]}_random"] == pytest.approx(1, **near)
            assert row[CONTENT[role]] == pytest.approx(1, **near)
        if role == "local":
            assert row["local_mass"] == pytest.approx(1, **near)
            assert "local" in row.roles
        if role in ("first_token_sink", "s_inhibition", "name_mover", "backup_induction"):
            assert row["sink_first"] == pytest.approx(1, **near)
            assert "sink" in row.roles
        if role == "later_token_sink":
            assert row["sink_other"] == pytest.approx(1, **near)
            assert row["sink_first"] < PLANTED_TOLERANCE
        if role == "graded_sink":
            weight = math.exp(GRADED_SINK_SCORE)
            assert row["sink_first"] == pytest.approx((weight / (weight + i)).mean(), **near)
        if role in ("uniform", "idle"):
            assert row["entropy_normalised"] == pytest.approx(1, abs=1e-5)
            assert row["sink_first"] == pytest.approx((1 / (i + 1)).mean(), **near)
        if role == "idle":
            assert "idle" in row.roles
            assert row["output_share"] == 0


def test_later_sinks_are_named_by_place() -> None:
    table = planted_scan("llama", 512, False)
    for (layer, head), role in PLANTED_ROLES.items():
        if role == "later_token_sink":
            assert table.profiles["sink_other_at"][:, layer, head].tolist() == [1, 1]
            assert table.profiles["received"][layer, head, 1] == pytest.approx(1, abs=PLANTED_TOLERANCE)


@pytest.mark.parametrize(("kind", "length"), PLANTED)
def test_the_shuffled_twin_has_no_content_heads(kind: str, length: int) -> None:
    table = planted_scan(kind, length, True)
    assert not {role for roles in table.frame.roles for role in roles} & {"previous_token", "duplicate_token",
                                                                          "induction", "sink"}  # fmt: skip
    for name in ("previous_token_random", "duplicate_token_random", "induction_random"):
        assert table.frame[name].max() < 0.02  # uniform attention over 257 … 512 keys gives .003


# Against the dense formulas on eager attention

TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 600,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXED = ["sliding_attention", "full_attention"]
FAMILIES: dict[str, Callable[[], tf.PreTrainedModel]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**TEXT)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**TEXT, sliding_window=11)),
    "gpt_oss": lambda: tf.GptOssForCausalLM(
        tf.GptOssConfig(**TEXT, sliding_window=11, num_local_experts=4, num_experts_per_tok=2, layer_types=MIXED)
    ),
    "gemma2": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(
            **TEXT, sliding_window=11, attn_logit_softcapping=2.0, query_pre_attn_scalar=8, layer_types=MIXED
        )
    ),
    "bert": lambda: tf.BertModel(
        tf.BertConfig(
            vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, intermediate_size=32,
            max_position_embeddings=600, initializer_range=0.3,
        )
    ),
}  # fmt: skip


def tiny(name: str) -> tf.PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[name]().eval()
        for key, value in model.named_parameters():
            if key.endswith("sinks"):
                torch.nn.init.normal_(value)
    return model.requires_grad_(False)


def tokens(T: int, seed: int, alphabet: int = 30) -> list[int]:
    return (3 + np.random.default_rng(seed).integers(0, alphabet, T)).tolist()


def eager_heads(model: tf.PreTrainedModel, ids: list[list[int]], **settings: Any) -> list[list[list[Head]]]:
    """[sequence][layer][head] from a copy's own `output_attentions`, with v as its attention calls show it."""
    kept: list[AttentionCall] = []

    def handler(call: AttentionCall) -> Tensor:
        kept.append(call)
        return call.attend()

    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    out = []
    for sequence in ids:
        kept.clear()
        row = torch.tensor([sequence])
        with torch.no_grad():
            maps = eager(row, output_attentions=True).attentions
            with attention.instrument(model, handler):
                model(row)
        layers = []
        for call, P in zip(kept, maps, strict=True):
            write, r = output_projection(model, call.site)[1], P.shape[1] // call.v.shape[1]
            layers.append(
                [
                    Head(
                        P[0, h].double(),
                        P[0, h] > 0,
                        call.v[0, h // r].double(),
                        row[0],
                        write=write[h],
                        ordered=not isinstance(model, tf.BertModel),
                        learned_sink=call.sinks is not None,
                        **settings,
                    )
                    for h in range(P.shape[1])
                ]
            )
        out.append(layers)
    return out


def dense_table(model: tf.PreTrainedModel, ids: list[list[int]], **settings: Any) -> dict[str, np.ndarray]:
    """[sequences, L, H] of every column of a scan."""
    heads = eager_heads(model, ids, **settings)
    formulas = {
        **dense.SCAN,
        "output_norm": dense.output_norm,
    }
    table = {
        name: np.array([[[formula(head) for head in layer] for layer in sequence] for sequence in heads])
        for name, formula in formulas.items()
    }
    table["output_share"] = np.array(
        [[[dense.output_share(layer, h) for h in range(len(layer))] for layer in sequence] for sequence in heads]
    )
    return table


def dense_random(model: tf.PreTrainedModel, seed: int) -> dict[str, np.ndarray]:
    made = random_repeats(
        vocabulary=300, bos=model.config.bos_token_id, special=(), sequences=RANDOM_SEQUENCES,
        distinct=RANDOM_DISTINCT, seed=seed,
    )  # fmt: skip
    scores = [
        [[dense.random_scores(head, RANDOM_DISTINCT) for head in layer] for layer in sequence]
        for sequence in eager_heads(model, made.ids)
    ]
    return {
        name: np.array([[[head[name] for head in layer] for layer in sequence] for sequence in scores])
        for name in scores[0][0][0]
    }


SLACK = 16 * 2**-23 * (1 + 20)
"""The kernels' bound for scores up to 20, which eager's own softmax and the two forwards share."""


def agree(table: HeadTable, wanted: dict[str, np.ndarray]) -> None:
    for name, values in wanted.items():
        found = table.frame[name].to_numpy(float)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column that is NaN everywhere
            mean = np.nanmean(values, 0).flatten()
        scale = np.maximum(1, np.abs(mean))
        assert np.array_equal(np.isnan(found), np.isnan(mean)), name
        assert (np.abs(found - mean)[~np.isnan(mean)] <= (SLACK * scale)[~np.isnan(mean)]).all(), (name, found - mean)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "gemma2", "bert"])
def test_a_scan_is_the_dense_formulas_on_eager_attention(name: str) -> None:
    model, ids = tiny(name), [tokens(70, 0), tokens(47, 1), tokens(70, 2)]
    table = scan(model, ids, sinks=2, window=9)
    wanted = dense_table(model, ids, sinks=2, window=9)
    agree(table, wanted)
    assert table.frame["sink_learned"].notna().all() == (name == "gpt_oss")
    ordered = table.frame[
        ["induction", "duplicate_token", "induction_chance", "previous_token_random", "induction_random"]
    ]
    assert ordered.notna().all(axis=None) == (name != "bert")
    for column, values in wanted.items():
        if not np.isnan(values).any():
            low, high = table.frame[f"{column}_low"], table.frame[f"{column}_high"]
            assert (low <= table.frame[column] + 1e-12).all()
            assert (table.frame[column] <= high + 1e-12).all()


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_random_columns_are_their_dense_formulas(name: str) -> None:
    model = tiny(name)
    agree(scan(model, [tokens(20, 0)], seed=3), dense_random(model, seed=3))


def test_profiles_come_with_the_table() -> None:
    model, ids = tiny("llama"), [tokens(70, 0), tokens(47, 1)]
    table = scan(model, ids, bands=16)
    heads = eager_heads(model, ids)
    assert table.profiles["received"].shape == (2, 6, 70)
    assert table.profiles["thumbnail"].shape == (2, 6, 16, 16)
    assert np.allclose(table.profiles["offset_mass"].sum(-1), 1, atol=1e-5)
    for layer in range(2):
        for h in range(6):
            first, second = (dense.alpha(sequence[layer][h]).numpy() for sequence in heads)
            mean = first.copy()
            mean[:47] = (first[:47] + second) / 2
            assert np.abs(table.profiles["received"][layer, h] - mean).max() < SLACK


# What is not defined, and what is refused


def test_a_short_sequence_is_left_out_of_what_it_cannot_say() -> None:
    frame = scan(tiny("llama"), [[6, 7], tokens(40, 0)]).frame
    assert (frame["n_induction"] == 1).all()
    assert (frame["n_sink_other"] == 1).all()
    assert "n_previous_token" not in frame
    assert frame["induction_low"].isna().all()  # one sequence has no interval
    single = scan(tiny("llama"), [[6, 7]]).frame
    assert single[["induction", "duplicate_token", "sink_other", "induction_chance"]].isna().all(axis=None)
    assert single[["sink_first", "previous_token", "entropy", "distance", "streaming_error"]].notna().all(axis=None)
    assert single[["sink_rate_low", "entropy_low"]].isna().all(axis=None)
    assert single["induction_random"].notna().all()


def test_distinct_tokens_give_no_lookup_scores() -> None:
    frame = scan(tiny("llama"), [list(range(5, 60))]).frame
    assert frame[["induction", "duplicate_token", "induction_chance", "duplicate_token_chance"]].isna().all(axis=None)


def test_a_small_vocabulary_gives_no_random_columns_and_says_so() -> None:
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**{**TEXT, "vocab_size": 100})).eval()
    table = scan(model, [tokens(20, 0)])
    assert table.frame[["previous_token_random", "induction_random"]].isna().all(axis=None)
    assert "wanted 256" in table.metadata["random_tokens"]


@pytest.mark.parametrize(
    "ids", [[], [[]], [[5]], [[5, 300]], [[5, -1]], [[1] * 601], [[1.5, 2.0]]],
    ids=["none", "empty", "one", "above", "below", "long", "float"],
)  # fmt: skip
def test_bad_tokens_are_refused_in_one_line(ids: list[list[Any]]) -> None:
    with pytest.raises(TokensError) as refused:
        scan(tiny("llama"), ids)
    assert "\n" not in str(refused.value)


def test_two_stacks_are_refused() -> None:
    config = tf.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="encoder and a decoder"):
        scan(tf.T5ForConditionalGeneration(config).eval(), [[1, 2, 3]])


# The same table


def same(first: HeadTable, second: HeadTable) -> None:
    assert first.frame.equals(second.frame)
    assert first.profiles.keys() == second.profiles.keys()
    for name, values in first.profiles.items():
        assert values.tobytes() == second.profiles[name].tobytes(), name


def test_equal_inputs_give_equal_bytes(tmp_path: Any) -> None:
    model, ids = tiny("gpt_oss"), [tokens(70, 0), tokens(50, 1)]
    tables = [scan(model, ids) for _ in range(2)]
    same(*tables)
    for number, table in enumerate(tables):
        table.save(tmp_path / str(number))
    for name in ("heads.parquet", "heads.csv", "heads.json", "profiles.safetensors"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_one_thread_and_two_give_equal_tables(name: str) -> None:
    model, ids = tiny(name), [tokens(300, 0)]
    one = scan(model, ids)
    torch.set_num_threads(2)
    two = scan(model, ids)
    assert torch.get_num_threads() == 2
    same(one, two)


def test_a_sequence_is_the_same_alone_and_among_others() -> None:
    model, ids = tiny("llama"), [tokens(70, 0), tokens(70, 1)]
    both, first, second = scan(model, ids), scan(model, ids[:1]), scan(model, ids[1:])
    for name in dense.SCAN:
        mean = (first.frame[name] + second.frame[name]) / 2
        assert np.allclose(both.frame[name], mean, rtol=1e-15, atol=0, equal_nan=True), name


def test_a_tensor_of_tokens_is_a_list_of_tokens() -> None:
    model, ids = tiny("llama"), [tokens(30, 0), tokens(30, 1)]
    same(scan(model, ids), scan(model, torch.tensor(ids)))


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "gemma2"])
def test_a_bridge_gives_the_models_table(name: str) -> None:
    builder = pytest.importorskip("transformer_lens.model_bridge.sources")
    model, ids = tiny(name), [tokens(70, 0), tokens(47, 1)]
    inner = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bridge's own remarks about models made in memory
        bridge = builder.build_bridge_from_module(inner, type(inner).__name__, hf_config=inner.config)
    own, lens = scan(model, ids), scan(bridge, ids)
    assert list(own.frame) == list(lens.frame)
    # The bridge recomputes the forward in its own order: 1e-5 in q, k and v.
    for column in own.frame:
        if column in ("stack", "kind", "roles"):
            assert own.frame[column].tolist() == lens.frame[column].tolist()
        else:
            one, two = own.frame[column].to_numpy(float), lens.frame[column].to_numpy(float)
            assert np.allclose(one, two, atol=1e-4, rtol=1e-4, equal_nan=True), column
    assert own.metadata["random_tokens"] == lens.metadata["random_tokens"]


# Nothing left behind


def footprint(model: tf.PreTrainedModel) -> tuple[Any, ...]:
    hooks = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for name, module in model.named_modules()
    ]
    return hooks, model.config._attn_implementation, torch.get_num_threads(), torch.is_grad_enabled(), model.training


def test_an_error_in_the_middle_leaves_the_model_as_it_was() -> None:
    model, ids = tiny("mistral"), torch.tensor([tokens(40, 0)])
    with torch.no_grad():
        plain = model(ids).logits
    before = footprint(model)

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(model, [tokens(40, 0), tokens(40, 1)], progress=stop)
    assert footprint(model) == before
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain)
    scan(model, [tokens(40, 0)])
    assert footprint(model) == before
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain)


def test_progress_counts_layers_of_sequences() -> None:
    steps: list[tuple[int, int]] = []
    scan(tiny("llama"), [tokens(20, 0), tokens(20, 1)], progress=lambda done, total, what: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


# No T × T tensor


class Largest(TorchDispatchMode):
    """Refuses any result with `limit` elements or more. One thread only: a mode does not see others."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.largest = limit, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                stored = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.largest = max(self.largest, stored)
                if stored >= self.limit:
                    raise MemoryError(f"{func} made {stored:,} elements, {list(leaf.shape)}")
        return out


def long_model(T: int) -> tf.LlamaForCausalLM:
    torch.manual_seed(0)
    config = {**TEXT, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "max_position_embeddings": T}  # fmt: skip
    return tf.LlamaForCausalLM(tf.LlamaConfig(**config)).eval().requires_grad_(False)


def test_a_scan_of_4096_tokens_makes_no_tensor_of_a_quarter_of_the_map() -> None:
    T = 4096
    model, ids = long_model(T), tokens(T, 0, alphabet=290)
    with Largest(T * T // 4) as watched:
        scan(model, [ids])
    assert watched.largest > T * 16  # it did watch
    model.set_attn_implementation("eager")
    with pytest.raises(MemoryError, match="elements"), Largest(T * T // 4), torch.no_grad():
        model(torch.tensor([ids]))


class Live(TorchDispatchMode):
    """Counts the bytes of all living results, and their peak. One thread only."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak_of(backend: Callable[[Attention, Request], object], T: int) -> int:
    """Bytes above its inputs that one call holds at most."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, T, 8, generator=generator) for _ in range(3))
    with Live() as live:
        backend(Attention(q, k, v, Mask(), Score(8**-0.5)), Request())
    return live.peak


@pytest.mark.parametrize("backend", ["blockwise", "numba"])
def test_memory_of_a_call_grows_along_a_line(backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    lengths = np.array([1024, 2048, 4096, 8192, 16384])
    peaks = np.array([peak_of(BACKENDS[backend], int(T)) for T in lengths], dtype=float)
    slope, start = np.polyfit(lengths, peaks, 1)
    # A line up to rounding of strips and pairs; a square would miss the short end by more than its size.
    assert (np.abs(slope * lengths + start - peaks) <= 0.05 * peaks).all(), peaks
    assert peaks[-1] < 16384**2 * 4 / 4
    dense_peaks = [peak_of(dense_statistics, T) for T in (512, 1024)]
    assert dense_peaks[1] > 3.5 * dense_peaks[0]  # the measure does see a square


# Which backend


def test_the_table_says_what_computed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = planted.planted_llama(), [repeated_tokens(40)]
    with_numba = find_spec("numba") is not None
    own = scan(model, tokens, random_sequences=0).metadata
    assert own["backend"] == ("numba" if with_numba else "blockwise")
    assert ("numba" in own["versions"]) == with_numba
    named = scan(model, tokens, random_sequences=0, backend="blockwise")
    assert named.metadata["backend"] == "blockwise"
    assert "numba" not in named.metadata["versions"]
    monkeypatch.setenv("HEADPROBE_BACKEND", "blockwise")
    again = scan(model, tokens, random_sequences=0)
    assert again.metadata["backend"] == "blockwise"
    assert again.frame.equals(named.frame)
    monkeypatch.delenv("HEADPROBE_BACKEND")
    assert scan(planted.planted_llama().double(), tokens, random_sequences=0).metadata["backend"] == "blockwise"


# The real model


@pytest.mark.real
def test_the_real_models_heads_are_the_known_ones() -> None:
    loaded = load("smollm2-135m")
    assert loaded.tokenizer is not None
    pieces = cut_pieces(loaded.tokenizer, natural_text()[:20_000], length=512, sequences=2)
    frame = scan(loaded, pieces.ids).frame.set_index(["layer", "head"])
    top = frame["induction_random"].nlargest(5)
    assert top.iloc[0] > 0.7
    assert {(18, 6), (17, 3)} <= set(top.index)
    assert 0.35 < (frame["sink_first"] > 0.3).mean() < 0.75
    assert frame["induction"].isna().sum() == 0
