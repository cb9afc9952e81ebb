"""What a conversion needs to know of a kind of checkpoint: the contract of the files beside."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from mm1_hf.conversion.operations import Shape
from mm1_hf.conversion.renaming import RenameTable
from mm1_hf.conversion.sources import FolderSource, Source

_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


@dataclass(frozen=True)
class ConversionOptions:
    """Choices that a conversion into MM1 leaves open; None means the kind's own default.

    Attributes:
        feature_layer: For vision towers: see `MM1VisionConfig`; blocks behind it are set aside.
        use_final_norm: For vision towers: whether the tower's last norm, which it applies to its
            pooled output only, is applied to all features; if not it is set aside.
        max_positions: For decoders: `max_position_embeddings` of the result. A decoder with a
            sliding window equals one without up to the window's length.
        num_image_tokens: For connectors whose weights do not tell: visual tokens per tile.
    """

    feature_layer: int | None = None
    use_final_norm: bool | None = None
    max_positions: int | None = None
    num_image_tokens: int | None = None

    @property
    def given(self) -> list[str]:
        """Names of the choices that were made."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


@dataclass(frozen=True)
class Side:
    """One end of a conversion.

    Attributes:
        name: Class or format.
        config: Its configuration.
        model_class: Its class; None for formats that are not transformers'.
        stem: Name of its weight files.
        texts: Further JSON files that belong to it.
    """

    name: str
    config: Any = None
    model_class: type[PreTrainedModel] | None = None
    stem: str = "model"
    texts: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def shapes(self) -> dict[str, Shape] | None:
        """Names and shapes its checkpoint must have, or None if no class tells."""
        if self.model_class is None:
            return None
        with torch.device("meta"), no_init_weights():
            model = self.model_class._from_config(self.config)
        tied = set(getattr(model, "all_tied_weights_keys", None) or {})
        return {
            name: tuple(tensor.shape)
            for name, tensor in model.state_dict().items()
            if name not in tied
        }


@dataclass(frozen=True)
class Route:
    """One conversion, in one direction.

    Attributes:
        source: What the weights are.
        target: What they become.
        table: How names and tensors change.
        notes: What one should know about the result.
    """

    source: Side
    target: Side
    table: RenameTable
    notes: tuple[str, ...] = ()


class Format(ABC):
    """A kind of checkpoint that can be converted into a part of MM1, and back.

    Attributes:
        kind: Its name.
        description: What it is, for people.
        model_types: `model_type` of the configurations it has.
        own_type: `model_type` of the part of MM1 it becomes; None if it stays what it is.
        options: Names of the `ConversionOptions` it knows.
        stem: Name of its weight files, where a folder has several.
    """

    kind: ClassVar[str]
    description: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]] = ()
    own_type: ClassVar[str | None] = None
    options: ClassVar[frozenset[str]] = frozenset()
    stem: ClassVar[str] = "model"

    def recognises(self, source: FolderSource) -> bool:
        """Whether a folder is of this kind, for `kind="auto"`."""
        return (source.json("config.json") or {}).get("model_type") in self.model_types

    @abstractmethod
    def route(self, source: Source, options: ConversionOptions) -> Route:
        """The way into MM1.

        Raises:
            ValueError: If the model has something that MM1's part has not.
        """

    @abstractmethod
    def route_back(self, source: Source) -> Route:
        """The way back.

        Raises:
            ValueError: If the part of MM1 has something that this kind has not.
        """

    def write_texts(self, source: FolderSource, folder: Path, route: Route) -> list[str]:
        """Write what belongs to the weights, as configuration, tokenizer, processor.

        Returns:
            What one should know about it.
        """
        write_config(route.target, folder)
        return []


def write_config(side: Side, folder: Path) -> None:
    """Write the configuration and further JSON files of one end."""
    if side.config is not None:
        side.config.save_pretrained(folder)
    for name, content in side.texts.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def copy_tokenizer(source: FolderSource, folder: Path) -> None:
    """Copy the files of a tokenizer, and settings of generation."""
    for name in (*_TOKENIZER_FILES, "generation_config.json"):
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)


def require_options(config: PreTrainedConfig, expected: Mapping[str, Any], *, name: str) -> None:
    """Compare fields of a configuration of ours with what another architecture is.

    Raises:
        ValueError: Naming each field, what it is and what it must be.
    """
    wrong = [
        f"{key} is {getattr(config, key)!r}, expected {value!r}"
        for key, value in expected.items()
        if getattr(config, key) != value
    ]
    if wrong:
        raise ValueError(f"{name} cannot hold this model: {'; '.join(wrong)}.")
