"""Tiny MM1 checkpoints on disk, and the requests that harnesses make of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image
from transformers import GenerationConfig, PreTrainedConfig

from mm1_hf import MM1Config, MM1ForConditionalGeneration, MM1Processor

from ...model import tiny
from ...small_tokenizers import SmallTokenizers

COLOURS = {"red": (220, 30, 40), "green": (30, 190, 60), "blue": (20, 60, 210)}
VOCABULARY = 420


def picture(name: str = "red", *, width: int = 40) -> Image.Image:
    return Image.new("RGB", (width, 30), COLOURS[name])


def make_config(text_config: PreTrainedConfig | None = None) -> MM1Config:
    return tiny.config(
        text_config=text_config or tiny.text_config(vocab_size=VOCABULARY),
        image_token_id=None,
    )


def save_checkpoint(
    folder: Path, *, config: MM1Config | None = None, **settings: Any
) -> MM1ForConditionalGeneration:
    """Write a random model and its processor, and return the model."""
    config = config or make_config()
    tokenizer = SmallTokenizers()("byte_level")
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=config, **settings)
    model = tiny.randomised(MM1ForConditionalGeneration(config))
    # The tiny configurations' own numbers belong to other tokens of this vocabulary.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def request(*arguments: Any) -> SimpleNamespace:
    """What lmms-eval's `Instance` offers to a model."""
    return SimpleNamespace(args=arguments)
