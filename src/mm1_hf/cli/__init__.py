"""The command `mm1 <verb>`: one short file per verb."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

# Verb, and what it is for. A verb's module has `add_arguments(parser)` and `run(arguments)`; it is
# imported only when its verb is used, so that `mm1 --help` answers at once.
VERBS = {
    "ablate": "ask which encoder, how many tokens, which mixture: the paper's studies, or yours",
    "bench": "measure speed and memory against peers, in a clone of the repository",
    "convert": "turn other checkpoints (CLIP, SigLIP, Llama, LLaVA …) into parts of MM1, and back",
    "demo": "train a small MM1 to read handwritten digits, in minutes, and test it",
    "doctor": "find out whether a checkpoint loads and works for others",
    "evaluate": "ask benchmarks of a model, with or without worked examples, and score it",
    "generate": "answer a prompt about pictures with a trained model",
    "plan": "say what a run takes: memory, days, money",
    "pretrain": "pre-train a model by one of the paper's recipes, or one of yours",
    "publish": "bring a model to the Hub, after proving that it works there",
    "serve": "put a checkpoint behind an OpenAI-compatible server",
    "sft": "fine-tune a model by one of the paper's recipes, or one of yours",
    "upcycle": "make a sparse model of a dense one: every expert begins as the block it replaces",
    "view": "write packs of training data as a page to look at",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; errors of input are one line on standard error and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = build_parser(argv).parse_args(argv)
    try:
        _module(arguments.verb).run(arguments)
    except (ValueError, OSError) as error:
        print(f"mm1 {arguments.verb}: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command; of all verbs, only the one in `argv` has its options."""
    parser = argparse.ArgumentParser(
        prog="mm1", description="Apple's MM1 on Hugging Face conventions"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, purpose in VERBS.items():
        subparser = verbs.add_parser(name, help=purpose, description=purpose)
        if list(argv[:1]) == [name]:
            _module(name).add_arguments(subparser)
    return parser


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"mm1_hf.cli.{verb}")
