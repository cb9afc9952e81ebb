"""`mm1 demo`: the main job, from handwritten digits to a published model that answers."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate, publish, check, and print the table."""
    try:
        from mm1_hf.demo.run import run_demo
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The demonstration needs {error.name}. Install it with: pip install 'mm1-hf[demo]'"
        ) from error
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()  # those of saving and loading; training keeps its own
    run_demo(arguments.output, seed=arguments.seed)
