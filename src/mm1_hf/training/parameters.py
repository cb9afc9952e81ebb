"""Which part of the model a parameter belongs to, and the optimizer's groups.

The parts are told by the names of MM1's sub-modules, wherever they stand in a parameter's name, so
that wrappers (PEFT, distributed training, compilation) need no treatment of their own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypedDict, cast, get_args

from torch import nn

Part = Literal["decoder", "embeddings", "connector", "vision_tower", "other"]
DecayPolicy = Literal["matrices", "all"]

# In this order groups are made: `Trainer` logs the learning rate of the first group, and a tower
# at a rate of its own should not be taken for the model.
PARTS: tuple[Part, ...] = get_args(Part)
FREEZABLE: tuple[str, ...] = tuple(part for part in PARTS if part != "other")
DECAY_POLICIES: tuple[str, ...] = get_args(DecayPolicy)

_PART_OF_MODULE: dict[str, Part] = {
    "vision_tower": "vision_tower",
    "connector": "connector",
    "language_model": "decoder",
    "lm_head": "embeddings",
}
# Parts of the names of parameters that stand alone in a module and are looked up, not multiplied.
_TABLE_NAMES = ("position", "pos_emb", "queries", "token")


class ParameterGroup(TypedDict):
    """A group for an optimizer: its name, parameters, and their rate and decay."""

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: float


class PartCount(NamedTuple):
    """Parameters of a part, shared ones counted once: all, and those that train."""

    total: int
    trainable: int


class NamedParameter(NamedTuple):
    """A parameter, where it stands, and whether it decays."""

    name: str
    parameter: nn.Parameter
    part: Part
    decays: bool


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    rate_scales: Mapping[str, float] | None = None,
    decay: DecayPolicy = "matrices",
) -> list[ParameterGroup]:
    """Groups for an optimizer: every trainable parameter in exactly one, frozen ones in none.

    What decays is not public. Our choice, `"matrices"`: weights of linear layers, convolutions and
    experts, and the token table. Biases, norms, position tables, class tokens, learned queries and
    everything else of one dimension do not. `"all"` decays everything.

    Args:
        model: An MM1, also with foreign parts, adapters or wrappers around it.
        learning_rate: Peak rate.
        weight_decay: Decay of what decays, in the form that the optimizer takes; see
            `laws.weight_decay`.
        rate_scales: What the peak rate is multiplied with, by part; 1 for parts not named. MM1's
            are all 1, as far as is known.
        decay: What decays.

    Returns:
        Up to two groups for each part, named `"decoder.decay"`, `"decoder.no_decay"` and so on;
        the part `"other"` is what stands in none of MM1's parts, such as a module of yours.

    Raises:
        ValueError: If a part or the policy is unknown, a scale is not positive, or nothing trains.
    """
    scales = rate_scales or {}
    _check(scales, decay)
    groups: dict[str, ParameterGroup] = {}
    for part in PARTS:
        for kind, amount in (("decay", weight_decay), ("no_decay", 0.0)):
            groups[f"{part}.{kind}"] = {
                "name": f"{part}.{kind}",
                "params": [],
                "lr": learning_rate * scales.get(part, 1.0),
                "weight_decay": amount,
            }
    for entry in named_parts(model):
        if entry.parameter.requires_grad:
            kind = "decay" if entry.decays or decay == "all" else "no_decay"
            groups[f"{entry.part}.{kind}"]["params"].append(entry.parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ValueError(
            f"No parameter of this {type(model).__name__} trains: all are frozen. Unfreeze a part "
            "with mm1_hf.training.unfreeze, or add an adapter."
        )
    return filled


def count_parameters(model: nn.Module) -> dict[Part, PartCount]:
    """Parameters of each part that has any."""
    counts: dict[Part, PartCount] = {}
    for entry in named_parts(model):
        total, trainable = counts.get(entry.part, PartCount(0, 0))
        number = entry.parameter.numel()
        counts[entry.part] = PartCount(
            total + number, trainable + number * entry.parameter.requires_grad
        )
    return {part: counts[part] for part in PARTS if part in counts}


def non_embedding_parameters(model: nn.Module) -> int:
    """The language model's parameters without token table and head: N of `laws.learning_rate`.

    Adapters count too: take the number before they are added.

    Raises:
        ValueError: If the model has no decoder.
    """
    count = count_parameters(model).get("decoder")
    if count is None:
        raise ValueError(
            f"{type(model).__name__} has no language_model, whose parameters are to be counted. "
            "Pass an MM1Model or MM1ForConditionalGeneration."
        )
    return count.total


def named_parts(model: nn.Module) -> Iterator[NamedParameter]:
    """Every parameter once, under its first name, with its part."""
    modules = dict(model.named_modules())
    tables = _token_tables(modules)
    for name, parameter in model.named_parameters():
        owner_name, _, leaf = name.rpartition(".")
        part = _part(name)
        if part == "decoder" and any(name.startswith(f"{table}.") for table in tables):
            part = "embeddings"
        decays = _decays(modules[owner_name], leaf, parameter, part)
        yield NamedParameter(name, parameter, part, decays)


def _part(name: str) -> Part:
    for segment in name.split("."):
        if segment in _PART_OF_MODULE:
            return _PART_OF_MODULE[segment]
    return "other"


def _token_tables(modules: Mapping[str, nn.Module]) -> list[str]:
    """Names of the decoder's token tables, also where an adapter or a copy has taken their place.

    The table is the one that the decoder says it looks tokens up in; a decoder with learned
    positions has others.
    """
    names = []
    for name, module in modules.items():
        if name.rpartition(".")[2] == "language_model" and hasattr(module, "get_input_embeddings"):
            table = cast(Any, module).get_input_embeddings()
            names += [
                f"{name}.{inner}" for inner, found in module.named_modules() if found is table
            ]
    return names


def _decays(owner: nn.Module, leaf: str, parameter: nn.Parameter, part: Part) -> bool:
    # So are all weights of norms; class tokens have the shape (1, 1, width).
    is_vector = max(parameter.shape, default=1) == parameter.numel()
    if is_vector or leaf.endswith("bias"):
        return False
    if isinstance(owner, nn.Embedding):
        return part == "embeddings"
    return not any(word in leaf for word in _TABLE_NAMES)


def _check(scales: Mapping[str, float], decay: str) -> None:
    if decay not in DECAY_POLICIES:
        known = ", ".join(map(repr, DECAY_POLICIES))
        raise ValueError(f"decay is {decay!r}, but it must be one of: {known}.")
    for part, scale in scales.items():
        if part not in PARTS:
            known = ", ".join(map(repr, PARTS))
            raise ValueError(f"rate_scales names {part!r}, but the parts are: {known}.")
        if not 0 < scale < float("inf"):
            raise ValueError(
                f"The rate scale of {part!r} is {scale}, but a positive number is expected. To "
                "train a part not at all, freeze it with mm1_hf.training.freeze."
            )
