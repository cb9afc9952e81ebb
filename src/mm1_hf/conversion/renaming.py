"""Rename tables: ordered, reversible, and strict about what is left over."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn


class Rename(NamedTuple):
    """One module path in both namings; `{}` stands for a layer number.

    A path names a module or a parameter: everything below it moves along, so
    `Rename("encoder.layers.{}.mlp", "layers.{}.mlp")` covers `fc1.weight` and `fc2.bias` too.
    """

    source: str
    target: str


@dataclass
class ConversionReport:
    """What a conversion did with each key of its source.

    Attributes:
        source: Class or format the weights came from.
        target: Class they went to.
        renamed: Source key to target key, for every key that was loaded.
        dropped: Source key to the reason it has no place in the target.
    """

    source: str
    target: str
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.target}: {len(self.renamed)} tensors loaded"]
        lines += [f"  dropped {key}: {reason}" for key, reason in self.dropped.items()]
        return "\n".join(lines)


class Conversion(NamedTuple):
    """A converted model and the report of its conversion."""

    model: nn.Module
    report: ConversionReport


class RenameTable:
    """An ordered list of `Rename` rules that runs both ways; the first rule that fits wins.

    Args:
        rules: The rules, most specific first.
    """

    def __init__(self, rules: Iterable[Rename]):
        self.rules = tuple(Rename(*rule) for rule in rules)

    def reversed(self) -> "RenameTable":
        """Return the table that undoes this one."""
        return RenameTable(Rename(rule.target, rule.source) for rule in self.rules)

    def rename(self, key: str) -> str | None:
        """Return the target's name of a source key, or None if no rule fits."""
        for rule in self.rules:
            pattern = re.escape(rule.source).replace(r"\{\}", r"(\d+)")
            match = re.fullmatch(rf"{pattern}((?:\..+)?)", key)
            if match:
                *numbers, rest = match.groups()
                return rule.target.format(*numbers) + rest
        return None

    def apply(
        self,
        state_dict: Mapping[str, torch.Tensor],
        *,
        report: ConversionReport,
        drop: Mapping[str, str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Rename every key of a state dict and enter it into `report`.

        Args:
            state_dict: Tensors under the source's names.
            report: Receives what was renamed and dropped.
            drop: Regular expressions of keys without a place in the target, with the reason.

        Raises:
            ValueError: If a key fits no rule, or two keys would get one name.
        """
        renamed: dict[str, torch.Tensor] = {}
        unknown = []
        for key, tensor in state_dict.items():
            reason = next((why for what, why in (drop or {}).items() if re.search(what, key)), None)
            new_key = self.rename(key)
            if reason is not None:
                report.dropped[key] = reason
            elif new_key is None:
                unknown.append(key)
            elif new_key in renamed:
                raise ValueError(f"Both {key} and another key would be renamed to {new_key}.")
            else:
                renamed[new_key] = tensor
                report.renamed[key] = new_key
        if unknown:
            raise ValueError(
                f"{len(unknown)} keys of {report.source} have no place in {report.target}: "
                f"{', '.join(unknown[:8])}{' …' if len(unknown) > 8 else ''}. Is this really a "
                f"{report.source} checkpoint?"
            )
        return renamed


def load_exactly(
    model: nn.Module, state_dict: Mapping[str, torch.Tensor], *, report: ConversionReport
) -> None:
    """Load a renamed state dict, every key of the model exactly once.

    Raises:
        ValueError: Naming the first keys that are missing, left over or of another shape.
    """
    expected = model.state_dict()
    problems = [f"missing {key}" for key in expected if key not in state_dict]
    problems += [f"left over {key}" for key in state_dict if key not in expected]
    problems += [
        f"{key} has shape {tuple(state_dict[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state_dict and state_dict[key].shape != expected[key].shape
    ]
    if problems:
        raise ValueError(
            f"{report.source} does not fit {report.target} ({len(problems)} problems): "
            f"{'; '.join(problems[:8])}{' …' if len(problems) > 8 else ''}. Compare the sizes in "
            "both configurations."
        )
    model.load_state_dict(state_dict)
