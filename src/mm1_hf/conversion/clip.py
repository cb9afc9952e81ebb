"""transformers' CLIP vision tower as `MM1VisionModel`, and back.

Source: transformers 5, `models/clip/modeling_clip.py` (names of parameters).
"""

from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from mm1_hf.conversion.renaming import (
    Conversion,
    ConversionReport,
    Rename,
    RenameTable,
    load_exactly,
)
from mm1_hf.model.configuration_mm1 import MM1VisionConfig, image_height_width
from mm1_hf.model.vision_mm1 import MM1VisionModel

CLIP_VISION_TABLE = RenameTable(
    [
        Rename("embeddings.class_embedding", "class_embedding"),
        Rename("embeddings.patch_embedding", "patch_embedding"),
        Rename("embeddings.position_embedding", "position_embedding"),
        Rename("pre_layrnorm", "pre_layernorm"),
        Rename("encoder.layers.{}.layer_norm1", "layers.{}.layernorm1"),
        Rename("encoder.layers.{}.self_attn.out_proj", "layers.{}.self_attn.o_proj"),
        Rename("encoder.layers.{}.self_attn", "layers.{}.self_attn"),
        Rename("encoder.layers.{}.layer_norm2", "layers.{}.layernorm2"),
        Rename("encoder.layers.{}.mlp", "layers.{}.mlp"),
        Rename("post_layernorm", "final_layernorm"),
    ]
)

_SHARED_FIELDS = (
    "attention_dropout",
    "hidden_act",
    "hidden_size",
    "image_size",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
)


def convert_clip_vision(
    model: nn.Module, *, feature_layer: int = -1, use_final_norm: bool = True
) -> Conversion:
    """Convert a CLIP vision tower into an `MM1VisionModel`.

    Args:
        model: A `CLIPVisionModel`, or a `CLIPModel`, whose tower is taken.
        feature_layer: See `MM1VisionConfig`; blocks behind it are dropped, and reported.
        use_final_norm: Whether CLIP's last layer norm, which CLIP itself applies to the class token
            only, is applied to all returned features. Without it the norm is dropped.

    Returns:
        The tower in the dtype of the source, and the report.

    Raises:
        ValueError: If `model` is no CLIP vision tower, or its keys do not fit.
    """
    tower = getattr(model, "vision_model", model)
    if getattr(tower.config, "model_type", None) != "clip_vision_model":
        raise ValueError(
            f"Expected a CLIPVisionModel or CLIPModel, but found {type(model).__name__} with "
            f"model_type {getattr(model.config, 'model_type', None)!r}."
        )
    config = MM1VisionConfig(
        feature_layer=feature_layer,
        use_final_norm=use_final_norm,
        **{name: getattr(tower.config, name) for name in _SHARED_FIELDS},
    )
    drop = {
        rf"^encoder\.layers\.{layer}\.": f"behind feature_layer {feature_layer}"
        for layer in range(config.num_built_layers, config.num_hidden_layers)
    }
    drop[r"^embeddings\.position_ids$"] = "a constant"
    if not use_final_norm:
        drop[r"^post_layernorm\."] = "use_final_norm is False"
    report = ConversionReport(source="CLIPVisionModel", target="MM1VisionModel")
    state_dict = CLIP_VISION_TABLE.apply(tower.state_dict(), report=report, drop=drop)
    converted = MM1VisionModel._from_config(config, dtype=tower.dtype)
    load_exactly(converted, state_dict, report=report)
    return Conversion(converted, report)


def export_clip_vision(model: MM1VisionModel) -> Conversion:
    """Convert an `MM1VisionModel` back into a `CLIPVisionModel`.

    Args:
        model: A tower with CLIP's architecture: all blocks, a class token, both outer norms.

    Returns:
        The CLIP tower in the dtype of the source, and the report.

    Raises:
        ValueError: If the tower's options have no counterpart in CLIP.
    """
    config = model.config
    found = (
        config.use_class_token,
        config.use_pre_layernorm,
        config.patch_bias,
        config.use_final_norm,
        config.num_built_layers == config.num_hidden_layers,
    )
    if found != (True, True, False, True, True):
        raise ValueError(
            "CLIP has a class token, a norm before the first and after the last block, no bias in "
            "its patch embedding and returns its last layer. This tower was configured otherwise: "
            f"use_class_token={found[0]}, use_pre_layernorm={found[1]}, patch_bias={found[2]}, "
            f"use_final_norm={found[3]}, feature_layer={config.feature_layer}."
        )
    height, width = image_height_width(config)
    if height != width:
        raise ValueError(
            f"CLIP takes square tiles only, but this tower's image_size is {config.image_size}. "
            "Resample its positions to a square grid first."
        )
    clip_config = CLIPVisionConfig(**{name: getattr(config, name) for name in _SHARED_FIELDS})
    report = ConversionReport(source="MM1VisionModel", target="CLIPVisionModel")
    state_dict = CLIP_VISION_TABLE.reversed().apply(model.state_dict(), report=report)
    exported = CLIPVisionModel._from_config(clip_config, dtype=model.dtype)
    load_exactly(exported, state_dict, report=report)
    return Conversion(exported, report)
