"""`mm1 evaluate`: ask benchmarks of a trained model and score its answers."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mm1_hf.cli.generate import require_checkpoint

if TYPE_CHECKING:
    from mm1_hf.evaluation import EvaluationResult, Example, Task

_NAMED = re.compile(r"(?P<task>[\w.-]+)=(?P<value>.+)", re.DOTALL)
_DTYPES = ("auto", "float32", "bfloat16", "float16")


class _Named(NamedTuple):
    """A location or split for one task, or for all (None)."""

    task: str | None
    value: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model", required=True, help="folder or Hub id of an MM1 and its processor"
    )
    parser.add_argument("--task", required=True, nargs="+", metavar="NAME", help="such as vqav2")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        type=_parse_named,
        metavar="[NAME=]LOCATION",
        help="a folder, a file or a Hub data set; with several tasks one for each, by its name",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        type=_parse_named,
        default=[],
        metavar="[NAME=]SPLIT",
        help="which split is asked (default: the task's usual one)",
    )
    parser.add_argument(
        "--train-data",
        nargs="+",
        type=_parse_named,
        default=[],
        metavar="[NAME=]LOCATION",
        help="where the demonstrations are drawn from (default: --data)",
    )
    parser.add_argument(
        "--train-split",
        nargs="+",
        type=_parse_named,
        default=[_Named(None, "train")],
        metavar="[NAME=]SPLIT",
        help="split of the demonstrations (default: train)",
    )
    _add_settings(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="answers and reports (default: runs/evaluate/MODEL); the same command goes on there",
    )
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="auto", help="default: the checkpoint's"
    )
    parser.add_argument("--device", help="such as cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--no-progress", action="store_true", help="show no bars")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shots", nargs="+", type=int, default=[0], metavar="N", help="MM1's are 0 4 8 16"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="N", help="of the demonstrations"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="ask N examples, drawn evenly and always the same"
    )
    parser.add_argument(
        "--style",
        choices=("chat", "continuation"),
        default="chat",
        help="chat: for a tuned model, through its chat template (default); continuation: for a "
        "pre-trained one",
    )
    parser.add_argument(
        "--high-resolution-last",
        type=int,
        default=3,
        metavar="N",
        help="demonstrations that are tiled as the question is (default: %(default)s)",
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: the task's")
    for name, what in {
        "bad-images": "a picture cannot be decoded",
        "long-prompts": "a prompt exceeds the context",
        "unlabelled": "an example has no answers to compare with",
    }.items():
        then = "leave it out" if name == "unlabelled" else "count as wrong"
        parser.add_argument(
            f"--{name}",
            choices=("error", "count"),
            default="error",
            help=f"where {what}: stop (default), or {then} and report",
        )


def run(arguments: argparse.Namespace) -> None:
    """Ask every task with every number of shots, print one table."""
    from mm1_hf.evaluation import evaluate, results_table
    from mm1_hf.evaluation.answers import write_json, write_text
    from mm1_hf.evaluation.tasks import get_task

    tasks = {name: get_task(name) for name in dict.fromkeys(arguments.task)}
    _require_known(arguments, tasks)
    require_checkpoint(arguments.model)
    data = {name: _read(task, arguments) for name, task in tasks.items()}
    model, processor = _load(arguments)
    output = arguments.output or Path("runs/evaluate") / Path(arguments.model).resolve().name
    results: list[EvaluationResult] = []
    for name, task in tasks.items():
        examples, demonstrations = data[name]
        for shots in dict.fromkeys(arguments.shots):
            folder = output / name / f"{shots}-shot-{arguments.style}"
            result = evaluate(
                model,
                processor,
                task,
                examples,
                demonstrations=demonstrations,
                num_shots=shots,
                seeds=arguments.seeds,
                batch_size=arguments.batch_size,
                style=arguments.style,
                high_resolution_last=arguments.high_resolution_last,
                max_new_tokens=arguments.max_new_tokens,
                on_bad_image=arguments.bad_images,
                on_long_prompt=arguments.long_prompts,
                on_unlabelled=arguments.unlabelled,
                output=folder,
                progress=not arguments.no_progress,
            )
            results.append(result)
            print(f"{folder}: results.json, answers.html")
    table = results_table(results)
    write_text(output / "summary.txt", table + "\n")
    write_json(output / "summary.json", [result.as_dict() for result in results])
    print(f"\n{table}")


def _parse_named(text: str) -> _Named:
    """Read `[NAME=]VALUE`; a path that exists as it stands is taken as it stands."""
    named = None if Path(text).exists() else _NAMED.fullmatch(text)
    return _Named(named["task"], named["value"]) if named else _Named(None, text)


def _require_known(arguments: argparse.Namespace, tasks: dict[str, "Task"]) -> None:
    for option in ("data", "train_data", "split", "train_split"):
        for task, value in getattr(arguments, option):
            if task is not None and task not in tasks:
                raise ValueError(
                    f"--{option.replace('_', '-')} {task}={value} is for the task {task!r}, "
                    f"but asked are: {', '.join(tasks)}. Check the name."
                )
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit is {arguments.limit}, but at least one example is asked.")


def _value(named: Sequence[_Named], task: str) -> str | None:
    """What is given for a task: under its name, else without a name; None if nothing is."""
    own = [one.value for one in named if one.task == task]
    shared = [one.value for one in named if one.task is None]
    found = own or shared
    if len(found) > 1:
        raise ValueError(
            f"{found[0]!r} and {found[1]!r} are both given for the task {task!r}, but one value is "
            f"expected. Name them, as {task}={found[0]}."
        )
    return found[0] if found else None


def _read(
    task: "Task", arguments: argparse.Namespace
) -> tuple[Sequence["Example"], Sequence["Example"] | None]:
    """The examples of a task, and the split of its demonstrations where there are any."""
    location = _value(arguments.data, task.name)
    if location is None:
        raise ValueError(f"No data is given for the task {task.name!r}. Add {task.name}=LOCATION.")
    examples = task.read(location, split=_value(arguments.split, task.name))
    if arguments.limit is not None:
        examples = _sample(examples, arguments.limit)
    if not any(arguments.shots):
        return examples, None
    train = _value(arguments.train_data, task.name) or location
    return examples, task.read(train, split=_value(arguments.train_split, task.name))


def _sample(examples: Sequence["Example"], limit: int) -> list["Example"]:
    """A part of a split in its order; a larger one contains a smaller one."""
    from mm1_hf.evaluation.few_shot import draw_order

    order = draw_order(len(examples), seed=0, key="limit")
    places = [place for place, _ in zip(order, range(limit), strict=False)]
    return [examples[place] for place in sorted(places)]


def _load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: Any = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=arguments.dtype)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval(), AutoProcessor.from_pretrained(arguments.model)
