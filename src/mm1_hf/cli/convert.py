"""`mm1 convert`: other people's checkpoints as parts of MM1, and back."""

import argparse
from pathlib import Path

_DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source", help="folder with safetensors files, one such file, or a Hub id (owner/name)"
    )
    parser.add_argument("target", type=Path, help="folder to write; it must not exist yet")
    parser.add_argument(
        "--kind",
        default="auto",
        help="clip, open_clip, siglip, aimv2, llama, mistral, qwen2, qwen3, honeybee or llava "
        "(default: what configuration and names say)",
    )
    parser.add_argument(
        "--reverse",
        dest="direction",
        action="store_const",
        const="back",
        default="into",
        help="convert a part of MM1, or a whole one, back into the kind",
    )
    parser.add_argument("--dtype", choices=_DTYPES, help="default: as stored")
    parser.add_argument(
        "--feature-layer",
        type=int,
        metavar="N",
        help="vision towers: hidden state to return; what lies behind is set aside (default: -1)",
    )
    parser.add_argument(
        "--final-norm",
        choices=("apply", "skip"),
        help="vision towers: whether the features pass the last norm (default: apply)",
    )
    parser.add_argument(
        "--max-positions",
        type=int,
        metavar="N",
        help="decoders: longest sequence of the result; a sliding window asks for it",
    )
    parser.add_argument(
        "--num-image-tokens",
        type=int,
        metavar="N",
        help="honeybee: visual tokens per tile, where no configuration tells",
    )
    parser.add_argument(
        "--unused",
        choices=("keep", "drop"),
        default="keep",
        help="what to do with tensors that MM1 does not use: keep them in unused.safetensors for "
        "the way back (default), or drop them",
    )


def run(arguments: argparse.Namespace) -> None:
    """Convert, and print the report."""
    import torch
    from transformers import logging

    from mm1_hf.conversion import ConversionOptions, convert, convert_back

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    options = ConversionOptions(
        feature_layer=arguments.feature_layer,
        use_final_norm=None if arguments.final_norm is None else arguments.final_norm == "apply",
        max_positions=arguments.max_positions,
        num_image_tokens=arguments.num_image_tokens,
    )
    if arguments.direction == "into":
        report = convert(
            arguments.source,
            arguments.target,
            kind=arguments.kind,
            dtype=dtype,
            options=options,
            unused=arguments.unused,
        )
    else:
        if options.given:
            raise ValueError(
                f"{', '.join(options.given)} has no meaning with --reverse: the model says it."
            )
        report = convert_back(arguments.source, arguments.target, kind=arguments.kind, dtype=dtype)
    print(report)
    print(f"written to {arguments.target}")
