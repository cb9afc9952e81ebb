"""Small processors, pictures and conversations for the tests of the processor."""

import torch
from PIL import Image

from mm1_hf import MM1Config, MM1Processor

from . import tiny

TOKENS_PER_TILE = 4


def make_config(**changes) -> MM1Config:
    """The tiny model with a vocabulary that every small tokenizer fits into."""
    changes = {"text_config": tiny.text_config(vocab_size=512), "image_token_id": None} | changes
    return tiny.config(**changes)


def picture(height: int = 20, width: int = 30, colour=(200, 30, 90)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def placeholders(processor: MM1Processor, input_ids) -> int:
    return int((torch.as_tensor(input_ids) == processor.image_token_id).sum())


def conversation(*, answer: str = "a cat") -> list[dict]:
    return [
        {"role": "system", "content": "Answer briefly."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Left: "},
                {"type": "image", "image": picture()},
                {"type": "text", "text": " what?"},
            ],
        },
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ]


def run_chat(processor, messages, **kwargs):
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )
