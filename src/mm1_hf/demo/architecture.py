"""The shape of the small MM1, and of the CLIP model whose tower becomes its encoder."""

from typing import Any

from transformers import CLIPConfig, PreTrainedTokenizerFast

from mm1_hf.demo.canvases import SMALL_CELL
from mm1_hf.model.configuration_mm1 import MM1ConnectorConfig, MM1TextConfig
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.model.vision_mm1 import MM1VisionModel

# Sizes for two cores and five minutes: our choice. A digit is 2x2 patches and one visual token.
TILE_SIDE = 2 * SMALL_CELL
PATCH_SIZE = 8
TOKENS_PER_TILE = 4
WIDTH = 128
LAYERS = 4
HEADS = 4

# CLIP's loss reads the class token only: nothing trains what its last block makes of the patches.
FEATURE_LAYER = -2

# The usual 0.02 suits widths in the thousands. At these widths the signal would fade from layer to
# layer, and the model needed several times as long to find out that the pictures matter.
CONNECTOR_INITIALIZER_RANGE = 0.1
TEXT_INITIALIZER_RANGE = 0.06

_LONGEST_CAPTION = 32


def clip_config(
    tokenizer: PreTrainedTokenizerFast,
    *,
    width: int = WIDTH,
    layers: int = LAYERS,
    tile_side: int = TILE_SIDE,
    patch_size: int = PATCH_SIZE,
) -> CLIPConfig:
    """A CLIP model with the encoder's shape and half of it for the captions."""
    return CLIPConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "image_size": tile_side,
            "patch_size": patch_size,
        },
        text_config={
            "hidden_size": width // 2,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers // 2,
            "num_attention_heads": HEADS,
            "max_position_embeddings": _LONGEST_CAPTION,
            **vocabulary(tokenizer),
        },
        projection_dim=width // 2,
    )


def compose(
    vision: MM1VisionModel, tokenizer: PreTrainedTokenizerFast
) -> MM1ForConditionalGeneration:
    """Join the trained encoder to a new C-Abstractor and a new decoder."""
    return MM1ForConditionalGeneration.from_parts(
        vision=vision,
        connector=MM1ConnectorConfig(
            connector_type="c_abstractor",
            num_image_tokens=TOKENS_PER_TILE,
            hidden_size=WIDTH,
            depth=1,
            initializer_range=CONNECTOR_INITIALIZER_RANGE,
        ),
        text=MM1TextConfig(
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=TEXT_INITIALIZER_RANGE,
            **vocabulary(tokenizer),
        ),
        tokenizer=tokenizer,
    )


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What a text configuration has to know of the tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
