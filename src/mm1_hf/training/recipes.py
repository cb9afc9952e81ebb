"""The recipes of MM1 and MM1.5, each number with its standing.

Source: MM1, arXiv 2403.09611, sections 3.3, 4 and 5; MM1.5, arXiv 2409.20566.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from mm1_hf.training.laws import DECAY_PER_RATE
from mm1_hf.training.recipe import Recipe, Stage, Standing

Generation = Literal["mm1", "mm1.5"]

# Sets of MM1's fine-tuning and their thousands of examples (reported).
MM1_SFT_THOUSANDS = {
    "text_only": 13,
    "llava_conversation": 57,
    "llava_complex": 77,
    "sharegpt4v": 102,
    "vqav2": 83,
    "gqa": 72,
    "okvqa": 9,
    "ocrvqa": 80,
    "dvqa": 200,
    "chartqa": 18,
    "ai2d": 3,
    "docvqa": 39,
    "infovqa": 24,
    "synthdog_en": 500,
    "a_okvqa": 66,
    "coco_captions": 83,
    "textcaps": 22,
}

# Percent of all examples of MM1.5's fine-tuning (published); the first six are of one image.
MM15_SFT_PERCENT = {
    "text_rich": 37.2,
    "refer_and_ground": 22.5,
    "general": 11.3,
    "math": 5.6,
    "code": 2.3,
    "science": 1.1,
    "multi_image": 10.0,
    "text": 10.0,
}

# AdaFactor clips its own updates, so gradients are not clipped too.
_FINE_TUNING_CHOICES: dict[str, Any] = {
    "weight_decay": 0.0,
    "beta1": None,
    "beta2": None,
    "epsilon": None,
    "max_grad_norm": None,
    "warmup_share": 0.03,
    "rate_scales": {},
    "decay": "matrices",
}


def pretrain(generation: Generation = "mm1", **changes: Any) -> Recipe:
    """Pre-training; everything trains.

    Args:
        generation: `"mm1"`: captions, interleaved documents and text at 45 : 45 : 10. `"mm1.5"`: at
            50 : 10 : 40; the numbers that its paper leaves open are MM1's (our choice).
        changes: Fields of `Recipe` to change.
    """
    mm1 = _recipe(
        "mm1-pretrain",
        "pretrain",
        published={
            "weights": {"captions": 45, "interleaved": 45, "text": 10},
            "sequence_length": 4096,
            "max_images": 16,
            "tiling": "none",
            "tile_size": 378,
            "steps": 200_000,
            "batch_size": 512,
            "learning_rate": None,
            "weight_decay": DECAY_PER_RATE,
            "warmup_share": 0.01,
            "final_share": 0.1,
            "frozen": (),
        },
        reported={
            "unit": "sequence",
            "packing": "best_fit",
            "optimizer": "adamw",
            "beta1": 0.9,
            "beta2": 0.95,
            "epsilon": 1e-8,
            "max_grad_norm": 1.0,
        },
        ours={"rate_scales": {}, "decay": "matrices"},
    )
    recipes = {
        "mm1": mm1,
        "mm1.5": _derived(
            mm1,
            "mm1.5-pretrain",
            weights={"captions": 50, "interleaved": 10, "text": 40},
            steps=200_000,
            sequence_length=4096,
            tile_size=378,
        ),
    }
    return _chosen(recipes, generation).change(**changes)


def continual(**changes: Any) -> Recipe:
    """MM1.5's continual pre-training on pictures full of text, at high resolution.

    Its 30,000 steps are the most that the paper names. Images are split dynamically.

    Args:
        changes: Fields of `Recipe` to change.
    """
    return _recipe(
        "mm1.5-continual",
        "continual",
        published={
            "weights": {"ocr": 1},
            "tiling": "dynamic",
            "tile_size": 672,
            "steps": 30_000,
            "batch_size": 256,
            "optimizer": "adafactor",
            "learning_rate": 1e-5,
        },
        reported={},
        ours={
            **_FINE_TUNING_CHOICES,
            "unit": "sequence",
            "packing": "best_fit",
            "sequence_length": 4096,
            "max_images": 16,
            "final_share": 0.0,
            "frozen": (),
        },
    ).change(**changes)


def sft(generation: Generation = "mm1", **changes: Any) -> Recipe:
    """Supervised fine-tuning; everything trains.

    One example per sequence (our choice): 10,000 steps of 256 examples are then 1.8 passes over
    MM1's 1.45 million.

    Args:
        generation: `"mm1"`: images as overview and quarters of 672 px. `"mm1.5"`: images split
            dynamically.
        changes: Fields of `Recipe` to change.
    """
    shared = {**_FINE_TUNING_CHOICES, "packing": "none"}
    recipes = {
        "mm1": _recipe(
            "mm1-sft",
            "sft",
            published={
                "sequence_length": 2048,
                "tiling": "static",
                "tile_size": 672,
                "steps": 10_000,
                "batch_size": 256,
                "optimizer": "adafactor",
                "learning_rate": 1e-5,
                "frozen": (),
            },
            reported={
                "weights": MM1_SFT_THOUSANDS,
                "unit": "document",
                "final_share": 0.0,
            },
            ours={**shared, "max_images": 16},
        ),
        "mm1.5": _recipe(
            "mm1.5-sft",
            "sft",
            published={
                "weights": MM15_SFT_PERCENT,
                "tiling": "dynamic",
                "tile_size": 672,
                "steps": 23_000,
                "batch_size": 256,
                "optimizer": "adafactor",
                "learning_rate": 2e-5,
            },
            reported={},
            # 24 pictures of 144 tokens are one of its videos.
            ours={
                **shared,
                "unit": "document",
                "sequence_length": 4096,
                "max_images": 24,
                "final_share": 0.0,
                "frozen": (),
            },
        ),
    }
    return _chosen(recipes, generation).change(**changes)


def _recipe(
    name: str,
    stage: Stage,
    *,
    published: Mapping[str, Any],
    reported: Mapping[str, Any],
    ours: Mapping[str, Any],
) -> Recipe:
    by_standing: dict[Standing, Mapping[str, Any]] = {
        "published": published,
        "reported": reported,
        "ours": ours,
    }
    standing: dict[str, Standing] = {
        field: word for word, values in by_standing.items() for field in values
    }
    return Recipe(name=name, stage=stage, **published, **reported, **ours, standing=standing)


def _derived(parent: Recipe, name: str, **published: Any) -> Recipe:
    """A recipe of which the rest is the parent's, by our choice."""
    standing: dict[str, Standing] = dict.fromkeys(parent.standing, "ours")
    standing |= dict.fromkeys(published, "published")
    return replace(parent, name=name, standing=standing, **published)


def _chosen(recipes: Mapping[str, Recipe], generation: str) -> Recipe:
    if generation not in recipes:
        known = ", ".join(map(repr, get_args(Generation)))
        raise ValueError(f"generation is {generation!r}, but it must be one of: {known}.")
    return recipes[generation]


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (pretrain("mm1"), sft("mm1"), pretrain("mm1.5"), continual(), sft("mm1.5"))
}
