"""How many parameters a configuration has, part by part, counted on the built model.

The model is built on the meta device: no memory, no weights, a tenth of a second for 30B. So every
tower and decoder that the model takes is counted, ours and foreign ones, and no formula can drift
away from the code.
"""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from mm1_hf.model.configuration_mm1 import MM1Config
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration

PARTS = ("vision_tower", "connector", "language_model", "lm_head")

# Names that configurations give to the number of experts.
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartParameters:
    """Parameters of one part.

    Attributes:
        total: All of them.
        active: Those that one token passes through: of `num_experts` experts only the
            `num_experts_per_tok` chosen ones count.
    """

    total: int
    active: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Parameters of a model, part by part.

    Attributes:
        vision_tower: The vision tower.
        connector: The connector.
        language_model: The decoder with its embedding table.
        lm_head: The projection to the vocabulary; 0 where it is tied to the embedding table.
        embedding: Those of the decoder's embedding table, which `language_model` includes.
    """

    vision_tower: PartParameters
    connector: PartParameters
    language_model: PartParameters
    lm_head: PartParameters
    embedding: int

    @property
    def total(self) -> int:
        """All parameters of the model."""
        return sum(getattr(self, part).total for part in PARTS)

    @property
    def active(self) -> int:
        """Parameters that take part in reading one token and one picture."""
        return sum(getattr(self, part).active for part in PARTS)

    @property
    def non_embedding(self) -> int:
        """The decoder's parameters without embedding table and head.

        This is the N of MM1's learning-rate law (as reported; not re-verified).

        Source: MM1, arXiv 2403.09611, section 3.3.
        """
        return self.language_model.total - self.embedding

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data, sums included."""
        return asdict(self) | {
            "total": self.total,
            "active": self.active,
            "non_embedding": self.non_embedding,
        }


def count_parameters(config: MM1Config) -> ParameterCount:
    """Count the parameters of the model that `config` describes, without building it in memory.

    >>> from mm1_hf import MM1Config
    >>> count = count_parameters(MM1Config())
    >>> count.connector.total  # the C-Abstractor at 378 px into a decoder 3072 wide
    31056704

    Raises:
        ValueError: If the decoder has experts but does not say how many serve a token.
    """
    model = build_on_meta(config)
    text = config.text_config
    assert isinstance(text, PreTrainedConfig)
    parts: dict[str, PartParameters] = {}
    counted: set[int] = set()
    for part, module in part_modules(model).items():
        total = active = 0
        for name, parameter in module.named_parameters():
            if id(parameter) in counted:
                continue
            counted.add(id(parameter))
            total += parameter.numel()
            active += round(parameter.numel() * active_share(name, text))
        parts[part] = PartParameters(total=total, active=active)
    table = model.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    return ParameterCount(**parts, embedding=math.prod(table.shape))


def build_on_meta(config: MM1Config) -> MM1ForConditionalGeneration:
    """Build the model on the meta device; `config` is left as it was."""
    with torch.device("meta"):
        return MM1ForConditionalGeneration._from_config(copy.deepcopy(config), dtype=torch.float32)


def part_modules(model: MM1ForConditionalGeneration) -> dict[str, torch.nn.Module]:
    """The modules of `PARTS`, from the pixels to the vocabulary."""
    inner = model.model
    modules = (inner.vision_tower, inner.connector, inner.language_model, model.lm_head)
    return dict(zip(PARTS, modules, strict=True))


def active_share(name: str, text_config: PreTrainedConfig) -> float:
    """Share of a decoder's parameter that one token uses: 1, or k of E for experts.

    Experts are told by a part of the name that is `experts`, as transformers writes it, whether
    they are one tensor or a list of modules. Shared experts have another name and count whole.

    Raises:
        ValueError: If the configuration lacks the number of experts or of choices.
    """
    if "experts" not in name.split("."):
        return 1.0
    built = num_experts(text_config)
    chosen = getattr(text_config, "num_experts_per_tok", None)
    if built is None or chosen is None:
        raise ValueError(
            f"{type(text_config).__name__} builds experts ({name}), but has no number of experts "
            f"({', '.join(_NUM_EXPERTS)}) or no num_experts_per_tok, so the active parameters "
            "cannot be counted. Set the missing field."
        )
    return chosen / built


def num_experts(text_config: Any) -> int | None:
    """Experts of a sparse layer, whatever the configuration calls them; `None` without any."""
    found = (getattr(text_config, field, None) for field in _NUM_EXPERTS)
    return next((number for number in found if number), None)


__all__ = [
    "PARTS",
    "ParameterCount",
    "PartParameters",
    "active_share",
    "build_on_meta",
    "count_parameters",
    "num_experts",
    "part_modules",
]
