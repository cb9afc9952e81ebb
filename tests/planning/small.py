"""Configurations that cost nothing to run and in which no part is negligible."""

from transformers import (
    Aimv2VisionConfig,
    CLIPVisionConfig,
    Gemma2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3Config,
    SiglipVisionConfig,
)

from mm1_hf import MM1Config, MM1ConnectorConfig, MM1TextConfig, MM1VisionConfig

IMAGE = 499
VISION = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
TEXT = {
    "vocab_size": 500,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONNECTORS = ("average_pool", "attention_pool", "c_abstractor", "mlp")


def connector(connector_type: str = "c_abstractor") -> MM1ConnectorConfig:
    return MM1ConnectorConfig(
        connector_type=connector_type,
        hidden_size=32,
        depth=2,
        num_attention_heads=4,
        num_image_tokens=None if connector_type == "mlp" else 16,
    )


def config(**changes) -> MM1Config:
    parts = {
        "vision_config": MM1VisionConfig(**VISION),
        "connector_config": connector(),
        "text_config": MM1TextConfig(**TEXT),
        "image_token_id": IMAGE,
    }
    return MM1Config(**{**parts, **changes})


def configs() -> dict[str, MM1Config]:
    """Every connector, and every kind of foreign part."""
    towers: dict[str, PreTrainedConfig] = {
        "clip": CLIPVisionConfig(**VISION),
        "siglip": SiglipVisionConfig(**VISION),
        "aimv2": Aimv2VisionConfig(**VISION),
    }
    decoders: dict[str, PreTrainedConfig] = {
        "llama": LlamaConfig(**TEXT),
        "qwen3": Qwen3Config(**TEXT, head_dim=32),
        "gemma2": Gemma2Config(**TEXT, head_dim=24),
        "mixtral": MixtralConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2),
    }
    return (
        {name: config(connector_config=connector(name)) for name in CONNECTORS}
        | {name: config(vision_config=tower) for name, tower in towers.items()}
        | {name: config(text_config=decoder) for name, decoder in decoders.items()}
        | {
            "clip, last layer but one": config(
                vision_config=towers["clip"], vision_feature_layer=-2
            )
        }
        | {"tied": config(text_config=MM1TextConfig(**TEXT, tie_word_embeddings=True))}
    )
