"""The sizes of MM1 and MM1.5 by name, each number with its standing.

Apple published neither code nor weights, and of its decoders only names and totals. Each function
says which of its numbers are published, which are reported (recalled from the paper, not
re-verified), which are derived by arithmetic, and which are our choice.

What all of them share:

- C-Abstractor with 144 tokens per tile: published. Its depth 3 and width 1024 are Honeybee's
  defaults: our choice.
- Vocabulary of 49,152, RMSNorm, SwiGLU, rotary positions, separate output projection: our choice,
  except that the totals of the sparse models are consistent with it.
- 8 key and value heads: our choice, for the same reason.
- Sequences of 4096 tokens: published.

A name counts the decoder: tower and connector come on top (0.66 billion for the final models).

Source: MM1, arXiv 2403.09611, sections 3 and 4; MM1.5, arXiv 2409.20566, section 3.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from mm1_hf.model.configuration_mm1 import (
    MM1Config,
    MM1ConnectorConfig,
    MM1TextConfig,
    MM1VisionConfig,
)

_VOCABULARY = 49_152

_1B2 = {
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
_1B = {**_1B2, "intermediate_size": 6144, "num_hidden_layers": 16}
_3B = {
    "hidden_size": 3072,
    "intermediate_size": 8064,
    "num_hidden_layers": 26,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
}
_7B = {
    "hidden_size": 4096,
    "intermediate_size": 13_312,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
_30B = {
    "hidden_size": 7168,
    "intermediate_size": 22_528,
    "num_hidden_layers": 48,
    "num_attention_heads": 56,
    "num_key_value_heads": 8,
}


def mm1_3b(**text: Any) -> MM1Config:
    """MM1-3B: ViT-H/14 at 378 px (published), a decoder of 2.9 billion parameters.

    The decoder (26 layers of width 3072, 24 heads, feed-forward 8064) is derived: it is consistent
    with the name and with the 64 billion of MM1-3B-MoE.

    Args:
        **text: Fields of `MM1TextConfig` to change, such as `vocab_size` and `pad_token_id`.
    """
    return _final(_3B, text)


def mm1_7b(**text: Any) -> MM1Config:
    """MM1-7B: ViT-H/14 at 378 px (published), a decoder of 7.0 billion parameters.

    The decoder (32 layers of width 4096, 32 heads, feed-forward 13,312) is derived: it is
    consistent with the name and with the 47 billion of MM1-7B-MoE.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return _final(_7B, text)


def mm1_30b(**text: Any) -> MM1Config:
    """MM1-30B: ViT-H/14 at 378 px (published), a decoder of 29.6 billion parameters.

    48 layers of width 7168 are derived from the name; 56 heads and the feed-forward width 22,528
    are our choice.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return _final(_30B, text)


def mm1_3b_moe(**text: Any) -> MM1Config:
    """MM1-3B-MoE: `mm1_3b` with 64 experts in every 2nd layer, 63.8 billion parameters.

    Published: 64 experts, every 2nd layer, top-2, 64 billion in total, the weights of both router
    losses. Our choice: that the 2nd layer of each pair is the sparse one (as AXLearn does), and no
    capacity. Whether it was upcycled from the dense model is not clear.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return _final(_3B, {"num_experts": 64, "moe_every_n_layers": 2, **text})


def mm1_7b_moe(**text: Any) -> MM1Config:
    """MM1-7B-MoE: `mm1_7b` with 32 experts in every 4th layer, 47.5 billion parameters.

    Published: 32 experts, every 4th layer, top-2, 47 billion in total, the weights of both router
    losses. Our choice: as in `mm1_3b_moe`.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return _final(_7B, {"num_experts": 32, "moe_every_n_layers": 4, **text})


def mm1_1b2_ablation(**text: Any) -> MM1Config:
    """The base of MM1's ablations: ViT-L/14 at 336 px and 1.2 billion parameters (published).

    Derived: 24 layers of width 2048 with 32 heads. Our choice: the feed-forward width 5120, which
    meets the 1.2 billion. The inner sizes of the tower are CLIP's ViT-L/14.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    vision = MM1VisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
    )
    return _compose(vision, _1B2, text)


def mm1_5_1b(**text: Any) -> MM1Config:
    """MM1.5-1B: MM1's architecture (published) with a decoder of 0.97 billion parameters.

    All sizes of the decoder are our choice: `mm1_1b2_ablation`'s width in 16 layers, feed-forward
    6144.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return _final(_1B, text)


def mm1_5_3b(**text: Any) -> MM1Config:
    """MM1.5-3B: the architecture of MM1-3B (published), so `mm1_3b`, at the 378 px it begins with.

    Later stages read tiles of 672 px (published): `model.resize_image(672)`, and a processor with
    `tiling="dynamic"`.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return mm1_3b(**text)


def mm1_5_7b(**text: Any) -> MM1Config:
    """MM1.5-7B: the architecture of MM1-7B (published); see `mm1_5_3b` for resolution.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return mm1_7b(**text)


def mm1_5_30b(**text: Any) -> MM1Config:
    """MM1.5-30B: the architecture of MM1-30B (published); see `mm1_5_3b` for resolution.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return mm1_30b(**text)


def mm1_5_1b_moe(**text: Any) -> MM1Config:
    """MM1.5-1B-MoE: `mm1_5_1b` with 64 experts in every 2nd layer (published).

    Its total of 20 billion follows from our sizes; none is published.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return _final(_1B, {"num_experts": 64, "moe_every_n_layers": 2, **text})


def mm1_5_3b_moe(**text: Any) -> MM1Config:
    """MM1.5-3B-MoE: `mm1_5_3b` with 64 experts in every 2nd layer (published), as `mm1_3b_moe`.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    return mm1_3b_moe(**text)


def tiny(**text: Any) -> MM1Config:
    """The smallest MM1 worth running, for tests and first steps; every number is our choice.

    Tiles of 56 px in 4 x 4 patches, 4 visual tokens, a decoder of 2 layers of width 64. Give
    `num_experts=4, moe_every_n_layers=2` for a sparse one.

    Args:
        **text: Fields of `MM1TextConfig` to change.
    """
    vision = MM1VisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=56,
    )
    sizes = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    connector = MM1ConnectorConfig(num_image_tokens=4, hidden_size=32, depth=1)
    return _compose(vision, sizes, text, connector=connector)


def _final(sizes: dict[str, int], changes: dict[str, Any]) -> MM1Config:
    """A decoder behind the final models' encoder, ViT-H/14 at 378 px."""
    return _compose(MM1VisionConfig(), sizes, changes)


def _compose(
    vision: MM1VisionConfig,
    sizes: dict[str, int],
    changes: dict[str, Any],
    *,
    connector: MM1ConnectorConfig | None = None,
) -> MM1Config:
    defaults = {"vocab_size": _VOCABULARY, "max_position_embeddings": 4096}
    return MM1Config(
        vision_config=vision,
        connector_config=connector,
        text_config=MM1TextConfig(**{**defaults, **sizes, **changes}),
    )


PRESETS: MappingProxyType[str, Callable[..., MM1Config]] = MappingProxyType(
    {
        preset.__name__: preset
        for preset in (
            mm1_3b,
            mm1_7b,
            mm1_30b,
            mm1_3b_moe,
            mm1_7b_moe,
            mm1_1b2_ablation,
            mm1_5_1b,
            mm1_5_3b,
            mm1_5_7b,
            mm1_5_30b,
            mm1_5_1b_moe,
            mm1_5_3b_moe,
            tiny,
        )
    }
)

__all__ = [
    "PRESETS",
    "mm1_1b2_ablation",
    "mm1_3b",
    "mm1_3b_moe",
    "mm1_5_1b",
    "mm1_5_1b_moe",
    "mm1_5_3b",
    "mm1_5_3b_moe",
    "mm1_5_7b",
    "mm1_5_30b",
    "mm1_7b",
    "mm1_7b_moe",
    "mm1_30b",
    "tiny",
]
