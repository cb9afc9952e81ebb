"""`mm1 ablate`: run a study of differences from a baseline; tables, plots, verdicts."""

import argparse
import os
from pathlib import Path

_MOST_JOBS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "study",
        metavar="STUDY",
        help="'paper', or a Python file and the name of a Study in it: my_study.py:STUDY",
    )
    parser.add_argument(
        "--quick", action="store_true", help="of 'paper': two cores, less than an hour"
    )
    parser.add_argument(
        "--axes", metavar="A,B", help="only these axes; see --list (default: all of them)"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="seeds 0 to N-1 (default: the study's own)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/ablate"),
        metavar="FOLDER",
        help="results, and what is needed to go on after an interruption (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(_MOST_JOBS, os.cpu_count() or 1),
        metavar="N",
        help="runs at the same time, each with one thread (default: %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="show axes and values, and run nothing")


def run(arguments: argparse.Namespace) -> None:
    """Run what is missing, and write the page of results.

    Raises:
        ValueError: If there is no such study or axis, or the folder holds another study.
    """
    try:
        from mm1_hf.ablations.loading import PAPER, outline
        from mm1_hf.ablations.report import write_report
        from mm1_hf.ablations.results import load_results
        from mm1_hf.ablations.workers import Choice, run_all
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The laboratory needs {error.name}. Install it with: pip install 'mm1-hf[demo]'"
        ) from error
    from transformers import logging

    axes = None if arguments.axes is None else tuple(arguments.axes.split(","))
    choice = Choice(arguments.study, arguments.quick, axes, arguments.seeds)
    if arguments.list:
        print(outline(choice.studies()))
        return
    if arguments.jobs < 1:
        raise ValueError(f"--jobs is {arguments.jobs}, but at least 1 is needed.")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    studies = run_all(choice, arguments.output, jobs=arguments.jobs)
    results = [load_results(study, arguments.output) for study in studies]
    words = {}
    if arguments.study == PAPER:
        from mm1_hf.ablations.paper.law import law_section
        from mm1_hf.ablations.paper.studies import PREFACE, TITLE

        law = law_section(results, arguments.output)
        words = {"title": TITLE, "preface": PREFACE, "sections": [law] if law else []}
    page = write_report(results, arguments.output, **words)
    print(page.read_text(encoding="utf-8"))
    print(f"Written: {page}, with its plots and results.json.")
