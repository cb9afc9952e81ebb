"""Where the parts of a composed MM1 come from: checkpoints, model objects or configurations."""

import os
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers import PreTrainedModel as Model

from .configuration_mm1 import MM1ConnectorConfig
from .connectors_mm1 import MM1Connector
from .decoder_mm1 import MM1ForCausalLM
from .vision_mm1 import MM1VisionModel

PartSource = str | os.PathLike | Model | PreTrainedConfig


class Part(NamedTuple):
    """One part of a composed model: its configuration, and the model if it brings weights."""

    config: PreTrainedConfig
    model: Model | None


def vision_part(source: PartSource) -> Part:
    """Find the vision tower in a checkpoint, a model (CLIP's tower is taken) or a configuration."""
    if isinstance(source, PreTrainedConfig):
        return Part(getattr(source, "vision_config", source), None)
    if isinstance(source, Model):
        tower = getattr(source, "vision_model", source)
        return Part(tower.config, tower)
    config = AutoConfig.from_pretrained(source)
    config = getattr(config, "vision_config", config)
    if config.model_type == MM1VisionModel.config_class.model_type:
        return Part(config, MM1VisionModel.from_pretrained(source, config=config))
    return Part(config, AutoModel.from_pretrained(source, config=config))


def text_part(source: PartSource) -> Part:
    """Find the decoder, with its head if there is one, in a checkpoint, model or configuration."""
    if isinstance(source, PreTrainedConfig):
        return Part(source.get_text_config(decoder=True), None)
    if isinstance(source, Model):
        return Part(source.config.get_text_config(decoder=True), source)
    config = AutoConfig.from_pretrained(source)
    own = config.model_type == MM1ForCausalLM.config_class.model_type
    model = (MM1ForCausalLM if own else AutoModelForCausalLM).from_pretrained(source)
    return Part(model.config.get_text_config(decoder=True), model)


def connector_part(source: PartSource | None) -> Part:
    """Find the connector; None means a new one with MM1's defaults."""
    if source is None:
        return Part(MM1ConnectorConfig(), None)
    if isinstance(source, PreTrainedConfig):
        return Part(source, None)
    model = source if isinstance(source, Model) else MM1Connector.from_pretrained(source)
    return Part(model.config, model)


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


__all__ = []
