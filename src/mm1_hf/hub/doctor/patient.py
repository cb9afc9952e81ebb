"""The checkpoint under examination: its files, and what they load as, each loaded once."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open

from mm1_hf.model.configuration_mm1 import image_height_width

MODEL_TYPES = ("mm1", "mm1_text")


class Patient:
    """A folder that may be broken anywhere; every property may raise, and says why.

    Args:
        folder: The checkpoint.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read_json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty if there is no such file."""
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @cached_property
    def weight_files(self) -> list[Path]:
        """The files with weights, all shards of them, whether they are there or not."""
        index = self.read_json("model.safetensors.index.json")
        names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
        return [self.folder / name for name in names]

    def stored_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of every stored tensor, one in memory at a time."""
        for file in self.weight_files:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    yield name, tensors.get_tensor(name)

    @cached_property
    def config(self) -> Any:
        """The configuration, through its Auto class."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.folder)

    @property
    def sees(self) -> bool:
        """Whether it is a whole MM1; if not, a decoder."""
        return self.read_json("config.json").get("model_type") == "mm1"

    @cached_property
    def loaded(self) -> tuple[Any, dict[str, Any]]:
        """The model and transformers' report; weights of another shape are left out of it."""
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        auto_class: Any = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
        model, report = auto_class.from_pretrained(
            self.folder, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
        return model.eval(), report

    @property
    def model(self) -> Any:
        """The model, ready to answer."""
        return self.loaded[0]

    @cached_property
    def processor(self) -> Any:
        """The processor, through its Auto class."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.folder)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, through its Auto class; None for a decoder that has none."""
        from transformers import AutoTokenizer

        if not self.sees and not (self.folder / "tokenizer_config.json").is_file():
            return None
        return AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def picture_sizes(self) -> list[tuple[int, int]]:
        """Height and width of pictures that tile in different ways: small, wide, tall, square."""
        height, width = image_height_width(self.config.vision_config)
        return [
            (max(1, height // 3), max(1, width // 2)),
            (height, 2 * width + 1),
            (2 * height + 3, width),
            (2 * height, 2 * width),
        ]

    def ask(self, sizes: list[tuple[int, int]]) -> Any:
        """What the processor makes of grey pictures of these sizes, each behind a word."""
        pictures = [Image.new("RGB", (width, height), (90, 90, 90)) for height, width in sizes]
        text = "".join(f" and {self.processor.image_token}" for _ in pictures)
        return self.processor(text=text, images=pictures or None, return_tensors="pt")
