"""The small models: encoder, composed MM1, and a reader that takes features in place of pixels."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mm1_hf.ablations.paper.settings import Decoder, Settings
from mm1_hf.demo.architecture import (
    CONNECTOR_INITIALIZER_RANGE,
    HEADS,
    TEXT_INITIALIZER_RANGE,
    vocabulary,
)
from mm1_hf.model.configuration_mm1 import MM1ConnectorConfig, MM1TextConfig
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.model.vision_mm1 import MM1VisionModel
from mm1_hf.training.freezing import freeze

# A digit is 2x2 patches at 16 px. The same at every resolution, as in the paper.
PATCH_SIZE = 4
_LONGEST = 1024


def text_config(decoder: Decoder, tokenizer: PreTrainedTokenizerFast) -> MM1TextConfig:
    """The decoder's configuration; with experts, every second block is sparse."""
    sparse = decoder.experts is not None
    return MM1TextConfig(
        hidden_size=decoder.width,
        intermediate_size=3 * decoder.width,
        num_hidden_layers=decoder.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=_LONGEST,
        tie_word_embeddings=True,
        initializer_range=TEXT_INITIALIZER_RANGE,
        num_experts=decoder.experts,
        moe_every_n_layers=2 if sparse else None,
        **vocabulary(tokenizer),
    )


def compose(
    settings: Settings, *, vision: MM1VisionModel, text: Any, tokenizer: PreTrainedTokenizerFast
) -> MM1ForConditionalGeneration:
    """Join a trained encoder, which is frozen, to a new connector and a decoder."""
    model = MM1ForConditionalGeneration.from_parts(
        vision=vision,
        text=text,
        connector=MM1ConnectorConfig(
            connector_type=settings.connector,
            num_image_tokens=settings.num_image_tokens,
            hidden_size=settings.decoder.width,
            num_attention_heads=HEADS,
            depth=1,
            initializer_range=CONNECTOR_INITIALIZER_RANGE,
        ),
        tokenizer=tokenizer,
    )
    freeze(model, "vision_tower")
    return model


class FeatureReader(nn.Module):
    """An MM1 that is given the patches of its frozen encoder in place of pixels."""

    def __init__(self, model: MM1ForConditionalGeneration):
        super().__init__()
        self.mm1 = model
        self.config = model.config

    def forward(
        self,
        input_ids: torch.Tensor,
        features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ):
        """As the model's own; `features` are `(tiles, patches, width of the encoder)`."""
        encoded = None
        if features is not None:
            side = math.isqrt(features.shape[1])
            tokens = self.mm1.model.connector(features, grid=(side, side))
            encoded = {"image": BaseModelOutputWithPooling(pooler_output=tokens)}
        return self.mm1(
            input_ids=input_ids,
            mm_encoder_outputs=encoded,
            labels=labels,
            **kwargs,
        )
