"""Random inputs that a model accepts, so that its hook points can be tried without a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import HookError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def random_inputs(model: PreTrainedModel, *, length: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """One row of random inputs for the model's forward, on its device: token ids, an image, or mel features.

    Ids come from the second quarter of the vocabulary, where families keep no special tokens. Raises
    HookError for other kinds of input: pass your own.
    """
    generator = torch.Generator().manual_seed(seed)
    config, main = model.config, model.main_input_name
    inputs: dict[str, Tensor] = {}
    if main == "input_ids":
        inputs["input_ids"] = _ids(config, length, generator)
    elif main == "input_features":
        shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
        inputs["input_features"] = torch.randn(shape, generator=generator)
    elif main == "pixel_values":
        inputs["pixel_values"] = _image(config, generator)
    else:
        raise HookError(f"{type(model).__name__} reads {main}; pass inputs= to verify it")
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = _ids(config, length // 2, generator)
    # Models of two towers, such as CLIP, read both; models that splice images into text read text alone.
    vision = getattr(config, "vision_config", None)
    if vision is not None and main == "input_ids" and hasattr(config, "projection_dim"):
        inputs["pixel_values"] = _image(vision, generator)
    wide = {name: tensor.to(model.dtype) for name, tensor in inputs.items() if tensor.is_floating_point()}
    return {name: tensor.to(model.device) for name, tensor in {**inputs, **wide}.items()}


def _ids(config: PretrainedConfig, length: int, generator: torch.Generator) -> Tensor:
    vocabulary = int(config.get_text_config(decoder=True).vocab_size)
    return torch.randint(vocabulary // 4, max(vocabulary // 2, 2), (1, length), generator=generator)


def _image(config: PretrainedConfig, generator: torch.Generator) -> Tensor:
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn((1, getattr(config, "num_channels", 3), height, width), generator=generator)
