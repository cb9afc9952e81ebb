"""`mm1 upcycle`: a dense checkpoint as a sparse one."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source",
        help="folder with safetensors files, one such file, or a Hub id: a dense MM1 or its "
        "decoder, a LLaVA, or a decoder of the Llama, Mistral, Qwen2 or Qwen3 family",
    )
    parser.add_argument("target", type=Path, help="folder to write; it must not exist yet")
    parser.add_argument(
        "--num-experts", type=int, required=True, metavar="E", help="experts of each sparse layer"
    )
    parser.add_argument(
        "--every",
        type=int,
        required=True,
        metavar="N",
        help="make every N-th layer sparse, the last one of each group",
    )
    parser.add_argument("--experts-per-token", type=int, default=2, metavar="K", help="default: 2")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="add noise to the experts, as a share of each matrix's standard deviation; the output "
        "is the dense model's no longer (default: 0)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of routers and noise (default: 0)"
    )
    parser.add_argument(
        "--max-positions",
        type=int,
        metavar="N",
        help="decoders of others: longest sequence of the result; a sliding window asks for it",
    )


def run(arguments: argparse.Namespace) -> None:
    """Upcycle, and print the report."""
    from transformers import logging

    from mm1_hf.conversion import upcycle_checkpoint

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    report = upcycle_checkpoint(
        arguments.source,
        arguments.target,
        num_experts=arguments.num_experts,
        every=arguments.every,
        num_experts_per_tok=arguments.experts_per_token,
        noise=arguments.noise,
        seed=arguments.seed,
        max_positions=arguments.max_positions,
    )
    print(report)
    print(f"written to {arguments.target}")
