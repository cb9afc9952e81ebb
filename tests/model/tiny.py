"""The smallest MM1 that still has every part: 4 x 4 patches, 4 visual tokens, width 32."""

import torch
from torch import nn
from transformers import (
    Aimv2VisionConfig,
    CLIPVisionConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

from mm1_hf import MM1Config, MM1ConnectorConfig, MM1TextConfig, MM1VisionConfig

VOCABULARY = 99
IMAGE = 98
SIDE = 28

VISION_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 7,
}
TEXT_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONNECTOR_TYPES = ("average_pool", "attention_pool", "c_abstractor", "mlp")


def vision_config(**changes) -> MM1VisionConfig:
    return MM1VisionConfig(**{**VISION_SIZES, **changes})


def text_config(**changes) -> MM1TextConfig:
    return MM1TextConfig(**{**TEXT_SIZES, **changes})


def connector_config(connector_type: str = "c_abstractor", **changes) -> MM1ConnectorConfig:
    sizes = {
        "hidden_size": 16,
        "depth": 1,
        "num_attention_heads": 2,
        "num_image_tokens": None if connector_type == "mlp" else 4,
    }
    return MM1ConnectorConfig(connector_type=connector_type, **{**sizes, **changes})


def lone_connector_config(connector_type: str = "c_abstractor", **changes) -> MM1ConnectorConfig:
    """A connector that stands alone: 4 x 4 patches of width 32 to tokens of width 24."""
    shared = {"vision_hidden_size": 32, "text_hidden_size": 24, "patch_grid": [4, 4]}
    return connector_config(connector_type, **{**shared, **changes})


def config(**changes) -> MM1Config:
    """Our own three parts with a C-Abstractor; a keyword replaces a field of `MM1Config`."""
    parts = {
        "vision_config": vision_config(),
        "connector_config": connector_config(),
        "text_config": text_config(),
        "image_token_id": IMAGE,
    }
    return MM1Config(**{**parts, **changes})


def vision_configs() -> dict[str, PreTrainedConfig]:
    """Our own vision tower and three foreign ones, of one size."""
    return {
        "own": vision_config(),
        "clip": CLIPVisionConfig(**VISION_SIZES),
        "siglip": SiglipVisionConfig(**VISION_SIZES),
        "aimv2": Aimv2VisionConfig(**VISION_SIZES),
    }


def text_configs() -> dict[str, PreTrainedConfig]:
    """Our own decoder and three foreign ones, of one size."""
    return {
        "own": text_config(),
        "llama": LlamaConfig(**TEXT_SIZES),
        "qwen2": Qwen2Config(**TEXT_SIZES),
        "mixtral": MixtralConfig(**TEXT_SIZES, num_local_experts=2, num_experts_per_tok=2),
    }


def tiles(count: int, *, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, 3, side, side)


def prompt(*pieces: list[int] | str, num_image_tokens: int = 4) -> list[int]:
    """Token ids of one sample; the piece `"image"` becomes the placeholders of one tile."""
    ids: list[int] = []
    for piece in pieces:
        ids += [IMAGE] * num_image_tokens if piece == "image" else piece
    return ids


def randomised(model: nn.Module, *, gain: float = 2.0) -> nn.Module:
    """Give every parameter a random value, large enough that every part matters to the output.

    Freshly initialised models have zero biases and nearly ignore their pictures: tests of them
    would pass with half of the model missing.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim > 1:
                parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + ("norm" in name and name.endswith("weight")))
    return model.eval()


def parameters_without_gradient(model: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Newer transformers warn at the old name of the method, older ones do not know the new one."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()
