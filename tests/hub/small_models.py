"""Small models and processors of the kinds that are published."""

from typing import Any, NamedTuple

from transformers import CLIPVisionConfig, LlamaConfig, SiglipVisionConfig

from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration, MM1Processor

from ..model import tiny

TEXT = {**tiny.TEXT_SIZES, "vocab_size": 512}
SPARSE = {**TEXT, "num_experts": 4, "moe_every_n_layers": 2}


class Small(NamedTuple):
    model: Any
    processor: Any


# Vision tower, decoder, tiling and markers of each kind.
KINDS: dict[str, tuple[Any, Any, str, str]] = {
    "own": (tiny.vision_config(), tiny.text_config(**TEXT), "static", "none"),
    "sparse": (tiny.vision_config(), tiny.text_config(**SPARSE), "dynamic", "index"),
    "clip": (CLIPVisionConfig(**tiny.VISION_SIZES), LlamaConfig(**TEXT), "none", "none"),
    "siglip": (
        SiglipVisionConfig(**tiny.VISION_SIZES),
        LlamaConfig(**TEXT, tie_word_embeddings=True),
        "dynamic",
        "separators",
    ),
}


def make(kind: str, make_tokenizer: Any, **changes: Any) -> Small:
    """A model and its processor; `changes` are those of the connector."""
    vision, text, tiling, markers = KINDS[kind]
    tokenizer = make_tokenizer()
    if markers != "none":
        MM1Processor.from_parts(  # adds the tokens of the markers, before the model is made
            tokenizer=tokenizer,
            config=tiny.config(text_config=text, image_token_id=None),
            markers=markers,
        )
    model: Any = MM1ForConditionalGeneration.from_parts(
        vision=vision,
        text=text,
        connector=tiny.connector_config(**changes),
        tokenizer=tokenizer,
    )
    processor = MM1Processor.from_parts(
        tokenizer=tokenizer, config=model.config, tiling=tiling, markers=markers
    )
    return Small(tiny.randomised(model), processor)


def make_decoder(make_tokenizer: Any) -> Small:
    return Small(tiny.randomised(MM1ForCausalLM(tiny.text_config(**TEXT))), make_tokenizer())
