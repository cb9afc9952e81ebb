"""open_clip's vision transformer (the layout of DFN's ViT-H-14-378) as `MM1VisionModel`, and back.

Source: mlfoundations/open_clip, `src/open_clip/transformer.py` (names of parameters) and
`src/open_clip/model.py`, `CLIPVisionCfg` (defaults of the configuration).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from mm1_hf.conversion.formats import (
    ConversionOptions,
    Format,
    Route,
    Side,
    require_options,
    write_config,
)
from mm1_hf.conversion.operations import Split
from mm1_hf.conversion.renaming import Alias, Rename, RenameTable, SetAside
from mm1_hf.conversion.sources import FolderSource, Source
from mm1_hf.conversion.towers import tower_choices, unused_rules
from mm1_hf.model.configuration_mm1 import MM1VisionConfig, image_height_width
from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor
from mm1_hf.model.vision_mm1 import MM1VisionModel

CONFIG_FILE = "open_clip_config.json"

_BLOCK = "visual.transformer.resblocks.{}"
_ATTENTION = "layers.{}.self_attn"
_QKV = ("q_proj", "k_proj", "v_proj")

_RULES = (
    SetAside("visual.proj", "CLIP's common space"),
    Rename("visual.class_embedding", "class_embedding"),
    Rename("visual.positional_embedding", "position_embedding.weight"),
    Rename("visual.conv1", "patch_embedding"),
    Rename("visual.ln_pre", "pre_layernorm"),
    Rename(f"{_BLOCK}.ln_1", "layers.{}.layernorm1"),
    *(
        Rename(
            f"{_BLOCK}.attn.in_proj_{name}",
            tuple(f"{_ATTENTION}.{part}.{name}" for part in _QKV),
            Split(3),
        )
        for name in ("weight", "bias")
    ),
    Rename(f"{_BLOCK}.attn.out_proj", f"{_ATTENTION}.o_proj"),
    Rename(f"{_BLOCK}.ln_2", "layers.{}.layernorm2"),
    Rename(f"{_BLOCK}.mlp.c_fc", "layers.{}.mlp.fc1"),
    Rename(f"{_BLOCK}.mlp.c_proj", "layers.{}.mlp.fc2"),
    Rename("visual.ln_post", "final_layernorm"),
)
_ALIASES = (
    Alias("visual.", "visual."),
    *(
        Alias(prefix, None, "CLIP's text tower")
        for prefix in (
            "attn_mask",
            "ln_final.",
            "positional_embedding",
            "text.",
            "text_projection",
            "token_embedding.",
            "transformer.",
        )
    ),
    Alias("logit_", None, "CLIP's common space"),
)

# What CLIPVisionCfg takes where a configuration says nothing.
_DEFAULTS = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
    "no_ln_pre": False,
}
# Fields that change nothing here: in training only, or behind the features.
_WITHOUT_EFFECT = frozenset({"patch_dropout", "pool_type", "output_tokens", "final_ln_after_pool"})
_RESIZE_MODES = {"squash": "stretch", "shortest": "crop", "longest": "pad"}


class OpenClipFormat(Format):
    """The vision transformer of an open_clip model; the text tower is dropped."""

    kind = "open_clip"
    description = "the vision tower of a CLIP in open_clip's layout"
    own_type = "mm1_vision"
    options = frozenset({"feature_layer", "use_final_norm"})
    stem = "open_clip_model"

    def recognises(self, source: FolderSource) -> bool:
        """Whether there is open_clip's configuration, and none of transformers."""
        return source.json(CONFIG_FILE) is not None and source.json("config.json") is None

    def route(self, source: Source, options: ConversionOptions) -> Route:
        """Into an `MM1VisionModel`."""
        written = source.json(CONFIG_FILE)
        if written is None:
            raise ValueError(
                f"{source.name!r} has no {CONFIG_FILE}, which says how many heads there are and "
                "which activation. Put it beside the weights."
            )
        config = MM1VisionConfig(
            **_vision_fields(written.get("model_cfg", written)), **tower_choices(options)
        )
        return Route(
            Side("open_clip's VisionTransformer"),
            Side("MM1VisionModel", config, MM1VisionModel),
            _table(config),
        )

    def route_back(self, source: Source) -> Route:
        """From an `MM1VisionModel`."""
        config = source.config
        require_options(
            config,
            {"use_class_token": True, "patch_bias": False, "use_pre_layernorm": True},
            name="open_clip's VisionTransformer",
        )
        projection = source.unused.get("visual.proj")
        if projection is None:
            raise ValueError(
                f"{source.name!r} does not hold visual.proj, which open_clip's tower ends with. "
                "Only what came from open_clip, with what was set aside, goes back to it."
            )
        return Route(
            Side("MM1VisionModel", config, MM1VisionModel),
            Side(
                "open_clip's VisionTransformer",
                stem=self.stem,
                texts={CONFIG_FILE: _written_config(config, embed_dim=projection.shape[1])},
            ),
            _table(config).reversed(),
            ("The text tower is not part of MM1: the file holds visual.* only.",),
        )

    def write_texts(self, source: FolderSource, folder: Path, route: Route) -> list[str]:
        """Write the configuration and, where the source says how, our image processor."""
        write_config(route.target, folder)
        written = (source.json(CONFIG_FILE) or {}).get("preprocess_cfg")
        if route.target.config is None or written is None:
            return []
        height, width = image_height_width(route.target.config)
        mode = _RESIZE_MODES.get(written.get("resize_mode", "shortest"))
        if mode is None or written.get("interpolation", "bicubic") != "bicubic":
            return [f"No image processor was written: MM1ImageProcessor has no {written}."]
        choices = {
            ours: tuple(written[theirs])
            for ours, theirs in (("image_mean", "mean"), ("image_std", "std"))
            if theirs in written
        }
        MM1ImageProcessor(
            size={"height": height, "width": width}, resize_policy=mode, **choices
        ).save_pretrained(folder)
        return []


def _table(config: Any) -> RenameTable:
    unused = unused_rules(
        config, layers="visual.transformer.resblocks", final_norm="visual.ln_post"
    )
    return RenameTable([*unused, *_RULES], _ALIASES)


def _vision_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `MM1VisionConfig` for open_clip's `model_cfg`.

    Raises:
        ValueError: If the tower has something that ours has not.
    """
    vision = model.get("vision_cfg") or {}
    fields = _DEFAULTS | {name: vision[name] for name in _DEFAULTS if name in vision}
    other = {
        name: value
        for name, value in vision.items()
        if name not in _DEFAULTS and name not in _WITHOUT_EFFECT and value not in (None, False)
        if (name, value) != ("pos_embed_type", "learnable")
    }
    if other or not isinstance(fields["layers"], int):
        raise ValueError(
            f"MM1VisionModel cannot be this open_clip tower: vision_cfg has "
            f"{other or {'layers': fields['layers']}}. Only plain vision transformers convert."
        )
    return {
        "hidden_size": fields["width"],
        "intermediate_size": int(fields["width"] * fields["mlp_ratio"]),
        "num_hidden_layers": fields["layers"],
        "num_attention_heads": fields["width"] // fields["head_width"],
        "image_size": fields["image_size"],
        "patch_size": fields["patch_size"],
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "use_pre_layernorm": not fields["no_ln_pre"],
    }


def _written_config(config: PreTrainedConfig, *, embed_dim: int) -> dict[str, Any]:
    if config.hidden_act not in ("quick_gelu", "gelu"):
        raise ValueError(
            f"open_clip knows the activations gelu and quick_gelu, not {config.hidden_act!r}."
        )
    return {
        "model_cfg": {
            "embed_dim": embed_dim,
            "quick_gelu": config.hidden_act == "quick_gelu",
            "vision_cfg": {
                "image_size": config.image_size,
                "layers": config.num_hidden_layers,
                "width": config.hidden_size,
                "head_width": config.hidden_size // config.num_attention_heads,
                "mlp_ratio": config.intermediate_size / config.hidden_size,
                "patch_size": config.patch_size,
            },
        }
    }
