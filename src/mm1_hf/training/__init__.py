"""The paper's training: laws, parameter groups, freezing, recipes, and a run as one function.

Everything trains in transformers' stock `Trainer` too. Names load when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC_NAMES = {
    "adapter_config": "adapters",
    "learning_rate": "laws",
    "share_of_peak": "laws",
    "weight_decay": "laws",
    "ParameterGroup": "parameters",
    "count_parameters": "parameters",
    "non_embedding_parameters": "parameters",
    "parameter_groups": "parameters",
    "freeze": "freezing",
    "unfreeze": "freezing",
    "Recipe": "recipe",
    "continual": "recipes",
    "pretrain": "recipes",
    "sft": "recipes",
    "load_recipe": "recipe_files",
    "save_recipe": "recipe_files",
    "load_data": "data_files",
    "build_mixture": "mixtures",
    "mix": "mixtures",
    "plan_run": "runs",
    "train": "runs",
    "MM1Trainer": "trainer",
    "SafeCheckpoints": "callbacks",
    "SaveOnSignal": "callbacks",
    "last_complete_checkpoint": "checkpoints",
    "survival_callbacks": "callbacks",
}

__all__ = [
    "MM1Trainer",
    "ParameterGroup",
    "Recipe",
    "SafeCheckpoints",
    "SaveOnSignal",
    "adapter_config",
    "build_mixture",
    "continual",
    "count_parameters",
    "freeze",
    "last_complete_checkpoint",
    "learning_rate",
    "load_data",
    "load_recipe",
    "mix",
    "non_embedding_parameters",
    "parameter_groups",
    "plan_run",
    "pretrain",
    "save_recipe",
    "sft",
    "share_of_peak",
    "survival_callbacks",
    "train",
    "unfreeze",
    "weight_decay",
]

if TYPE_CHECKING:
    from mm1_hf.training.adapters import adapter_config
    from mm1_hf.training.callbacks import SafeCheckpoints, SaveOnSignal, survival_callbacks
    from mm1_hf.training.checkpoints import last_complete_checkpoint
    from mm1_hf.training.data_files import load_data
    from mm1_hf.training.freezing import freeze, unfreeze
    from mm1_hf.training.laws import learning_rate, share_of_peak, weight_decay
    from mm1_hf.training.mixtures import build_mixture, mix
    from mm1_hf.training.parameters import (
        ParameterGroup,
        count_parameters,
        non_embedding_parameters,
        parameter_groups,
    )
    from mm1_hf.training.recipe import Recipe
    from mm1_hf.training.recipe_files import load_recipe, save_recipe
    from mm1_hf.training.recipes import continual, pretrain, sft
    from mm1_hf.training.runs import plan_run, train
    from mm1_hf.training.trainer import MM1Trainer


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
