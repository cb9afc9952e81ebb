"""An axis of a study: one field of the baseline, and the values it takes, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_RESERVED = ("=", "|", "\n")


@dataclass(frozen=True)
class Axis:
    """One field that changes while all others stay.

    A value may be the baseline's own: its point then is the baseline, and costs nothing.

    Attributes:
        name: As users type it after `--axes`.
        field: Field of the baseline that changes.
        values: The values it takes, by the label that tables and plots show, in their order.
        source: The section of a paper whose question this is, or "our choice".

    Raises:
        ValueError: If there is no value, or a name cannot stand in a table.
    """

    name: str
    field: str
    values: Mapping[str, Any]
    source: str = "our choice"

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"The axis {self.name!r} has no values. Give it at least one.")
        for text in (self.name, *self.values):
            found = [sign for sign in _RESERVED if sign in text]
            if not text or found:
                raise ValueError(
                    f"{text!r} is a name on the axis {self.name!r}, but names must not be empty or "
                    f"hold any of {', '.join(map(repr, _RESERVED))}. Choose another."
                )


class Point(NamedTuple):
    """A named place of a study: what differs from the baseline, and the settings it makes.

    Attributes:
        name: `"axis=label"`, or `"baseline"`.
        axis: The axis; None for the baseline.
        label: The value's label.
        settings: The baseline with the one field changed.
    """

    name: str
    axis: str | None
    label: str
    settings: Any
