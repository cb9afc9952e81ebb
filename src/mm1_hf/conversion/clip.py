"""transformers' CLIP vision tower as `MM1VisionModel`, and back.

Source: transformers 5, `models/clip/modeling_clip.py` (names of parameters).
"""

from typing import Any, ClassVar

from transformers import CLIPVisionConfig, CLIPVisionModel

from mm1_hf.conversion.renaming import Alias, Drop, Rename
from mm1_hf.conversion.towers import SHARED_FIELDS, TowerFormat

BLOCK_RULES = (
    Rename("encoder.layers.{}.layer_norm1", "layers.{}.layernorm1"),
    Rename("encoder.layers.{}.self_attn.out_proj", "layers.{}.self_attn.o_proj"),
    Rename("encoder.layers.{}.self_attn", "layers.{}.self_attn"),
    Rename("encoder.layers.{}.layer_norm2", "layers.{}.layernorm2"),
    Rename("encoder.layers.{}.mlp", "layers.{}.mlp"),
)


class ClipFormat(TowerFormat):
    """CLIP's vision tower, alone or in a whole CLIP, of which the tower is taken."""

    kind = "clip"
    description = "the vision tower of a CLIP in transformers' layout"
    model_types = ("clip", "clip_vision_model")

    model_class = CLIPVisionModel
    config_class = CLIPVisionConfig
    shared_fields = (*SHARED_FIELDS, "initializer_range")
    rules = (
        Drop("embeddings.position_ids", "a constant"),
        Rename("embeddings.class_embedding", "class_embedding"),
        Rename("embeddings.patch_embedding", "patch_embedding"),
        Rename("embeddings.position_embedding", "position_embedding"),
        Rename("pre_layrnorm", "pre_layernorm"),
        *BLOCK_RULES,
        Rename("post_layernorm", "final_layernorm"),
    )
    aliases = (
        Alias("vision_model.", ""),
        Alias("text_model.", None, "CLIP's text tower"),
        Alias("visual_projection.", None, "CLIP's common space"),
        Alias("text_projection.", None, "CLIP's common space"),
        Alias("logit_scale", None, "CLIP's common space"),
        Alias("", ""),
    )
    own_options: ClassVar[dict[str, Any]] = {
        "use_class_token": True,
        "use_pre_layernorm": True,
        "patch_bias": False,
    }
