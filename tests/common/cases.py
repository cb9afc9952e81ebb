"""Every class of ours with a batch it takes: what the checks of all models run over."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from mm1_hf import (
    MM1ForCausalLM,
    MM1ForConditionalGeneration,
    MM1Model,
    MM1TextModel,
    MM1VisionModel,
)

from ..model import tiny

SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_every_n_layers": 2}


class Case(NamedTuple):
    """A class, how its configuration is made, and a batch of three rows."""

    model_class: type[PreTrainedModel]
    config: Callable
    inputs: dict[str, torch.Tensor]

    def make(self, *, randomised: bool = True, **changes) -> PreTrainedModel:
        torch.manual_seed(0)
        model = self.model_class(self.config(**changes))
        return tiny.randomised(model, gain=1.0) if randomised else model.eval()


def _whole_inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = [tiny.prompt([1, 5 + row], "image", [6, 7, 8 + row]) for row in range(3)]
    return {"input_ids": torch.tensor(ids), "pixel_values": tiny.tiles(3)}


def _text_inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[1, 5, 6, 7], [1, 9, 2, 8], [4, 4, 3, 3]])}


def _sparse_text(**changes):
    return tiny.text_config(**{**SPARSE, **changes})


def _sparse_whole(**changes):
    return tiny.config(**{"text_config": _sparse_text(), **changes})


CASES: dict[str, Case] = {
    "vision": Case(MM1VisionModel, tiny.vision_config, {"pixel_values": torch.ones(3, 3, 28, 28)}),
    "decoder": Case(MM1TextModel, tiny.text_config, _text_inputs()),
    "sparse_decoder": Case(MM1TextModel, _sparse_text, _text_inputs()),
    "causal": Case(MM1ForCausalLM, tiny.text_config, _text_inputs()),
    "sparse_causal": Case(MM1ForCausalLM, _sparse_text, _text_inputs()),
    "model": Case(MM1Model, tiny.config, _whole_inputs()),
    "whole": Case(MM1ForConditionalGeneration, tiny.config, _whole_inputs()),
    "sparse_whole": Case(MM1ForConditionalGeneration, _sparse_whole, _whole_inputs()),
}
CASES["vision"].inputs["pixel_values"] = torch.randn(
    3, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(1)
)
READERS = [name for name in CASES if name != "vision"]
SPARSE_CASES = [name for name in CASES if name.startswith("sparse")]
WITH_HEAD = ["causal", "sparse_causal", "whole", "sparse_whole"]
WITH_TOWER = ["model", "whole", "sparse_whole"]


@torch.no_grad()
def answer(model: PreTrainedModel, inputs: dict[str, torch.Tensor], **kwargs) -> torch.Tensor:
    """The first tensor of the output: hidden states, or logits with a head."""
    return model(**inputs, **kwargs)[0]


def labelled(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = inputs["input_ids"]
    return {**inputs, "labels": ids.masked_fill(ids == tiny.IMAGE, -100)}
