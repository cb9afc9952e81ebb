"""Where the parts of a composed MM1 come from: checkpoints, model objects or configurations."""

import copy
import os
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from .configuration_mm1 import MM1ConnectorConfig
from .connectors_mm1 import MM1Connector
from .decoder_mm1 import MM1ForCausalLM
from .vision_mm1 import MM1VisionModel

PartSource = str | os.PathLike | PreTrainedModel | PreTrainedConfig


class Part(NamedTuple):
    """One part of a composed model: its configuration, and the model if it brings weights."""

    config: PreTrainedConfig
    model: PreTrainedModel | None


def vision_part(source: PartSource) -> Part:
    """Find the vision tower in a checkpoint, a model (CLIP's tower is taken) or a configuration."""
    return _without_folder(_vision_part(source))


def text_part(source: PartSource) -> Part:
    """Find the decoder, with its head if there is one, in a checkpoint, model or configuration."""
    return _without_folder(_text_part(source))


def connector_part(source: PartSource | None) -> Part:
    """Find the connector; None means a new one with MM1's defaults."""
    return _without_folder(_connector_part(source))


def _vision_part(source: PartSource) -> Part:
    if isinstance(source, PreTrainedConfig):
        return Part(getattr(source, "vision_config", source), None)
    if isinstance(source, PreTrainedModel):
        tower = getattr(source, "vision_model", source)
        if hasattr(tower.config, "vision_config"):
            raise ValueError(
                f"{type(source).__name__} is no vision tower, but a model that has one. Pass the "
                "tower itself, such as model.model.vision_tower."
            )
        return Part(tower.config, tower)
    config = AutoConfig.from_pretrained(source)
    config = getattr(config, "vision_config", config)
    own = config.model_type == MM1VisionModel.config_class.model_type
    tower = _load_whole(MM1VisionModel if own else AutoModel, source, config=config)
    return Part(config, tower)


def _text_part(source: PartSource) -> Part:
    if isinstance(source, PreTrainedConfig):
        return Part(source.get_text_config(decoder=True), None)
    if isinstance(source, PreTrainedModel):
        return Part(source.config.get_text_config(decoder=True), source)
    config = AutoConfig.from_pretrained(source)
    own = config.model_type == MM1ForCausalLM.config_class.model_type
    model = _load_whole(MM1ForCausalLM if own else AutoModelForCausalLM, source)
    return Part(model.config.get_text_config(decoder=True), model)


def _connector_part(source: PartSource | None) -> Part:
    if source is None:
        return Part(MM1ConnectorConfig(), None)
    if isinstance(source, PreTrainedConfig):
        return Part(source, None)
    model = source if isinstance(source, PreTrainedModel) else _load_whole(MM1Connector, source)
    return Part(model.config, model)


def _without_folder(part: Part) -> Part:
    """The part, of which the configuration names no folder of this machine.

    The composed model is saved and published with its parts' configurations, in which transformers
    keeps the place that each was loaded from.
    """
    if not os.path.isdir(part.config.name_or_path):
        return part
    config = copy.deepcopy(part.config)
    config.name_or_path = ""
    return Part(config, part.model)


def _load_whole(model_class: Any, source: str | os.PathLike, **kwargs) -> PreTrainedModel:
    """Load a part, all of it from the checkpoint.

    Raises:
        ValueError: If the checkpoint lacks weights, which transformers would fill with noise.
    """
    model, report = model_class.from_pretrained(source, output_loading_info=True, **kwargs)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{os.fspath(source)!r} lacks {len(missing)} weights of {type(model).__name__}: "
            f"{', '.join(missing[:4])}{' …' if len(missing) > 4 else ''}. Load the whole model "
            "and pass the part itself, such as model.model.vision_tower."
        )
    return model


def composed_dtype(*parts: Part) -> torch.dtype:
    """The dtype of the first part that brings weights, which is the decoder if it does."""
    return next((part.model.dtype for part in parts if part.model is not None), torch.float32)


def copy_weights(target: nn.Module, part: Part) -> None:
    """Copy the weights a part brings into its place in the composed model.

    Raises:
        RuntimeError: If names or shapes differ.
    """
    if part.model is not None:
        target.load_state_dict(part.model.state_dict())


def copy_decoder(language_model: nn.Module, lm_head: nn.Linear, part: Part) -> None:
    """Copy a decoder, and its head if it has one.

    Raises:
        ValueError: If the head has a bias, which MM1's has not.
    """
    if part.model is None:
        return
    head = part.model.get_output_embeddings()
    decoder = part.model.get_decoder() if head is not None else part.model
    language_model.load_state_dict(decoder.state_dict())
    if head is None:
        return
    if getattr(head, "bias", None) is not None:
        raise ValueError(
            f"The head of {type(part.model).__name__} has a bias, MM1's has none. Pass the decoder "
            "without its head (AutoModel instead of AutoModelForCausalLM) and train a new head."
        )
    lm_head.load_state_dict(head.state_dict())
