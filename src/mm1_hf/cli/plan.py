"""`mm1 plan`: what a run takes before it starts."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from mm1_hf import MM1Config
    from mm1_hf.training.recipe import Recipe

_IMAGE = re.compile(r"(\d+)x(\d+)")
# Parts that recipes freeze, by the planner's names.
_FROZEN = {"decoder": "language_model", "embeddings": "lm_head"}


class _Size(NamedTuple):
    height: int
    width: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is left out is the recipe's, or else MM1's pre-training."""
    parser.add_argument(
        "source",
        metavar="RECIPE_OR_CONFIG",
        help="name or file of a recipe, such as mm1-pretrain; or a folder or config.json of an MM1",
    )
    parser.add_argument(
        "--model",
        metavar="CONFIG",
        help="with a recipe: folder or config.json of the MM1 (default: MM1Config(), 3.6B)",
    )
    parser.add_argument("--devices", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--device",
        default="h100",
        metavar="NAME",
        help="a100, h100, h200, or PEAK:MEMORY in TFLOP/s and GB, as 459:95 (default: %(default)s)",
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="share of the peak that is reached (default: 0.4)"
    )
    parser.add_argument("--price", type=float, help="of one device for an hour")
    parser.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, help="sequences per optimizer step")
    parser.add_argument("--sequence-length", type=int, help="tokens of a sequence")
    parser.add_argument(
        "--tiles-per-sequence",
        type=float,
        metavar="N",
        help="mean; by default half of the positions are visual tokens",
    )
    parser.add_argument(
        "--per-device-batch-size", type=int, default=1, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--tile-size", type=int, help="side of a tile in pixels")
    parser.add_argument(
        "--precision",
        choices=("fp32", "autocast", "bf16", "bf16_master"),
        default="autocast",
        help="autocast: fp32 weights, bf16 products; bf16_master: bf16 with an fp32 copy "
        "(default: %(default)s)",
    )
    parser.add_argument("--optimizer", choices=("adamw", "adamw_8bit", "adafactor"))
    parser.add_argument(
        "--sharding", choices=("none", "ddp", "fsdp", "zero3"), help="default: fsdp on many devices"
    )
    parser.add_argument("--tensor-parallel", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--checkpointing", action="store_true", help="recompute layers instead of keeping them"
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=_parse_image,
        metavar="HEIGHTxWIDTH",
        help="say what such an image takes; may be repeated",
    )
    parser.add_argument("--tiling", help="how images are cut (default: the recipe's, or none)")
    parser.add_argument("--json", action="store_true", help="plain data in place of a table")


def run(arguments: argparse.Namespace) -> None:
    """Plan, and print the plan."""
    recipe, config = _load(arguments.source, arguments.model)
    from mm1_hf.planning import Layout, image_cost, plan_run

    side = arguments.tile_size or (recipe.tile_size if recipe else None)
    tile_size = None if side is None else (side, side)
    sharding = arguments.sharding
    if sharding is None:
        sharding = "fsdp" if arguments.devices > arguments.tensor_parallel else "none"
    frozen = [_FROZEN.get(name, name) for name in recipe.frozen] if recipe else []
    tiling = arguments.tiling or (recipe.tiling if recipe else "none")
    plan = plan_run(
        config,
        workload=_workload(arguments, recipe, config, tiling=tiling, tile_size=tile_size),
        device=_device(arguments.device),
        layout=Layout(
            devices=arguments.devices,
            sharding=sharding,
            tensor_parallel=arguments.tensor_parallel,
        ),
        mfu=arguments.mfu,
        price_per_hour=arguments.price,
        sequences_per_device=arguments.per_device_batch_size,
        precision=arguments.precision,
        optimizer=arguments.optimizer or (recipe.optimizer if recipe else "adamw"),
        frozen=frozen,
        recompute="layers" if arguments.checkpointing else "nothing",
        tile_size=tile_size,
    )
    images = {
        f"{height}x{width}": image_cost(
            config, height=height, width=width, tiling=tiling, tile_size=tile_size
        )
        for height, width in arguments.image
    }
    if arguments.json:
        costs = {
            name: {"tiles": cost.tiles, "tokens": cost.tokens, "flops": cost.flops}
            for name, cost in images.items()
        }
        print(json.dumps(plan.to_dict() | {"images": costs}, indent=2))
        return
    print(plan.table())
    for name, cost in images.items():
        print(
            f"image of {name}: {cost.tiles} tiles, {cost.tokens} tokens, "
            f"{cost.flops / 1e12:.3g} TFLOP"
        )


def _workload(
    arguments: argparse.Namespace,
    recipe: "Recipe | None",
    config: "MM1Config",
    *,
    tiling: str,
    tile_size: tuple[int, int] | None,
) -> Any:
    """The recipe's numbers, and those of the command line before them."""
    from dataclasses import replace

    from mm1_hf.model.configuration_mm1 import image_height_width
    from mm1_hf.planning import Workload, image_cost

    vision = cast("PreTrainedConfig", config.vision_config)
    workload = Workload()
    if recipe is not None:
        workload = Workload(
            steps=recipe.steps,
            sequences_per_step=recipe.batch_size,
            sequence_length=recipe.sequence_length,
        )
    named = {
        "steps": arguments.steps,
        "sequences_per_step": arguments.batch_size,
        "sequence_length": arguments.sequence_length,
        "tiles_per_sequence": arguments.tiles_per_sequence,
    }
    workload = replace(workload, **{name: n for name, n in named.items() if n is not None})
    if recipe is None or arguments.tiles_per_sequence is not None:
        return workload
    # A recipe bounds the images of a sequence; what a large square becomes stands for each.
    height, width = (2 * side for side in tile_size or image_height_width(vision))
    image = image_cost(config, height=height, width=width, tiling=tiling, tile_size=tile_size)
    most = recipe.max_images * image.tiles
    half = workload.sequence_length * image.tiles / 2 / image.tokens
    return replace(workload, tiles_per_sequence=min(most, half))


def _device(text: str) -> Any:
    from mm1_hf.planning import DEVICES, Device

    if text in DEVICES:
        return DEVICES[text]
    peak, _, memory = text.partition(":")
    try:
        return Device(peak_flops=float(peak) * 1e12, memory=float(memory) * 1e9)
    except ValueError:
        raise ValueError(
            f"--device is {text!r}, but it must be one of {', '.join(DEVICES)}, or PEAK:MEMORY in "
            "TFLOP/s and GB, as 459:95."
        ) from None


def _load(source: str, model: str | None) -> tuple["Recipe | None", "MM1Config"]:
    """The recipe, if the source is one, and the configuration."""
    path = Path(source)
    if path.is_dir() or (path.is_file() and "model_type" in _read(path)):
        if model is not None:
            raise ValueError(f"{source!r} is a configuration already: leave --model out.")
        return None, _config(path)
    from mm1_hf import MM1Config
    from mm1_hf.training.recipe_files import load_recipe

    return load_recipe(source), MM1Config() if model is None else _config(Path(model))


def _config(path: Path) -> "MM1Config":
    """An MM1's configuration from a folder or a file."""
    from huggingface_hub.errors import StrictDataclassError

    from mm1_hf import MM1Config

    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"There is no {str(file)!r}. Give the folder or the config.json of an MM1."
        )
    content = _read(file)
    if content.get("model_type") != MM1Config.model_type:
        raise ValueError(
            f"{str(file)!r} has the model_type {content.get('model_type')!r}, but plans are made "
            f"for {MM1Config.model_type!r}. Compose an MM1 and save its configuration."
        )
    content.pop("model_type")
    try:
        return MM1Config.from_dict(content)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{str(file)!r}: {' '.join(str(error).split())}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds no JSON object, so it is no configuration.")
    return content


def _parse_image(text: str) -> _Size:
    match = _IMAGE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no HEIGHTxWIDTH, such as 1344x1344")
    return _Size(int(match[1]), int(match[2]))
