"""Before anything is published: will it load for others, and answer there as it does here?"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mm1_hf.hub.clean_process import (
    LOGIT_TOLERANCE,
    LOOSE_LOGIT_TOLERANCE,
    SEEING_AUTO_CLASSES,
    TEXT_AUTO_CLASSES,
    Prompt,
    ask_stranger,
    differences,
)
from mm1_hf.hub.travellers import travelling_files

# Packages that every reader has, and the names under which transformers loads remote code.
_EVERYWHERE = ("torch", "transformers", "transformers_modules")


def require_travelling_parts(model: Any, *, remote_code: bool, requires: Sequence[str]) -> None:
    """Go on if readers will have the class of every module of a model.

    A connector of one's own, put into `CONNECTORS`, works here and is missing there.

    Args:
        model: The model.
        remote_code: Whether the travelling files are published with it.
        requires: Modules that readers import first.

    Raises:
        ValueError: If a class comes from elsewhere; names it and the ways to bring it along.
    """
    if remote_code and requires:
        raise ValueError(
            f"requires={list(requires)} names modules that readers install, but remote code is for "
            "readers who install nothing. Publish with remote_code=False (--no-remote-code)."
        )
    travelling = {f"mm1_hf.model.{file.stem}" for file in travelling_files()}
    packages = {name.partition(".")[0] for name in requires}
    for name, module in model.named_modules():
        home = type(module).__module__
        package = home.partition(".")[0]
        if home in travelling or package in _EVERYWHERE or package in packages:
            continue
        raise ValueError(
            f"{name or 'The model'} is a {type(module).__qualname__} of the module {home!r}, which "
            "does not travel with the weights, so nobody else could load the model. Either publish "
            "without code and name the module that readers must import first (remote_code=False, "
            f"requires=[{package!r}]; on the command line --no-remote-code --import {package}), or "
            "put the class into one of the files of mm1_hf/model of your own copy of mm1_hf."
        )


def import_required(requires: Iterable[str]) -> None:
    """Import modules that a model needs, such as the one with a connector of one's own.

    Raises:
        ValueError: If one cannot be imported.
    """
    for name in requires:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"The module {name!r} cannot be imported ({error}). Install it, or put its folder "
                "into PYTHONPATH."
            ) from error


def rehearse(
    folder: str | Path,
    *,
    prompt: Prompt,
    expected: Mapping[str, torch.Tensor],
    config: Any,
    remote_code: bool,
    has_processor: bool,
    requires: Sequence[str] = (),
    device: str = "cpu",
) -> None:
    """Load a folder in a clean process through every Auto class, and compare its answer.

    With remote code `mm1_hf` cannot be imported there; without, `mm1_hf` is all there is.

    Args:
        folder: What is going to be published.
        prompt: What the model is asked.
        expected: What it answered where it comes from; see `clean_process.answer_here`.
        config: The model's configuration.
        remote_code: Whether the folder holds its code.
        has_processor: Whether it holds a processor or a tokenizer.
        requires: Modules that readers import first.
        device: Kind of device on which `expected` was computed; elsewhere numbers are rounded
            otherwise.

    Raises:
        ValueError: If something does not load or is not the same; says what.
    """
    seeing = config.model_type == "mm1"
    names = list(SEEING_AUTO_CLASSES if seeing else TEXT_AUTO_CLASSES)
    if not has_processor:
        names.remove("AutoTokenizer")
    answer = ask_stranger(
        folder,
        prompt=prompt,
        load=names,
        model="AutoModelForImageTextToText" if seeing else "AutoModelForCausalLM",
        code="remote" if remote_code else "installed",
        requires=requires,
    )
    where = "where mm1_hf is not installed" if remote_code else "in a new process"
    if answer.errors:
        listed = "\n".join(f"- {name}: {error}" for name, error in answer.errors.items())
        raise ValueError(
            f"Nothing was published, because the folder does not work {where}:\n{listed}\n"
            f"{answer.output}"
        )
    precise = device == "cpu" and config.dtype in (None, torch.float32)
    problems = differences(
        expected,
        answer.tensors,
        tolerance=LOGIT_TOLERANCE if precise else LOOSE_LOGIT_TOLERANCE,
    )
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise ValueError(
            f"Nothing was published, because the folder answers otherwise {where} than the model "
            f"it was made from:\n{listed}"
        )
