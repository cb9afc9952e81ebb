"""`mm1 doctor`: does a checkpoint load and work for others as it does for its maker?"""

import argparse
import json
import shutil


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", help="folder or Hub id of a model and its processor")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument(
        "--import",
        dest="requires",
        action="append",
        default=[],
        metavar="MODULE",
        help="module with parts of your own, which the model needs; may be repeated",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the new processes, in which every Auto class loads",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Examine, print the findings, and exit with status 1 if anything failed."""
    from transformers import logging

    from mm1_hf.hub.doctor import examine

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    diagnosis = examine(
        arguments.checkpoint,
        revision=arguments.revision,
        fresh_processes=not arguments.quick,
        requires=arguments.requires,
    )
    if arguments.json:
        print(json.dumps(diagnosis.as_json(), indent=2))
    else:
        print(diagnosis.table(width=shutil.get_terminal_size((100, 24)).columns))
    if diagnosis.failed:
        raise SystemExit(1)
