"""Rename tables: ordered, reversible, and strict about what is left over.

A table works on names and shapes alone and gives a `Plan`; tensors are read when the plan is
carried out, one at a time. So every error comes before anything is read or written.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from mm1_hf.conversion.operations import Operation, Piece, Shape
from mm1_hf.conversion.report import ConversionReport


class TensorInfo(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class Rename:
    """One path, or several that are converted together, in both namings.

    `{}` stands for a layer number. A path names a module or a parameter: everything below it moves
    along, so `Rename("encoder.layers.{}.mlp", "layers.{}.mlp")` covers `fc1.weight` too.

    Attributes:
        source: Path in the source, or the paths that `operation` takes together.
        target: Path in the target, or the paths that `operation` gives.
        operation: What happens to the tensors; None means that every bit stays as it is.
    """

    source: str | tuple[str, ...]
    target: str | tuple[str, ...]
    operation: Operation | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The source as a tuple."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def targets(self) -> tuple[str, ...]:
        """The target as a tuple."""
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclass(frozen=True)
class Constant:
    """A tensor that only one side has, and that must be this constant for both to be equal.

    Attributes:
        key: Its name.
        shape: Its shape.
        value: Every element of it.
        reason: Why one side has it.
        side: Which side has it. The target's is filled in, the source's is checked and goes.
    """

    key: str
    shape: Shape
    value: float
    reason: str
    side: str = "target"


@dataclass(frozen=True)
class SetAside:
    """Tensors of the source that the target does not use; they are kept for the way back."""

    source: str
    reason: str


@dataclass(frozen=True)
class Drop:
    """Tensors of the source that have no place in the target, and no use on the way back.

    Attributes:
        source: Path of a module or parameter.
        reason: Why they go.
        equals: Name of another tensor of the source that must hold the same bits.
    """

    source: str
    reason: str
    equals: str | None = None


Rule = Rename | Constant | SetAside | Drop


class Alias(NamedTuple):
    """Another spelling of the source's names that older or larger checkpoints use.

    Attributes:
        prefix: How such a name begins.
        canonical: What the beginning becomes before the rules are asked; None drops the tensor.
        reason: Why it is dropped.
    """

    prefix: str
    canonical: str | None
    reason: str = ""


class Step(NamedTuple):
    """How one tensor of the target is made.

    Attributes:
        sources: Keys of the source.
        info: What it will be.
        pieces: Runs of elements of the sources, one after the other.
        fill: For a constant, every element of it.
    """

    sources: tuple[str, ...]
    info: TensorInfo
    pieces: tuple[Piece, ...] = ()
    fill: float | None = None


# Reads tensors of the source by name; raises ValueError if they are not what the plan needs.
Check = Callable[[Callable[[str], torch.Tensor]], None]


@dataclass
class Plan:
    """What is to be done, tensor by tensor.

    Attributes:
        report: What will have been done.
        steps: Target key to how it is made, in the order of the source.
        set_aside: Canonical key to the source's, for what is kept for the way back.
        checks: What must hold for the data of the source.
    """

    report: ConversionReport
    steps: dict[str, Step] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)


class RenameTable:
    """An ordered list of rules that runs both ways; the first rule that fits wins.

    Args:
        rules: The rules, most specific first.
        aliases: Other spellings of the source's names, most specific first. A table with aliases
            takes no name that fits none of them.
    """

    def __init__(self, rules: Iterable[Rule], aliases: Iterable[Alias] = ()):
        self.rules = tuple(rules)
        self.aliases = tuple(aliases)
        self._patterns = [
            (_pattern(path), rule, place)
            for rule in self.rules
            for place, path in enumerate(_source_paths(rule))
        ]

    def reversed(self) -> "RenameTable":
        """Return the table that undoes this one; it writes the source's canonical names."""
        return RenameTable(rule for rule in map(_reverse, self.rules) if rule is not None)

    def under(self, *, source: str, target: str) -> "RenameTable":
        """Return the rules for a model in which both sides are parts, below these prefixes."""
        return RenameTable(_under(rule, source, target) for rule in self.rules)

    def rename(self, key: str) -> str | None:
        """Return the target's name of a source key, or None unless one rename gives just one."""
        name = self._canonical(key)
        found = None if name is None else self._find(name)
        if found is None or not isinstance(found.rule, Rename) or len(found.rule.targets) != 1:
            return None
        return found.rule.targets[0].format(*found.numbers) + found.rest

    def plan(self, tensors: Mapping[str, TensorInfo], *, report: ConversionReport) -> Plan:
        """Find out how each tensor of the target is made.

        Args:
            tensors: Names, shapes and dtypes of the source.
            report: Receives what will be done.

        Raises:
            ValueError: If a key fits no rule, two keys would get one name, or a tensor has a shape
                that its rule is not made for; names the keys.
        """
        plan = Plan(report)
        groups: dict[tuple, dict[int, str]] = {}
        unknown = []
        names: dict[str, str] = {}
        for key in tensors:
            if (dropped := self._dropped(key)) is not None:
                report.dropped[key] = dropped
                continue
            name = self._canonical(key)
            found = None if name is None else self._find(name)
            if name is None or found is None:
                unknown.append(key)
                continue
            if name in names:
                raise ValueError(f"{names[name]} and {key} are two spellings of one tensor.")
            names[name] = key
            if isinstance(found.rule, Rename):
                group = groups.setdefault((found.rule, found.numbers, found.rest), {})
                group[found.place] = key
            else:
                _plan_other(plan, found.rule, name, key, tensors[key])
        if unknown:
            raise ValueError(_left_over(unknown, report))
        for (rule, numbers, rest), keys in groups.items():
            _plan_rename(plan, rule, numbers, rest, keys, tensors)
        for rule in self.rules:
            if isinstance(rule, Constant) and rule.side == "target":
                _plan_constant(plan, rule, tensors)
        for check in (rule for rule in self.rules if isinstance(rule, Drop) and rule.equals):
            plan.checks += _equality(check, names)
        return plan

    def _dropped(self, key: str) -> str | None:
        alias = next((alias for alias in self.aliases if key.startswith(alias.prefix)), None)
        return alias.reason if alias is not None and alias.canonical is None else None

    def _canonical(self, key: str) -> str | None:
        if not self.aliases:
            return key
        for alias in self.aliases:
            if key.startswith(alias.prefix) and alias.canonical is not None:
                return alias.canonical + key[len(alias.prefix) :]
        return None

    def _find(self, name: str) -> "_Found | None":
        for pattern, rule, place in self._patterns:
            if match := pattern.fullmatch(name):
                *numbers, rest = match.groups()
                return _Found(rule, place, tuple(numbers), rest)
        return None


class _Found(NamedTuple):
    rule: Rule
    place: int
    numbers: tuple[str, ...]
    rest: str


def whole(shape: Shape) -> Piece:
    """All elements of the first source."""
    return Piece(0, 0, math.prod(shape))


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{\}", r"(\d+)") + r"((?:\..+)?)")


def _source_paths(rule: Rule) -> tuple[str, ...]:
    if isinstance(rule, Rename):
        return rule.sources
    if isinstance(rule, Constant):
        return (rule.key,) if rule.side == "source" else ()
    return (rule.source,)


def _reverse(rule: Rule) -> Rule | None:
    if isinstance(rule, Rename):
        operation = None if rule.operation is None else rule.operation.inverse()
        return Rename(rule.target, rule.source, operation)
    if isinstance(rule, Constant):
        side = "source" if rule.side == "target" else "target"
        return Constant(rule.key, rule.shape, rule.value, rule.reason, side)
    return None


def _under(rule: Rule, source: str, target: str) -> Rule:
    if isinstance(rule, Rename):
        sources = tuple(source + path for path in rule.sources)
        targets = tuple(target + path for path in rule.targets)
        return Rename(sources, targets, rule.operation)
    if isinstance(rule, Constant):
        prefix = target if rule.side == "target" else source
        return Constant(prefix + rule.key, rule.shape, rule.value, rule.reason, rule.side)
    if isinstance(rule, Drop):
        equals = None if rule.equals is None else source + rule.equals
        return Drop(source + rule.source, rule.reason, equals)
    return SetAside(source + rule.source, rule.reason)


def _plan_rename(
    plan: Plan,
    rule: Rename,
    numbers: tuple[str, ...],
    rest: str,
    keys: Mapping[int, str],
    tensors: Mapping[str, TensorInfo],
) -> None:
    """Enter the tensors of one rename, or of one operation on several."""
    names = [path.format(*numbers) + rest for path in rule.sources]
    if missing := [name for place, name in enumerate(names) if place not in keys]:
        raise ValueError(
            f"{plan.report.source} has {', '.join(keys.values())}, but lacks "
            f"{', '.join(missing)}, which belongs to it."
        )
    sources = tuple(keys[place] for place in range(len(names)))
    infos = [tensors[key] for key in sources]
    targets = [path.format(*numbers) + rest for path in rule.targets]
    shapes = before = [info.shape for info in infos]
    pieces = [[whole(shape)] for shape in before]
    if rule.operation is not None:
        try:
            shapes = rule.operation.shapes(before)
            pieces = rule.operation.pieces(before)
        except ValueError as error:
            found = ", ".join(f"{key} of shape {tensors[key].shape}" for key in sources)
            raise ValueError(f"{plan.report.source} has {found}, but {error}.") from None
    for place, (target, shape) in enumerate(zip(targets, shapes, strict=True)):
        if target in plan.steps:
            taken = ", ".join(plan.steps[target].sources)
            raise ValueError(f"Both {taken} and {sources[0]} would be renamed to {target}.")
        info = TensorInfo(shape, infos[0].dtype)
        plan.steps[target] = Step(sources, info, tuple(pieces[place]))
        plan.report.loaded[target] = sources
        if rule.operation is not None:
            taken = " + ".join(map(str, before))
            plan.report.reshaped[target] = f"{taken} to {shape}"


def _plan_other(plan: Plan, rule: Rule, name: str, key: str, info: TensorInfo) -> None:
    if isinstance(rule, SetAside):
        plan.set_aside[name] = key
        plan.report.set_aside[key] = rule.reason
    elif isinstance(rule, Drop):
        plan.report.dropped[key] = rule.reason
    elif isinstance(rule, Constant):
        if info.shape != rule.shape:
            raise ValueError(
                f"{key} of {plan.report.source} has shape {info.shape}, expected {rule.shape}."
            )
        plan.report.dropped[key] = f"{rule.value:g} everywhere: {rule.reason}"
        plan.checks.append(partial(_check_constant, rule, key, plan.report))


def _plan_constant(plan: Plan, rule: Constant, tensors: Mapping[str, TensorInfo]) -> None:
    """Enter a constant in the dtype of the source."""
    dtype = next((info.dtype for info in tensors.values()), torch.float32)
    plan.steps[rule.key] = Step((), TensorInfo(rule.shape, dtype), fill=rule.value)
    plan.report.filled[rule.key] = f"{rule.value:g} everywhere: {rule.reason}"


def _check_constant(
    rule: Constant, key: str, report: ConversionReport, read: Callable[[str], torch.Tensor]
) -> None:
    tensor = read(key)
    if not bool((tensor == rule.value).all()):
        raise ValueError(
            f"{key} would have to be {rule.value:g} everywhere, since {report.target} has no such "
            f"tensor, but its values reach from {tensor.min():.3g} to {tensor.max():.3g}: it was "
            "trained. Convert to a kind that has it."
        )


def _equality(rule: Drop, names: Mapping[str, str]) -> list[Check]:
    """The check of a tensor that should be a copy of another."""
    keys = [key for name, key in names.items() if name.startswith(rule.source)]
    other = names.get(rule.equals or "")
    return [partial(_check_equal, key, other) for key in keys if other is not None]


def _check_equal(key: str, other: str, read: Callable[[str], torch.Tensor]) -> None:
    if not torch.equal(read(key), read(other)):
        raise ValueError(
            f"The configuration says that {key} is tied to {other}, but the checkpoint holds two "
            "different tensors, one of which would be lost. Set tie_word_embeddings to false in "
            "its configuration to keep both."
        )


def _left_over(keys: Sequence[str], report: ConversionReport) -> str:
    return (
        f"{len(keys)} keys of {report.source} have no place in {report.target}: "
        f"{', '.join(keys[:8])}{' …' if len(keys) > 8 else ''}. Is this really a "
        f"{report.source} checkpoint?"
    )


def require_exactly(
    found: Mapping[str, Shape],
    expected: Mapping[str, Shape],
    *,
    name: str,
    origin: Callable[[str], str] = str,
) -> None:
    """Compare names and shapes of tensors with those a model has.

    Args:
        found: What there is.
        expected: What there must be.
        name: What is looked at, for the message.
        origin: Where a tensor comes from, for the message.

    Raises:
        ValueError: Naming each tensor that is missing, left over or of another shape, with the
            shapes found and expected.
    """
    problems = [
        f"missing {origin(key)} of shape {shape}"
        for key, shape in expected.items()
        if key not in found
    ]
    problems += [
        f"left over {origin(key)} of shape {shape}"
        for key, shape in found.items()
        if key not in expected
    ]
    problems += [
        f"{origin(key)} has shape {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key]) != tuple(shape)
    ]
    if problems:
        raise ValueError(
            f"{name} does not fit ({len(problems)} problems): {'; '.join(problems[:8])}"
            f"{'; …' if len(problems) > 8 else ''}. Compare the sizes in its configuration with "
            "its weights."
        )
