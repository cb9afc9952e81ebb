"""Writes a model and its processor into a folder that loads through transformers' Auto classes."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mm1_hf.hub.travellers import (
    CONFIG_AUTO_MAP,
    IMAGE_PROCESSOR_AUTO_MAP,
    PROCESSOR_AUTO_MAP,
    TEXT_CONFIG_AUTO_MAP,
    travelling_files,
)
from mm1_hf.model.processing_mm1 import MM1Processor

_AUTO_MAPS = {"mm1": CONFIG_AUTO_MAP, "mm1_text": TEXT_CONFIG_AUTO_MAP}


def publish_to_folder(
    *,
    model: PreTrainedModel,
    processor: MM1Processor | None,
    folder: str | Path,
    remote_code: bool = True,
    max_shard_size: str = "5GB",
) -> Path:
    """Write a model, its processor and, if wanted, their code into a folder.

    The folder is complete or not there at all: it is written under a temporary name beside its
    place and then moved. An older folder of the same name is replaced.

    Args:
        model: `MM1ForConditionalGeneration` or `MM1ForCausalLM`.
        processor: The processor the model was trained with; None only for a model of text alone.
        folder: Where to write.
        remote_code: Whether to copy the code, so that `trust_remote_code=True` loads the folder
            where mm1_hf is not installed.
        max_shard_size: Largest size of one file of weights.

    Returns:
        The folder.

    Raises:
        ValueError: If the model's type is unknown, or a model that sees comes without a processor.
        FileExistsError: If `folder` exists and holds anything but a published model.
    """
    folder = Path(folder)
    if model.config.model_type not in _AUTO_MAPS:
        raise ValueError(
            f"Cannot publish a model of type {model.config.model_type!r}: expected one of "
            f"{', '.join(_AUTO_MAPS)}."
        )
    if processor is None and model.config.model_type == "mm1":
        raise ValueError(
            "A model that sees cannot be used without its processor: pass processor=, the "
            "MM1Processor it was trained with."
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} exists and holds no published model, so it is not overwritten. Choose "
            "another folder or empty this one."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        complete = Path(scratch) / folder.name
        model.save_pretrained(complete, max_shard_size=max_shard_size)
        if processor is not None:
            processor.save_pretrained(complete)
        if remote_code:
            _add_code(complete, model_type=model.config.model_type)
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        complete.rename(folder)
    return folder


def _add_code(folder: Path, *, model_type: str) -> None:
    """Copy the travelling files and say in each JSON file which class stands where."""
    for file in travelling_files():
        shutil.copyfile(file, folder / file.name)
    _update_json(folder / "config.json", auto_map=_AUTO_MAPS[model_type])
    processor_file = folder / "processor_config.json"
    if processor_file.exists():
        entries = json.loads(processor_file.read_text(encoding="utf-8"))
        image_processor = {**entries["image_processor"], "auto_map": IMAGE_PROCESSOR_AUTO_MAP}
        auto_map = {**PROCESSOR_AUTO_MAP, **IMAGE_PROCESSOR_AUTO_MAP}
        _update_json(processor_file, auto_map=auto_map, image_processor=image_processor)


def _update_json(file: Path, **entries: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content.update(entries)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
