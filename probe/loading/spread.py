"""Models larger than one device: transformers and accelerate spread the layers, and we check what they did."""

from __future__ import annotations

from importlib.util import find_spec

from torch import nn

from probe.errors import ModelError

INSTALL = "pip install 'headprobe[big]'"


def check_map(device_map: str, device: str) -> None:
    """Raises `ModelError` without accelerate, or where a device is named beside the map."""
    if device != "cpu":
        raise ModelError(f"device_map {device_map!r} and device {device!r}: found both, wanted one; leave device out")
    if find_spec("accelerate") is None:
        raise ModelError(f"device_map {device_map!r}: accelerate is not installed here; run: {INSTALL}")


def check_spread(model: nn.Module, device_map: str) -> None:
    """Raises `ModelError` where weights were left on the disk: a study would read them anew for every forward."""
    away = [name for name, weight in model.named_parameters() if weight.device.type == "meta"]
    if away:
        raise ModelError(
            f"device_map {device_map!r}: {len(away)} weights do not fit the devices and the memory here "
            f"({away[0]} first); use a smaller dtype or more devices"
        )
