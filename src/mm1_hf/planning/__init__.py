"""Arithmetic before money: parameters, operations, memory, days and cost, from a configuration.

Nothing is downloaded and no weight is made: a 30B model is planned in seconds on a laptop.
"""

from mm1_hf.planning.flops import FlopCount, FlopModel, flop_model, training_flops
from mm1_hf.planning.holdings import Layout
from mm1_hf.planning.memory import (
    GenerationMemory,
    TrainingMemory,
    generation_memory,
    training_memory,
)
from mm1_hf.planning.parameters import ParameterCount, PartParameters, count_parameters
from mm1_hf.planning.plan import (
    DEVICES,
    Device,
    ImageCost,
    Plan,
    Workload,
    image_cost,
    plan_run,
)

__all__ = [
    "DEVICES",
    "Device",
    "FlopCount",
    "FlopModel",
    "GenerationMemory",
    "ImageCost",
    "Layout",
    "ParameterCount",
    "PartParameters",
    "Plan",
    "TrainingMemory",
    "Workload",
    "count_parameters",
    "flop_model",
    "generation_memory",
    "image_cost",
    "plan_run",
    "training_flops",
    "training_memory",
]
