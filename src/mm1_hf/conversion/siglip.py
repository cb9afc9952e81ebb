"""transformers' SigLIP vision tower as `MM1VisionModel`, and back.

SigLIP 2 of fixed resolution is this architecture, under this name. The NaFlex variant of SigLIP 2
is another one: it takes padded sequences of patches, and `MM1VisionModel` does not.

Source: transformers 5, `models/siglip/modeling_siglip.py` (names of parameters).
"""

from typing import Any, ClassVar

from transformers import PreTrainedConfig, SiglipVisionConfig, SiglipVisionModel

from mm1_hf.conversion.clip import BLOCK_RULES
from mm1_hf.conversion.formats import ConversionOptions
from mm1_hf.conversion.renaming import Alias, Drop, Rename, SetAside
from mm1_hf.conversion.sources import Source
from mm1_hf.conversion.towers import TowerFormat
from mm1_hf.model.configuration_mm1 import MM1VisionConfig


class SiglipFormat(TowerFormat):
    """SigLIP's vision tower, alone or in a whole SigLIP; its pooling head is set aside."""

    kind = "siglip"
    description = "the vision tower of a SigLIP, or of a SigLIP 2 of fixed resolution"
    model_types = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")

    model_class = SiglipVisionModel
    config_class = SiglipVisionConfig
    rules = (
        Drop("embeddings.position_ids", "a constant"),
        SetAside("head", "the pooling head, which only makes one vector per picture"),
        Rename("embeddings.patch_embedding", "patch_embedding"),
        Rename("embeddings.position_embedding", "position_embedding"),
        *BLOCK_RULES,
        Rename("post_layernorm", "final_layernorm"),
    )
    aliases = (
        Alias("vision_model.", ""),
        Alias("text_model.", None, "SigLIP's text tower"),
        Alias("logit_scale", None, "SigLIP's common space"),
        Alias("logit_bias", None, "SigLIP's common space"),
        Alias("", ""),
    )
    own_options: ClassVar[dict[str, Any]] = {
        "use_class_token": False,
        "use_pre_layernorm": False,
        "patch_bias": True,
    }

    def own_config(self, config: PreTrainedConfig, options: ConversionOptions) -> MM1VisionConfig:
        """Our tower's configuration.

        Raises:
            ValueError: If it is SigLIP 2's NaFlex variant, or no SigLIP at all.
        """
        tower = getattr(config, "vision_config", config)
        if tower.model_type == "siglip2_vision_model":
            raise ValueError(
                "This is SigLIP 2's NaFlex variant, which takes padded sequences of patches; "
                "MM1VisionModel takes tiles. Convert a SigLIP 2 of fixed resolution, such as "
                "google/siglip2-so400m-patch14-384, whose model_type is 'siglip'."
            )
        return super().own_config(config, options)

    def their_fields(self, source: Source) -> dict[str, Any]:
        """Whether the pooling head was kept."""
        return {"vision_use_head": any(".head." in f".{name}" for name in source.unused)}
