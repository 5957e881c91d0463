"""Models over several devices: what accelerate does is checked, and its absence is told with the command."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probe.errors import ModelError
from probe.loading import spread as model_spread
from probe.loading.spread import check_spread
from probe.models import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "small"
    load("planted").model.save_pretrained(place)
    return place


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_spread_model_is_the_same_model(folder, device_map):
    pytest.importorskip("accelerate", reason="not checked: no accelerate (pip install 'headprobe[big]')")
    plain, spread = load(folder), load(folder, device_map=device_map)
    assert spread.weight_hash == plain.weight_hash
    assert spread.name == plain.name
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        wanted, found = (one.model(ids.to(one.model.device)).logits.cpu() for one in (plain, spread))
    # On the CPU the same numbers; another device may sum in another order.
    assert torch.allclose(found, wanted, atol=0 if spread.model.device.type == "cpu" else 1e-3)


def test_without_accelerate_the_command_is_told(folder, monkeypatch):
    monkeypatch.setattr(model_spread, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"accelerate is not installed here; run: pip install 'headprobe\[big\]'"):
        load(folder, device_map="auto")


@pytest.mark.parametrize("name", ["planted", "smollm2-135m", "model.gguf"])
def test_models_that_fit_one_device_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(model_spread, "find_spec", lambda name: object())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match="fits one device, and is no folder or hub id; use device"):
        load(name, device_map="auto")


def test_a_map_and_a_device_are_one_too_many():
    with pytest.raises(ModelError, match="found both, wanted one"):
        load("planted", device_map="auto", device="meta" if torch.cuda.is_available() else "cpu:0")


def test_weights_left_on_the_disk_are_refused():
    check_spread(nn.Linear(2, 2), "auto")
    with pytest.raises(ModelError, match=r"2 weights do not fit .*\(weight first\)"):
        check_spread(nn.Linear(2, 2, device="meta"), "auto")
