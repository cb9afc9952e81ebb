"""`mm1 pretrain`: train by a recipe, or show what a run would do."""

import argparse
from pathlib import Path
from typing import Any

STAGES = ("pretrain", "continual")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: those that differ between two runs of the same recipe, and no others."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="name of a recipe, such as mm1-pretrain or mm1-sft, or a JSON file that changes one: "
        '{"base": "mm1-pretrain", "batch_size": 32}',
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FILE",
        help='JSON: {"sources": {"web": {"path": "captions/*.tar", "part": "captions"}, …}}',
    )
    parser.add_argument(
        "--model", required=True, help="folder or Hub id of an MM1 and its processor"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="checkpoints and the result"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--per-device-batch-size",
        type=int,
        default=1,
        metavar="N",
        help="sequences that a device holds at once (default: %(default)s); the recipe's batch is "
        "reached by accumulation",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="of the computation; weights stay fp32 (default: bf16 where the device has it)",
    )
    parser.add_argument(
        "--attention",
        metavar="NAME",
        help="the decoder's attention (default: mm1_packed_sdpa on CPUs, else the model's own)",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load data (default: %(default)s)"
    )
    parser.add_argument(
        "--save-steps", type=int, default=500, help="steps between checkpoints (default: 500)"
    )
    parser.add_argument(
        "--log-steps", type=int, default=10, help="steps between logs (default: 10)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last whole checkpoint in the output"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="measure and plan the data, print recipe and plan, and train nothing",
    )


def run(arguments: argparse.Namespace) -> None:
    """Pre-train, or show the plan."""
    run_stages(arguments, stages=STAGES)


def run_stages(arguments: argparse.Namespace, *, stages: tuple[str, ...]) -> None:
    """Train by a recipe of one of the stages, or show the plan.

    Raises:
        ValueError: If an argument does not fit; says what to do.
    """
    try:
        from mm1_hf.training.data_files import load_data
        from mm1_hf.training.mixtures import mix
        from mm1_hf.training.recipe_files import load_recipe
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Training needs {error.name}. Install it with: pip install 'mm1-hf[train]'"
        ) from error
    from mm1_hf.cli.generate import require_checkpoint

    recipe = load_recipe(arguments.recipe)
    if recipe.stage not in stages:
        verb = "sft" if recipe.stage == "sft" else "pretrain"
        raise ValueError(f"{recipe.name} is a recipe for another verb. Use: mm1 {verb} …")
    if arguments.steps is not None:
        recipe = recipe.change(steps=arguments.steps)
    require_checkpoint(arguments.model)
    cache = arguments.output / "data"
    data = load_data(arguments.data, index_folder=cache / "indices")
    job = {
        "mixture": mix(recipe, data.sources, seed=arguments.seed),
        "cache_folder": cache,
        "errors": data.errors,
    }
    if arguments.dry_run:
        _show(arguments, recipe, job)
    else:
        _train(arguments, recipe, job)


def _show(arguments: argparse.Namespace, recipe: Any, job: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, logging

    from mm1_hf.training.runs import plan_run

    logging.set_verbosity_error()
    # Sizes are all that a plan needs, and a 30B model is slow to read.
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(arguments.model)
        model: Any = AutoModelForImageTextToText.from_config(config)
    run = plan_run(
        recipe,
        model=model,
        processor=AutoProcessor.from_pretrained(arguments.model),
        **job,
    )
    print(run.describe(model))


def _train(arguments: argparse.Namespace, recipe: Any, job: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mm1_hf.model.packed_attention_mm1 import PACKED_SDPA
    from mm1_hf.training.runs import train

    on_gpu = torch.cuda.is_available()
    model: Any = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32)
    attention = arguments.attention or (None if on_gpu else PACKED_SDPA)
    if attention is not None:
        model.set_attn_implementation({"text_config": attention})
    precision = arguments.precision
    if precision is None:
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    trainer = train(
        recipe,
        model=model,
        processor=AutoProcessor.from_pretrained(arguments.model),
        output_dir=arguments.output,
        resume="last" if arguments.resume else "no",
        per_device_batch_size=arguments.per_device_batch_size,
        **job,
        bf16=precision == "bf16",
        seed=arguments.seed,
        save_steps=arguments.save_steps,
        logging_steps=arguments.log_steps,
        dataloader_num_workers=arguments.workers,
        dataloader_pin_memory=on_gpu,
        use_cpu=not torch.accelerator.is_available(),
    )
    if trainer.is_world_process_zero():
        print(
            f"Trained {trainer.state.global_step:,} steps. Model and processor: {arguments.output}"
        )
