"""Small random models of every kind that converts, and the tests' way of comparing two."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Aimv2VisionModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

from ..model import tiny

SMALL_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 9,
}


def _clip_model() -> CLIPModel:
    vision = tiny.vision_configs()["clip"].to_dict()
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=SMALL_TEXT, projection_dim=8))


def _siglip_model() -> SiglipModel:
    vision = tiny.vision_configs()["siglip"].to_dict()
    return SiglipModel(SiglipConfig(vision_config=vision, text_config=SMALL_TEXT))


def llava_config(*, vision: str = "clip", text: str = "llama", **changes) -> LlavaConfig:
    settings = {
        "vision_config": tiny.vision_configs()[vision],
        "text_config": tiny.text_configs()[text],
        "image_token_index": tiny.IMAGE,
        "image_seq_length": 16,
        "vision_feature_select_strategy": "default" if vision == "clip" else "full",
    }
    return LlavaConfig(**{**settings, **changes})


ORIGINALS: dict[str, Callable[[], PreTrainedModel]] = {
    "clip": lambda: CLIPVisionModel(tiny.vision_configs()["clip"]),
    "whole clip": _clip_model,
    "siglip": lambda: SiglipVisionModel(tiny.vision_configs()["siglip"]),
    "whole siglip": _siglip_model,
    "aimv2": lambda: Aimv2VisionModel(tiny.vision_configs()["aimv2"]),
    "llama": lambda: LlamaForCausalLM(tiny.text_configs()["llama"]),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**tiny.TEXT_SIZES, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(tiny.text_configs()["qwen2"]),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**tiny.TEXT_SIZES, head_dim=8)),
    "llava": lambda: LlavaForConditionalGeneration(llava_config()),
}


def original(name: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return tiny.randomised(ORIGINALS[name]()).to(dtype)


def saved(name: str, folder: Path, **saving) -> PreTrainedModel:
    """Make an original and save it as a checkpoint."""
    model = original(name)
    model.save_pretrained(folder, **saving)
    return model


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a saved checkpoint of one file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_bit_equal(found: nn.Module, expected: nn.Module) -> None:
    found_tensors, expected_tensors = found.state_dict(), expected.state_dict()
    assert found_tensors.keys() == expected_tensors.keys()
    for name, value in expected_tensors.items():
        assert found_tensors[name].dtype == value.dtype, name
        assert torch.equal(found_tensors[name], value), name
