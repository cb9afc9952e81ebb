"""Checkpoints in LLaVA-1.5's layout as an MM1 with the `mlp` connector, and back.

Source: transformers 5, `models/llava/modeling_llava.py` and `conversion_mapping.py` (names that
version 4 and the files of version 5 use), `models/llava/processing_llava.py`.
"""

from pathlib import Path
from typing import Any

from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedConfig

from mm1_hf.conversion.clip import ClipFormat
from mm1_hf.conversion.decoders import DECODERS, DecoderFormat, decoder_for
from mm1_hf.conversion.formats import (
    ConversionOptions,
    Format,
    Route,
    Side,
    copy_tokenizer,
    require_options,
    write_config,
)
from mm1_hf.conversion.pictures import clip_image_settings, image_settings, saved_image_settings
from mm1_hf.conversion.renaming import Alias, Rename, RenameTable
from mm1_hf.conversion.siglip import SiglipFormat
from mm1_hf.conversion.sources import FolderSource, Source
from mm1_hf.conversion.towers import TowerFormat
from mm1_hf.model.configuration_mm1 import MM1Config, MM1ConnectorConfig, image_height_width
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.model.processing_mm1 import MM1Processor

TOWERS: dict[str, TowerFormat] = {
    "clip_vision_model": ClipFormat(),
    "siglip_vision_model": SiglipFormat(),
}

_TOWER = "model.vision_tower."
_BODY = "model.language_model"
# Canonical are the names in memory, which every version since 4.52 reads.
_ALIASES = (
    Alias("language_model.model.", f"{_BODY}."),
    Alias("language_model.lm_head.", "lm_head."),
    Alias("vision_tower.vision_model.", _TOWER),
    Alias("vision_tower.", _TOWER),
    Alias("multi_modal_projector.", "model.multi_modal_projector."),
    Alias(f"{_TOWER}vision_model.", _TOWER),
    Alias("model.", "model."),
    Alias("lm_head.", "lm_head."),
)
_CONNECTOR_RULES = (
    Rename("model.multi_modal_projector.linear_1", "model.connector.projector.layers.0"),
    Rename("model.multi_modal_projector.linear_2", "model.connector.projector.layers.2"),
)


class LlavaFormat(Format):
    """A LLaVA of transformers, with a CLIP or SigLIP tower and a decoder that ours can be."""

    kind = "llava"
    description = "a model in LLaVA-1.5's layout (transformers' LlavaForConditionalGeneration)"
    model_types = ("llava",)
    own_type = "mm1"
    options = frozenset({"max_positions"})

    def route(self, source: Source, options: ConversionOptions) -> Route:
        """Into an `MM1ForConditionalGeneration`.

        Raises:
            ValueError: If the tower, the projector or the decoder is one that MM1 has not.
        """
        theirs = source.config
        tower = TOWERS.get(theirs.vision_config.model_type)
        if tower is None:
            raise ValueError(
                f"The vision tower's model_type is {theirs.vision_config.model_type!r}, expected "
                f"one of {', '.join(TOWERS)}."
            )
        _require_plain(theirs, tower)
        decoder = decoder_for(theirs.text_config)
        choices = ConversionOptions(feature_layer=theirs.vision_feature_layer, use_final_norm=False)
        text = decoder.own_config(theirs.text_config, options)
        text.tie_word_embeddings = theirs.tie_word_embeddings
        config = MM1Config(
            vision_config=tower.own_config(theirs.vision_config, choices),
            connector_config=MM1ConnectorConfig(connector_type="mlp", mlp_depth=2),
            text_config=text,
            image_token_id=theirs.image_token_id,
            tie_word_embeddings=theirs.tie_word_embeddings,
        )
        return Route(
            Side("LlavaForConditionalGeneration"),
            Side("MM1ForConditionalGeneration", config, MM1ForConditionalGeneration),
            _table(config, tower=tower, decoder=decoder),
        )

    def route_back(self, source: Source) -> Route:
        """From an `MM1ForConditionalGeneration`.

        Raises:
            ValueError: If the model has something that a LLaVA has not.
        """
        config = source.config
        name = "LlavaForConditionalGeneration"
        vision, text = config.vision_config, config.text_config
        require_options(vision, {"model_type": "mm1_vision", "use_final_norm": False}, name=name)
        require_options(text, {"model_type": "mm1_text"}, name=name)
        require_options(
            config.connector_config, {"connector_type": "mlp", "mlp_depth": 2}, name=name
        )
        tower = TOWERS["clip_vision_model" if vision.use_class_token else "siglip_vision_model"]
        decoder = DECODERS["qwen3" if text.qk_norm else "llama"]
        theirs = LlavaConfig(
            vision_config=tower.their_config(vision, source),
            text_config=decoder.their_config(text),
            image_token_index=config.image_token_id,
            image_seq_length=config.num_image_tokens,
            vision_feature_layer=vision.feature_layer,
            vision_feature_select_strategy="default" if vision.use_class_token else "full",
            tie_word_embeddings=config.tie_word_embeddings,
        )
        return Route(
            Side("MM1ForConditionalGeneration", config, MM1ForConditionalGeneration),
            Side(name, theirs, LlavaForConditionalGeneration),
            _table(config, tower=tower, decoder=decoder).reversed(),
        )

    def write_texts(self, source: FolderSource, folder: Path, route: Route) -> list[str]:
        """Write configuration, settings of generation, and the processor where there is one."""
        own = route.target.model_class is MM1ForConditionalGeneration
        copy_tokenizer(source, folder)
        if source.json("tokenizer_config.json") is None or saved_image_settings(source) is None:
            write_config(route.target, folder)
            return [
                "No processor was written: there are no tokenizer_config.json and "
                "preprocessor_config.json (or processor_config.json) beside the weights."
            ]
        processor = _own_processor(source, route) if own else _their_processor(source, route)
        processor.save_pretrained(folder)
        write_config(route.target, folder)
        return []


def _table(config: Any, *, tower: TowerFormat, decoder: DecoderFormat) -> RenameTable:
    vision = tower.table(config.vision_config).under(source=_TOWER, target=_TOWER)
    text = decoder.rules(config.text_config, body=_BODY)
    return RenameTable([*vision.rules, *_CONNECTOR_RULES, *text], _ALIASES)


def _require_plain(config: PreTrainedConfig, tower: TowerFormat) -> None:
    """Refuse what MM1 would compute otherwise.

    Raises:
        ValueError: Naming each field, what it is and what it must be.
    """
    # MM1 gives the connector every patch and no class token.
    strategy = "default" if tower.own_options["use_class_token"] else "full"
    expected = {
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "vision_feature_select_strategy": strategy,
    }
    require_options(config, expected, name="MM1ForConditionalGeneration")
    if not isinstance(config.vision_feature_layer, int):
        raise ValueError(
            f"vision_feature_layer is {config.vision_feature_layer}, but MM1 reads one layer."
        )


def _own_processor(source: FolderSource, route: Route) -> MM1Processor:
    from transformers import AutoTokenizer

    config: Any = route.target.config
    settings = image_settings(
        saved_image_settings(source) or {}, side=image_height_width(config.vision_config)
    )
    template = source.json("chat_template.json") or source.json("processor_config.json") or {}
    return MM1Processor.from_parts(
        tokenizer=AutoTokenizer.from_pretrained(source.folder),
        config=config,
        chat_template=template.get("chat_template"),
        **settings,
    )


def _their_processor(source: FolderSource, route: Route) -> Any:
    from transformers import AutoProcessor, CLIPImageProcessorPil, LlavaProcessor

    own = AutoProcessor.from_pretrained(source.folder)
    config: Any = route.target.config
    strategy = config.vision_feature_select_strategy
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**clip_image_settings(own.image_processor)),
        tokenizer=own.tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=strategy,
        chat_template=own.chat_template,
        num_additional_image_tokens=int(strategy == "default"),
    )
