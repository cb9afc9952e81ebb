"""What tells one evaluation from another, so that answers of two are never mixed.

Cheap by choice: weights are sampled, files are known by name and size. It protects from mistakes,
not from forgery.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mm1_hf.evaluation.contract import Example

# Of each parameter, and of a split. Our choice.
_VALUES_PER_PARAMETER = 16
_SAMPLED_EXAMPLES = 64
_UNIMPORTANT = ("_name_or_path", "transformers_version", "dtype", "architectures", "auto_map")


def example_fingerprint(example: Example) -> str:
    """Of a question with its answers and pictures, without decoding pictures or reading tables."""
    return _digest(
        {
            "key": example.key,
            "question": example.question,
            "answers": example.answers,
            "choices": example.choices,
            "images": _image_names(example.images),
        }
    )


def split_fingerprint(examples: Sequence[Example]) -> str:
    """Of a split from which demonstrations are drawn: its size, and a sample of it."""
    step = max(len(examples) // _SAMPLED_EXAMPLES, 1)
    sample = [example_fingerprint(examples[n]) for n in range(0, len(examples), step)]
    return _digest([len(examples), sample])


def question_fingerprint(example: Example, prompt: Callable[[Example], Sequence[Any]]) -> str:
    """Of an example and of the texts around its pictures when it is asked."""
    places = replace(example, images=tuple(range(len(example.images))))
    texts = [segment if isinstance(segment, str) else None for segment in prompt(places)]
    return _digest([example_fingerprint(example), texts])


def model_fingerprint(model: Any) -> str:
    """Of a model's configuration and weights, by some values of each parameter."""
    parts: list[Any] = [type(model).__name__]
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        parts.append(_without(config.to_dict(), _UNIMPORTANT))
    if isinstance(model, torch.nn.Module):
        for name, parameter in model.named_parameters():
            parts.append([name, list(parameter.shape), _sample(parameter)])
    return _digest(parts)


def processor_fingerprint(processor: Any) -> str:
    """Of a processor: vocabulary, template, tiles, normalisation."""
    tokenizer, images = processor.tokenizer, processor.image_processor
    names = ("chat_template", "num_image_tokens", "image_token", "markers")
    return _digest(
        {
            "vocabulary": sorted(tokenizer.get_vocab().items()),
            "images": _without(images.to_dict(), _UNIMPORTANT),
            **{name: getattr(processor, name, None) for name in names},
        }
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {str(k): _without(v, names) for k, v in value.items() if k not in names}
    return [_without(v, names) for v in value] if isinstance(value, (list, tuple)) else value


def _sample(parameter: torch.Tensor) -> list[float] | None:
    if parameter.device.type == "meta":  # offloaded to disk
        return None
    with torch.no_grad():
        flat = parameter.detach().reshape(-1)
        number = min(_VALUES_PER_PARAMETER, flat.numel())
        places = torch.linspace(0, flat.numel() - 1, number, dtype=torch.float64)
        return flat[places.long().to(flat.device)].float().cpu().tolist()


def _image_names(images: Sequence[Any]) -> list[Any]:
    if isinstance(images, (tuple, list)):
        return [_image_name(image) for image in images]
    # Read from a table whenever they are asked for; files among them are known by name.
    paths = getattr(images, "paths", ())
    return [_image_name(path) for path in paths] if paths else [len(images)]


def _image_name(image: Any) -> list[Any]:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return ["bytes", hashlib.sha256(image).hexdigest()]
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        # Without its folder: data may move between two runs.
        return ["file", path.name, path.stat().st_size] if path.is_file() else ["text", str(image)]
    return ["picture", list(getattr(image, "size", ())), getattr(image, "mode", None)]
