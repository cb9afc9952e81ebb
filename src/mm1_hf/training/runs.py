"""A run of a recipe as one function: mixture, packs, trainer, checkpoints, model and processor."""

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from transformers import TrainingArguments

from mm1_hf.data.collators import MM1Collator
from mm1_hf.data.dataset import PackedDataset
from mm1_hf.data.errors import ErrorPolicy
from mm1_hf.data.mixture import Mixture, Unit
from mm1_hf.data.pack_plan import ShareOf as ShareOfPlan
from mm1_hf.model.tiling_mm1 import TILINGS, require_name
from mm1_hf.training import laws
from mm1_hf.training.checkpoints import last_complete_checkpoint
from mm1_hf.training.freezing import freeze
from mm1_hf.training.metrics import ShareOf
from mm1_hf.training.parameters import Part, count_parameters, non_embedding_parameters
from mm1_hf.training.recipe import CHANGEABLE, Packing, Recipe
from mm1_hf.training.recipe_files import load_recipe, read_json_object, save_recipe
from mm1_hf.training.trainer import MM1Trainer

if TYPE_CHECKING:
    from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
    from mm1_hf.model.processing_mm1 import MM1Processor

Resume = Literal["no", "last"]

RECIPE_FILE = "recipe.json"
MIXTURE_FILE = "mixture.json"

_SHARES_OF: dict[Unit, ShareOf] = {
    "sequence": "sequences",
    "document": "pieces",
    "token": "tokens",
}
_COUNTED: dict[Unit, ShareOfPlan] = {
    "sequence": "sequences",
    "document": "documents",
    "token": "tokens",
}
# A window of one document is a pack of one document.
_WINDOWS: dict[Packing, int] = {"best_fit": 1024, "none": 1}


class PlannedRun(NamedTuple):
    """A run before its first step.

    Attributes:
        recipe: The recipe.
        processor: The processor with the recipe's tiles; it is saved with the model.
        mixture: The sources and their weights.
        dataset: All packs of the run.
        peak_rate: Peak learning rate.
    """

    recipe: Recipe
    processor: "MM1Processor"
    mixture: Mixture
    dataset: PackedDataset
    peak_rate: float

    def describe(self, model: "MM1ForConditionalGeneration") -> str:
        """The run as text: recipe, parameters, rates, and what the data become."""
        recipe, plan = self.recipe, self.dataset.plan
        lines = [recipe.describe(), "", "Parameters (all, those that train)"]
        for part, count in count_parameters(model).items():
            train = 0 if part in recipe.frozen else count.trainable
            lines.append(f"  {part:<14}{count.total:>16,}{train:>16,}")
        lines += [
            "",
            f"Learning rate: 0 to {self.peak_rate:.3g} in {recipe.warmup_steps:,} of "
            f"{recipe.steps:,} steps, then to {self.peak_rate * recipe.final_share:.3g}",
            f"Sequences: {len(plan):,} of {plan.sequence_length:,} positions, "
            f"{plan.efficiency:.1%} of them used",
            "",
            f"{'Source':<24}{'sequences':>12}{'tokens':>14}{'images':>12}{'documents':>12}"
            f"{'epochs':>9}{'wanted':>8}{'got':>8}",
        ]
        shares = plan.shares(_COUNTED[recipe.unit])
        for leaf in self.mixture.leaves:
            entry = plan.report[leaf.name]
            lines.append(
                f"{leaf.name:<24}{entry.sequences:>12,}{entry.tokens:>14,}{entry.images:>12,}"
                f"{entry.documents:>12,}{entry.documents / len(leaf.source):>9.2f}"
                f"{leaf.share:>8.1%}{shares[leaf.name]:>8.1%}"
            )
        lines.append(f"Wanted and got are shares of {recipe.unit}s.")
        return "\n".join(lines)


def peak_learning_rate(recipe: Recipe, model: "MM1ForConditionalGeneration") -> float:
    """The recipe's rate, or the law's for the model's decoder.

    Raises:
        ValueError: If the law is asked for a sparse decoder, whose rate is that of a dense one.
    """
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    text = model.config.get_text_config()
    if max(getattr(text, name, None) or 0 for name in ("num_experts", "num_local_experts")) > 1:
        raise ValueError(
            "The decoder has experts, and the law knows dense decoders only. Change learning_rate "
            "to mm1_hf.training.learning_rate(N), N being the dense parent's parameters without "
            "embeddings, as MM1 did (as reported)."
        )
    return laws.learning_rate(non_embedding_parameters(model))


def adapt_processor(recipe: Recipe, processor: "MM1Processor") -> "MM1Processor":
    """A copy of the processor that cuts images as the recipe says.

    Raises:
        ValueError: If there is no such tiling.
    """
    require_name("tiling", recipe.tiling, TILINGS)
    processor = copy.deepcopy(processor)
    processor.image_processor.tiling = recipe.tiling
    if recipe.tile_size is not None:
        size = {"height": recipe.tile_size, "width": recipe.tile_size}
        processor.image_processor.size = size
    return processor


def plan_run(
    recipe: Recipe,
    *,
    model: "MM1ForConditionalGeneration",
    processor: "MM1Processor",
    mixture: Mixture,
    cache_folder: str | os.PathLike,
    errors: ErrorPolicy | None = None,
) -> PlannedRun:
    """Everything before the first step; arguments as `train`. The model's weights are not read."""
    peak_rate = peak_learning_rate(recipe, model)
    processor = adapt_processor(recipe, processor)
    dataset = PackedDataset(
        mixture,
        processor,
        num_sequences=recipe.num_sequences,
        cache_folder=cache_folder,
        sequence_length=recipe.sequence_length,
        max_images=recipe.max_images,
        window=_WINDOWS[recipe.packing],
        errors=errors,
    )
    return PlannedRun(recipe, processor, mixture, dataset, peak_rate)


def train(
    recipe: Recipe,
    *,
    model: "MM1ForConditionalGeneration",
    processor: "MM1Processor",
    mixture: Mixture,
    output_dir: str | os.PathLike,
    cache_folder: str | os.PathLike | None = None,
    resume: Resume = "no",
    per_device_batch_size: int = 1,
    errors: ErrorPolicy | None = None,
    **arguments: Any,
) -> MM1Trainer:
    """Train a model by a recipe.

    Afterwards `output_dir` holds the model, its processor, checkpoints, and what was done
    (`recipe.json`, `mixture.json`).

    Args:
        recipe: What to do.
        model: The model, which is changed. Its weights should be fp32, also for `bf16=True`.
        processor: Its processor; a copy takes the recipe's tiling.
        mixture: What to train on; see `mixtures.build_mixture`.
        output_dir: Where checkpoints and the result go.
        cache_folder: Where lengths and plan are kept; `output_dir/data` by default.
        resume: `"last"` goes on from the last whole checkpoint in `output_dir`, and begins where
            there is none. `"no"` begins anew, in a folder without checkpoints.
        per_device_batch_size: Sequences that one process holds at once.
        errors: What happens to files that cannot be used.
        arguments: Further fields of `TrainingArguments`, such as `bf16`, `seed`, `save_steps`.

    Returns:
        The trainer, after training.

    Raises:
        ValueError: If recipe, data, model and devices do not fit each other.
    """
    folder = Path(output_dir)
    checkpoint = _checkpoint(folder, resume)
    if checkpoint is not None:
        _require_same(recipe, mixture, folder)
    # First what fails in a moment: measuring the data may take hours.
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    settings = TrainingArguments(
        **recipe.training_arguments(
            output_dir=os.fspath(folder),
            peak_rate=peak_learning_rate(recipe, model),
            per_device_batch_size=per_device_batch_size,
            num_processes=num_processes,
            **arguments,
        )
    )
    require_processes(settings, num_processes)
    run = plan_run(
        recipe,
        model=model,
        processor=processor,
        mixture=mixture,
        cache_folder=cache_folder or folder / "data",
        errors=errors,
    )
    freeze(model, *recipe.frozen)
    trainer = MM1Trainer(
        model,
        settings,
        train_dataset=run.dataset,
        data_collator=MM1Collator(run.processor),
        processing_class=run.processor,
        rate_scales=cast(dict[Part, float], recipe.rate_scales),
        decay=recipe.decay,
        share_of=_SHARES_OF[recipe.unit],
    )
    require_optimizer_for_sharding(trainer)
    if trainer.is_world_process_zero():
        save_recipe(recipe, folder / RECIPE_FILE)
        text = json.dumps(_describe_mixture(mixture), indent=2)
        (folder / MIXTURE_FILE).write_text(text + "\n", encoding="utf-8")
    trainer.train(resume_from_checkpoint=checkpoint)
    _save_whole(trainer, folder)
    return trainer


def _save_whole(trainer: MM1Trainer, folder: Path) -> None:
    """Save model and processor, however the weights are sharded."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        # With sharded checkpoints, `save_model` alone writes no weights.
        plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(os.fspath(folder))


def require_optimizer_for_sharding(trainer: MM1Trainer) -> None:
    """Refuse what transformers' AdaFactor cannot do, before anything is written.

    Raises:
        ValueError: If AdaFactor meets FSDP.
    """
    if trainer.is_fsdp_enabled and "adafactor" in trainer.args.optim:
        raise ValueError(
            "The recipe's optimizer is AdaFactor, which mixes whole and sharded tensors under "
            "FSDP and fails at its first step. Launch with DDP or ZeRO-3, or choose "
            'optim="adamw_torch" with a rate of its own.'
        )


def require_processes(settings: TrainingArguments, num_processes: int) -> None:
    """Refuse processes that were started together and would train apart, each on its own.

    Args:
        settings: The arguments, which have joined the other processes, or should have.
        num_processes: Processes that the launcher started.

    Raises:
        ValueError: If transformers sees another number of them.
    """
    if settings.world_size != num_processes:
        raise ValueError(
            f"WORLD_SIZE is {num_processes}, but transformers has joined {settings.world_size} of "
            "these processes. On machines without accelerators pass use_cpu=True."
        )


def _checkpoint(folder: Path, resume: Resume) -> str | None:
    last = last_complete_checkpoint(folder) if folder.is_dir() else None
    if resume == "last":
        return None if last is None else os.fspath(last)
    if last is not None:
        raise ValueError(
            f"{os.fspath(folder)!r} holds {last.name} of an earlier run. Resume it (resume='last', "
            "on the command line --resume), or choose another output folder."
        )
    return None


def _describe_mixture(mixture: Mixture) -> dict[str, Any]:
    """What decides which documents come in which order, as plain data."""
    sources = {
        leaf.name: {"share": leaf.share, "fingerprint": leaf.source.fingerprint}
        for leaf in mixture.leaves
    }
    return {"unit": mixture.unit, "seed": mixture.seed, "sources": sources}


def _require_same(recipe: Recipe, mixture: Mixture, folder: Path) -> None:
    """Raise if the run to go on with was another one; only its length may change."""
    differs = []
    if (folder / RECIPE_FILE).is_file():
        begun = load_recipe(folder / RECIPE_FILE)
        for name in CHANGEABLE:
            old, new = getattr(begun, name), getattr(recipe, name)
            if name != "steps" and old != new:
                differs.append(f"{name} {old!r}, not {new!r}")
    if (folder / MIXTURE_FILE).is_file():
        old, new = read_json_object(folder / MIXTURE_FILE), _describe_mixture(mixture)
        differs += [f"{n} {old.get(n)!r}, not {new[n]!r}" for n in new if old.get(n) != new[n]]
    if differs:
        raise ValueError(
            f"The run in {os.fspath(folder)!r} was begun with {'; '.join(differs)}. Resume it with "
            f"its own {RECIPE_FILE}, data and seed, or begin another in another folder."
        )
