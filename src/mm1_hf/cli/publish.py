"""`mm1 publish`: a checkpoint to the Hub, or into a folder, after proving that it works there."""

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", help="folder or Hub id of a model and its processor")
    parser.add_argument(
        "target",
        help="Hub id (owner/name), or a folder: a path that begins with . / or ~, or lies in a "
        "folder that exists",
    )
    code = parser.add_mutually_exclusive_group()
    code.add_argument(
        "--remote-code",
        dest="code",
        action="store_const",
        const="remote",
        default="remote",
        help="publish the code too, for readers without mm1_hf (default)",
    )
    code.add_argument(
        "--no-remote-code",
        dest="code",
        action="store_const",
        const="installed",
        help="weights and processor only: readers install mm1-hf",
    )
    parser.add_argument(
        "--import",
        dest="requires",
        action="append",
        default=[],
        metavar="MODULE",
        help="module with parts of your own, which readers import too; with --no-remote-code",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", default="main", help="branch (default: %(default)s)")
    parser.add_argument("--license", help="licence of the weights, such as apache-2.0")
    parser.add_argument(
        "--results",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="results.json of `mm1 evaluate`, for the card; may be repeated",
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="further file to publish, such as a picture for the card; may be repeated",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="do and check everything, but replace nothing"
    )


def run(arguments: argparse.Namespace) -> None:
    """Publish, and say what went where."""
    from transformers import logging

    from mm1_hf.hub import publish

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    target = target_of(arguments.target)
    published = publish(
        arguments.checkpoint,
        **target,
        remote_code=arguments.code == "remote",
        requires=arguments.requires,
        private=arguments.private or None,
        revision=arguments.revision,
        license=arguments.license,
        results=arguments.results,
        include=arguments.include,
        dry_run=arguments.dry_run,
    )
    wide = max(map(len, published.files))
    for name, size in published.files.items():
        print(f"{name:<{wide}}  {size:>15,}")
    kind = "without mm1_hf" if arguments.code == "remote" else "in a new process"
    print(f"\nloads and answers alike {kind}")
    if arguments.dry_run:
        print(f"\n{published.card}\nnothing was published (--dry-run)")
    else:
        print(f"published: {published.commit or published.folder}")


def target_of(text: str) -> dict[str, Any]:
    """The Hub id or the folder that a target means.

    Raises:
        ValueError: If it can be neither.
    """
    path = Path(text).expanduser()
    if text.startswith((".", "/", "~", "\\")) or path.is_absolute() or path.parent.is_dir():
        if "/" in text or text.startswith(".") or (text and path.is_dir()):
            return {"folder": path}
    if text.count("/") != 1 or not all(text.split("/")):
        raise ValueError(
            f"The target {text!r} is neither a Hub id (owner/name) nor clearly a folder: write "
            f"./{text} for a folder."
        )
    return {"repo_id": text}
