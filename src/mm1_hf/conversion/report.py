"""What a conversion did with every tensor."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class ConversionReport:
    """What a conversion did with each tensor; nothing is left over.

    Attributes:
        source: Class or format the weights came from.
        target: Class or format they went to.
        loaded: Target key to the source keys it was made of, for every tensor of the target.
        reshaped: Target key to what happened to it besides its name.
        filled: Target key to the reason it is a constant that the source does not have.
        set_aside: Source key to the reason the target does not use it; kept for the way back.
        dropped: Source key to the reason it has no place in the target.
        notes: What one should know about the result.
    """

    source: str
    target: str
    loaded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reshaped: dict[str, str] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.target}: {len(self.loaded)} tensors loaded"]
        for verb, reasons in (
            ("reshaped", self.reshaped),
            ("filled in", self.filled),
            ("set aside", self.set_aside),
            ("dropped", self.dropped),
        ):
            lines += [f"  {verb} {line}" for line in _by_reason(reasons)]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def _by_reason(reasons: Mapping[str, str]) -> list[str]:
    """One line for each reason: how many keys, the first of them, why."""
    keys = defaultdict(list)
    for key, reason in reasons.items():
        keys[reason].append(key)
    return [
        f"{len(named)}: {', '.join(named[:2])}{' …' if len(named) > 2 else ''} ({reason})"
        for reason, named in keys.items()
    ]
