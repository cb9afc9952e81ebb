"""`mm1 sft`: fine-tune by a recipe, or show what a run would do."""

import argparse

from mm1_hf.cli.pretrain import add_arguments, run_stages

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> None:
    """Fine-tune, or show the plan."""
    run_stages(arguments, stages=("sft",))
