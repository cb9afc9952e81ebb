"""A published folder in a process of its own: what its readers load, and what it answers there.

What can be imported here decides nothing there: the process starts anew, without network, with
its own cache of remote code, and, where wanted, without `mm1_hf`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mm1_hf.hub import stranger
from mm1_hf.model.configuration_mm1 import image_height_width

# Loaded in this order. `AutoModelForMultimodalLM` is transformers' newer name of the same.
SEEING_AUTO_CLASSES = (
    "AutoConfig",
    "AutoTokenizer",
    "AutoImageProcessor",
    "AutoProcessor",
    "AutoModel",
    "AutoModelForImageTextToText",
    "image-text-to-text",
)
TEXT_AUTO_CLASSES = ("AutoConfig", "AutoTokenizer", "AutoModel", "AutoModelForCausalLM")

# The answer is compared in the last positions only: whole logits of a large vocabulary are large.
LOGITS_TO_KEEP = 8
NEW_TOKENS = 4

# Of the largest logit. The same weights on the same kind of device differ by the order of sums;
# between devices, or in half precision, by more. Both are our choice.
LOGIT_TOLERANCE = 1e-4
LOOSE_LOGIT_TOLERANCE = 2e-2


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model is asked, here and there.

    Attributes:
        text: Text, with the placeholder of each picture.
        pictures: Pictures.
        input_ids: Token ids in place of a text, for a model without tokenizer.
    """

    text: str = ""
    pictures: tuple[Image.Image, ...] = ()
    input_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back from the other process.

    Attributes:
        classes: Class behind each Auto class or pipeline that could be loaded.
        errors: The error of each that could not, and under `"answer"` that of the answer.
        tensors: `input.…` made by the processor, `logits` and `tokens`; empty after an error.
        output: What the process printed, for when nothing came back.
    """

    classes: Mapping[str, str]
    errors: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    output: str = ""


def make_prompt(config: Any, processor: Any) -> Prompt:
    """A prompt that shows a fault: two pictures of different shapes, between words.

    Args:
        config: The model's configuration.
        processor: Its processor, or for a decoder its tokenizer or None.
    """
    if config.model_type != "mm1":
        if processor is not None:
            return Prompt(text="What is in the picture?")
        return Prompt(input_ids=tuple(range(min(8, config.get_text_config().vocab_size))))
    height, width = image_height_width(config.vision_config)
    pictures = (_picture(height, 3 * width // 2), _picture(height // 2 + 1, width // 3 + 1))
    mark = processor.image_token
    return Prompt(text=f"What is in {mark} and what in {mark}?", pictures=pictures)


def _picture(height: int, width: int) -> Image.Image:
    """Stripes in all directions: a turned, mirrored or shifted picture has other pixels."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 7 + columns, columns * 5 + 90, (rows - columns) * 3]
    return Image.fromarray((np.stack(channels, axis=-1) % 256).astype(np.uint8))


def answer_here(model: Any, processor: Any, prompt: Prompt) -> dict[str, torch.Tensor]:
    """The tensors of `Answer`, computed in this process."""
    if prompt.input_ids is None:
        pictures = {"images": list(prompt.pictures)} if prompt.pictures else {}
        inputs = dict(processor(text=prompt.text, return_tensors="pt", **pictures))
    else:
        ids = torch.tensor([prompt.input_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    on_device = {name: value.to(model.device) for name, value in inputs.items()}
    was_training = model.training
    made = stranger.answer_tensors(model.eval(), on_device, LOGITS_TO_KEEP, NEW_TOKENS)
    model.train(was_training)
    tensors = {f"input.{name}": value for name, value in inputs.items()} | made
    return {name: value.cpu() for name, value in tensors.items()}


def ask_stranger(
    folder: str | Path,
    *,
    prompt: Prompt | None,
    load: Sequence[str],
    model: str,
    code: str,
    requires: Iterable[str] = (),
) -> Answer:
    """Load a folder in a new process, and ask the model there.

    Args:
        folder: The folder.
        prompt: What to ask; None to load only.
        load: Names of Auto classes, and tasks of pipelines.
        model: Which of them answers.
        code: `"remote"`: with the folder's own code, where `mm1_hf` cannot be imported; or
            `"installed"`: with `mm1_hf`, and the folder's code not trusted.
        requires: Modules to import first.
    """
    with tempfile.TemporaryDirectory(prefix="mm1-stranger-") as scratch:
        place = Path(scratch)
        request = {
            "folder": str(Path(folder).resolve()),
            "absent": ["mm1_hf"] if code == "remote" else [],
            "imports": [] if code == "remote" else ["mm1_hf", *requires],
            "trust_remote_code": code == "remote",
            "load": list(load),
            "model": model,
            "threads": torch.get_num_threads(),
            "tensors": str(place / "tensors.safetensors"),
            "prompt": None if prompt is None else _saved(prompt, place),
        }
        (place / "request.json").write_text(json.dumps(request), encoding="utf-8")
        source = Path(stranger.__file__).read_text(encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", source, str(place / "request.json"), str(place / "answer.json")],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            cwd=place,
            env=_environment(place),
        )
        return _read_answer(place, done.stdout + done.stderr)


def _saved(prompt: Prompt, place: Path) -> dict[str, Any]:
    pictures = []
    for number, picture in enumerate(prompt.pictures):
        pictures.append(str(place / f"{number}.png"))
        picture.save(pictures[-1])
    return {
        "text": prompt.text,
        "pictures": pictures,
        "input_ids": prompt.input_ids,
        "logits_to_keep": LOGITS_TO_KEEP,
        "new_tokens": NEW_TOKENS,
    }


def _environment(place: Path) -> dict[str, str]:
    """This one's, offline, with an empty cache of remote code and paths that stay right."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(place / "modules"),
        "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in paths if path),
        "PYTHONWARNINGS": "ignore",
    }


def _read_answer(place: Path, output: str) -> Answer:
    file = place / "answer.json"
    if not file.exists():
        return Answer({}, {"process": "the process ended without an answer"}, output=output[-4000:])
    answer = json.loads(file.read_text(encoding="utf-8"))
    entries = dict(answer["loaded"])
    if answer["outcome"] is not None:
        entries["answer"] = answer["outcome"]
    errors = {name: entry["error"] for name, entry in entries.items() if "error" in entry}
    if answer["strays"]:
        errors["process"] = f"{', '.join(answer['strays'])} was imported after all"
    classes = {name: entry["class"] for name, entry in entries.items() if "class" in entry}
    tensors: dict[str, torch.Tensor] = {}
    if (place / "tensors.safetensors").exists():
        from safetensors.torch import load

        tensors = load((place / "tensors.safetensors").read_bytes())
    traces = [entry["trace"] for entry in entries.values() if "trace" in entry]
    return Answer(classes, errors, tensors, output="\n".join([output[-2000:], *traces]))


def differences(
    expected: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
    *,
    tolerance: float = LOGIT_TOLERANCE,
) -> list[str]:
    """What differs between two answers, as sentences; none if they are alike.

    Args:
        expected: One answer: inputs, logits and greedy tokens.
        found: The other.
        tolerance: Largest difference of logits, as a share of the largest logit. Everything else
            must be equal; but above `LOGIT_TOLERANCE` rounding may choose another token, so
            tokens are not compared.
    """
    said = []
    for name, one in expected.items():
        other = found.get(name)
        if name == "tokens" and tolerance > LOGIT_TOLERANCE:
            continue
        if other is None or one.shape != other.shape:
            shape = None if other is None else tuple(other.shape)
            said.append(f"{name} has shape {shape} instead of {tuple(one.shape)}")
        elif name == "logits":
            scale = one.abs().max().clamp_min(1e-6)
            distance = ((one - other).abs().max() / scale).item()
            if not distance <= tolerance:
                said.append(f"logits differ by {distance:.1e} of the largest one")
        elif not torch.equal(one, other):
            said.append(f"{name} differs in {int((one != other).sum())} of {one.numel()} values")
    said += [f"{name} is new" for name in found if name not in expected]
    return said
