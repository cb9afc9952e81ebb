"""A recipe as plain data: what is mixed, how long, at which rate, what is frozen.

Every number has a standing, which `Recipe.describe` shows: published in the paper; reported, as it
is remembered and not verified again; ours, where the paper is silent; yours, where it was changed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from mm1_hf.data.mixture import UNITS, Unit
from mm1_hf.training.names import require_known
from mm1_hf.training.parameters import DECAY_POLICIES, FREEZABLE, PARTS, DecayPolicy

Stage = Literal["pretrain", "continual", "sft"]
Packing = Literal["best_fit", "none"]
OptimizerName = Literal["adamw", "adafactor"]
Standing = Literal["published", "reported", "ours", "yours"]

# TrainingArguments' names. transformers gives its Adafactor an absolute learning rate
# (scale_parameter and relative_step off), which MM1's 1e-5 is.
_OPTIM = {"adamw": "adamw_torch_fused", "adafactor": "adafactor"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stage of training, as plain data.

    Attributes:
        name: One of `RECIPES`, or that of the recipe it was changed from.
        stage: What kind of stage it is.
        weights: Weights of the parts of the mixture, by name; see `runs.build_mixture`.
        unit: What the weights count.
        sequence_length: Positions of a sequence, images included.
        max_images: Images of a sequence.
        packing: `"best_fit"`: as many documents as fit share a sequence, without seeing each other.
            `"none"`: one document per sequence.
        tiling: How images are cut; see `MM1ImageProcessor`.
        tile_size: Side of a tile in pixels; `None` means the processor's own.
        steps: Optimizer steps.
        batch_size: Sequences per optimizer step, over all devices.
        optimizer: `"adamw"` or `"adafactor"` (absolute learning rate, no momentum).
        learning_rate: Peak; `None` means the law, `laws.learning_rate`.
        weight_decay: As PyTorch counts it, which multiplies it by the learning rate.
        beta1, beta2, epsilon: AdamW's; `None` for others.
        max_grad_norm: Norm that gradients are clipped to; `None` means no clipping.
        warmup_share: Share of the steps in which the rate rises. MM1's 2000 of 200,000; kept as a
            share, so that shorter runs have the same shape (our choice).
        final_share: Learning rate at the end, as a share of the peak, after half a cosine.
        frozen: Parts that do not train; see `freezing.freeze`.
        rate_scales: Learning rate of parts as a share of the peak; see
            `parameters.parameter_groups`.
        decay: Which parameters decay; see there.
        standing: How sure each number is, by field.

    Raises:
        ValueError: If a value is out of range or a name unknown.
    """

    name: str
    stage: Stage
    weights: Mapping[str, float]
    unit: Unit
    sequence_length: int
    max_images: int
    packing: Packing
    tiling: str
    tile_size: int | None
    steps: int
    batch_size: int
    optimizer: OptimizerName
    learning_rate: float | None
    weight_decay: float
    beta1: float | None
    beta2: float | None
    epsilon: float | None
    max_grad_norm: float | None
    warmup_share: float
    final_share: float
    frozen: tuple[str, ...] = ()
    rate_scales: Mapping[str, float] = field(default_factory=dict)
    decay: DecayPolicy = "matrices"
    standing: Mapping[str, Standing] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "weights", dict(self.weights))
        object.__setattr__(self, "rate_scales", dict(self.rate_scales))
        object.__setattr__(self, "frozen", tuple(self.frozen))

    def change(self, **changes: Any) -> "Recipe":
        """The recipe with other values; what differs then stands as yours.

        Raises:
            ValueError: If there is no such field, or a value is out of range.
        """
        require_known(changes, CHANGEABLE, where=f"The change of recipe {self.name!r}")
        changed = replace(self, **changes)
        differs = [name for name in changes if getattr(changed, name) != getattr(self, name)]
        return replace(changed, standing={**self.standing, **dict.fromkeys(differs, "yours")})

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps in which the rate rises."""
        return math.ceil(round(self.warmup_share * self.steps, 6))

    @property
    def num_sequences(self) -> int:
        """Sequences of the whole run."""
        return self.steps * self.batch_size

    def training_arguments(
        self,
        *,
        output_dir: str,
        peak_rate: float,
        per_device_batch_size: int = 1,
        num_processes: int = 1,
        **others: Any,
    ) -> dict[str, Any]:
        """Keywords for transformers' `TrainingArguments`.

        Args:
            output_dir: Folder of checkpoints.
            peak_rate: Peak learning rate; `runs.peak_learning_rate` finds it.
            per_device_batch_size: Sequences that one process holds at once; gradients accumulate
                over as many as are missing to `batch_size`.
            num_processes: Processes that train together.
            others: Further fields of `TrainingArguments`, such as `save_steps`.

        Raises:
            ValueError: If the batch cannot be divided that way, or `others` names what the recipe
                decides.
        """
        at_once = per_device_batch_size * num_processes
        if at_once < 1 or self.batch_size % at_once:
            raise ValueError(
                f"{num_processes} processes of {per_device_batch_size} sequences take "
                f"{at_once} at once, which does not divide the batch of {self.batch_size}. Choose "
                "another per_device_batch_size or number of processes, or change batch_size."
            )
        decided = {
            "max_steps": self.steps,
            "per_device_train_batch_size": per_device_batch_size,
            "gradient_accumulation_steps": self.batch_size // at_once,
            "optim": _OPTIM[self.optimizer],
            "learning_rate": peak_rate,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm or 0.0,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": self.final_share},
            "warmup_steps": self.warmup_steps,
            "train_sampling_strategy": "sequential",
            "remove_unused_columns": False,
        }
        if self.optimizer == "adamw":
            decided |= {
                "adam_beta1": self.beta1,
                "adam_beta2": self.beta2,
                "adam_epsilon": self.epsilon,
            }
        taken = sorted(decided.keys() & others.keys())
        if taken:
            raise ValueError(
                f"{', '.join(taken)} cannot be given, because the recipe decides it. Use "
                f"recipe.change with one of: {', '.join(CHANGEABLE)}."
            )
        return {"output_dir": output_dir, **decided, **others}

    def describe(self) -> str:
        """A table of every number and its standing, as text."""
        rows = [
            (entry.name, _shown(entry.name, getattr(self, entry.name)), self.standing[entry.name])
            for entry in fields(self)
            if entry.name in self.standing
            and not (entry.name in _ADAMW_ONLY and self.optimizer != "adamw")
        ]
        wide = max(len(name) for name, _, _ in rows)
        lines = [f"Recipe {self.name} ({self.stage})"]
        for name, value, standing in rows:
            lines.append(f"  {name:<{wide}}  {_WORDS[standing]:<12}  {value}")
        return "\n".join(lines)


_ADAMW_ONLY = ("beta1", "beta2", "epsilon")
_WORDS = {
    "published": "published",
    "reported": "reported",
    "ours": "our choice",
    "yours": "yours",
}
CHANGEABLE: tuple[str, ...] = tuple(
    entry.name for entry in fields(Recipe) if entry.name not in ("name", "stage", "standing")
)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        shown = ", ".join(f"{key} {number:g}" for key, number in value.items())
        return shown or "1 for every part"
    if isinstance(value, tuple):
        return ", ".join(value) or "nothing"
    if value is None:
        return {"learning_rate": "exp(-0.4214 ln N - 0.5535)", "tile_size": "the model's"}.get(
            name, "none"
        )
    return f"{value:,}" if isinstance(value, int) else str(value)


def _check(recipe: Recipe) -> None:
    for name in ("sequence_length", "steps", "batch_size"):
        _require_number(recipe, name, least=1, whole=True)
    _require_number(recipe, "max_images", least=0, whole=True)
    for name in ("weight_decay", "warmup_share", "final_share"):
        _require_number(recipe, name, least=0, most=math.inf if name == "weight_decay" else 1)
    optional = ("learning_rate", "max_grad_norm", "tile_size", *_ADAMW_ONLY)
    for name in optional:
        if getattr(recipe, name) is not None:
            _require_number(recipe, name, least=0, whole=name == "tile_size")
    for name, known in (
        ("stage", get_args(Stage)),
        ("unit", UNITS),
        ("packing", get_args(Packing)),
        ("optimizer", get_args(OptimizerName)),
        ("decay", DECAY_POLICIES),
    ):
        require_known([getattr(recipe, name)], known, where=f"The field {name} of a recipe")
    require_known(recipe.frozen, FREEZABLE, where="The field frozen of a recipe")
    require_known(recipe.rate_scales, PARTS, where="The field rate_scales of a recipe")
    if not isinstance(recipe.weights, Mapping) or not recipe.weights:
        raise ValueError(
            f"weights is {recipe.weights!r}, but a mapping of names to positive numbers is "
            'expected, such as {"captions": 45, "text": 10}.'
        )
    betas = (recipe.beta1, recipe.beta2, recipe.epsilon)
    if recipe.optimizer == "adamw" and None in betas:
        raise ValueError(
            f"beta1, beta2 and epsilon are {betas}, but AdamW needs all three. MM1's are 0.9, 0.95 "
            "and 1e-8 (as reported)."
        )


def _require_number(
    recipe: Recipe, name: str, *, least: float, most: float = math.inf, whole: bool = False
) -> None:
    value = getattr(recipe, name)
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "whole number" if whole else "number"
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise ValueError(
            f"{name} of recipe {recipe.name!r} is {value!r}, but a {kind} of at least "
            f"{least:g}{limit} is expected."
        )
