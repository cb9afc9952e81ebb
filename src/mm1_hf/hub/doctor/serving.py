"""Checks of what others need: hooks of serving engines, remote code, and fresh processes."""

import ast
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mm1_hf.hub.clean_process import (
    SEEING_AUTO_CLASSES,
    TEXT_AUTO_CLASSES,
    answer_here,
    ask_stranger,
    differences,
    make_prompt,
)
from mm1_hf.hub.doctor.findings import Fault, Finding
from mm1_hf.hub.doctor.patient import Patient
from mm1_hf.hub.travellers import (
    CONFIG_AUTO_MAP,
    IMAGE_PROCESSOR_AUTO_MAP,
    PROCESSOR_AUTO_MAP,
    TEXT_CONFIG_AUTO_MAP,
)

_PUBLISH_AGAIN = (
    "Publish the model again: `mm1 publish` copies the code and writes every entry of the auto_map."
)
_INPUTS = {"input_ids", "attention_mask", "pixel_values"}

# Engines show a picture of this side to find out how much memory the largest one takes.
_LARGEST_SIDE = 10_000


def hooks(patient: Patient) -> str:
    """What serving engines call and read is there and means what they take it for."""
    model, architecture = patient.model, type(patient.model).__name__
    told = patient.read_json("config.json").get("architectures")
    if told != [architecture]:
        raise Fault(
            f"config.json has the architectures {told}, expected is {[architecture]}: engines "
            "choose the class by it",
            "Save the model again with save_pretrained.",
        )
    if not getattr(model, "_supports_attention_backend", False):
        raise Fault(
            "the model does not take attention functions of engines",
            "Its class must set _supports_attention_backend = True, as MM1PreTrainedModel does.",
        )
    if not patient.sees:
        return f"architecture {architecture}"
    made = patient.ask(patient.picture_sizes[:2])
    surplus = sorted(set(made) - _INPUTS)
    if surplus:
        raise Fault(
            f"the processor also returns {', '.join(surplus)}, which engines would cut by tiles",
            "Name them in MM1Processor.unused_input_names, or return them only where asked for.",
        )
    processor = patient.processor
    if list(processor.image_processor.model_input_names) != ["pixel_values"]:
        raise Fault(
            f"the image processor names the inputs {processor.image_processor.model_input_names}",
            'model_input_names must be ["pixel_values"].',
        )
    with torch.no_grad():
        features: Any = model.model.get_image_features(made["pixel_values"].to(model.dtype))
    if features.pooler_output.shape[0] != len(made["pixel_values"]):
        raise Fault(
            f"get_image_features gives {tuple(features.pooler_output.shape)} for "
            f"{len(made['pixel_values'])} tiles",
            "pooler_output must be (tiles, tokens per tile, width).",
        )
    largest = processor._get_num_multimodal_tokens(image_sizes=[(_LARGEST_SIDE, _LARGEST_SIDE)])
    return f"architecture {architecture}, at most {largest.num_image_tokens[0]} tokens a picture"


def remote_code(patient: Patient) -> str:
    """If the folder carries code, every Auto class is named and every file is there."""
    config = patient.read_json("config.json")
    wanted: dict[str, dict[str, Any]] = {
        "config.json": CONFIG_AUTO_MAP if patient.sees else TEXT_CONFIG_AUTO_MAP
    }
    found = {"config.json": config.get("auto_map") or {}}
    if patient.sees:
        processor = patient.read_json("processor_config.json")
        wanted["processor_config.json"] = {**PROCESSOR_AUTO_MAP, **IMAGE_PROCESSOR_AUTO_MAP}
        found["processor_config.json"] = processor.get("auto_map") or {}
    if not any(found.values()):
        return "none: readers install mm1-hf and import mm1_hf"
    for name, entries in wanted.items():
        missing = [entry for entry in entries if entry not in found[name]]
        if missing:
            raise Fault(f"the auto_map of {name} lacks {', '.join(missing)}", _PUBLISH_AGAIN)
    asked = {stem: name for name, entries in found.items() for stem in _stems(entries)}
    read: set[str] = set()
    while asked:
        stem, asker = asked.popitem()
        read.add(stem)
        asked |= {one: f"{stem}.py" for one in _imports_of(patient, stem, asker) if one not in read}
    return f"{len(read)} files, every Auto class is named"


def _stems(entries: Any) -> Iterator[str]:
    """Names of the files that an auto_map points to."""
    if isinstance(entries, str):
        yield entries.partition(".")[0]
    elif isinstance(entries, dict):
        for entry in entries.values():
            yield from _stems(entry)


def _imports_of(patient: Patient, stem: str, asker: str) -> list[str]:
    """What a file of code imports from beside it; raises if it is not there, or is no Python."""
    file = patient.folder / f"{stem}.py"
    if not file.is_file():
        raise Fault(f"{asker} needs {file.name}, which is not there", _PUBLISH_AGAIN)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise Fault(f"{file.name} is no Python: {error}", _PUBLISH_AGAIN) from error
    return [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
    ]


def fresh_process(
    patient: Patient, *, code: str, requires: Sequence[str] = ()
) -> Iterator[Finding]:
    """One finding for each Auto class in a new process, and one for its answer.

    Args:
        patient: The checkpoint.
        code: `"installed"`: with `mm1_hf`; `"remote"`: where it cannot be imported.
        requires: Modules to import first, with `"installed"`.
    """
    has_tokenizer = patient.sees or patient.tokenizer is not None
    names = [
        name
        for name in (SEEING_AUTO_CLASSES if patient.sees else TEXT_AUTO_CLASSES)
        if has_tokenizer or name != "AutoTokenizer"
    ]
    processor = patient.processor if patient.sees else patient.tokenizer
    prompt = make_prompt(patient.config, processor)
    answer = ask_stranger(
        patient.folder,
        prompt=prompt,
        load=names,
        model="AutoModelForImageTextToText" if patient.sees else "AutoModelForCausalLM",
        code=code,
        requires=requires,
    )
    place = "fresh process" if code == "installed" else "without mm1_hf"
    remedy = (
        "Import mm1_hf before the Auto classes; if that does not help, read the error."
        if code == "installed"
        else _PUBLISH_AGAIN
    )
    for name in [*names, "process"]:
        if name in answer.errors:
            yield Finding(f"{place}: {name}", "fail", answer.errors[name], remedy)
        elif name in answer.classes:
            yield Finding(f"{place}: {name}", "pass", f"is {answer.classes[name]}")
    if any(name != "answer" for name in answer.errors):
        yield Finding(f"{place}: answer", "skip", "needs what has just failed")
        return
    differs = [answer.errors[name] for name in ("answer",) if name in answer.errors]
    differs = differs or differences(answer_here(patient.model, processor, prompt), answer.tensors)
    if differs:
        yield Finding(f"{place}: answer", "fail", "; ".join(differs), remedy)
    else:
        yield Finding(f"{place}: answer", "pass", "inputs, logits and tokens as in this process")
