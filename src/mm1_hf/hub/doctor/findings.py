"""What an examination says: one finding for each check, as a table or as JSON."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Outcome = Literal["pass", "fail", "skip"]


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        check: Name of the check.
        outcome: `"skip"` if what it needs is not there or has failed.
        found: What was found.
        remedy: What to do about it; empty unless it failed.
    """

    check: str
    outcome: Outcome
    found: str
    remedy: str = ""


class Fault(Exception):
    """Raised by a check that fails.

    Args:
        found: What was found, and what was expected.
        remedy: What to do.
    """

    def __init__(self, found: str, remedy: str):
        super().__init__(found)
        self.found = found
        self.remedy = remedy


@dataclass(frozen=True)
class Diagnosis:
    """All findings about a checkpoint, in the order of the checks.

    Attributes:
        source: What was examined.
        findings: One for each check.
    """

    source: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(one.check for one in self.findings if one.outcome == "fail")

    def table(self, *, width: int = 100) -> str:
        """The findings as text, a remedy under each failure, and a sum.

        Args:
            width: Columns of the text.
        """
        wide = max((len(one.check) for one in self.findings), default=0)
        indent = " " * (wide + 8)
        lines: list[str] = []
        for one in self.findings:
            head = f"{one.outcome:<4}  {one.check:<{wide}}  "
            lines += _wrapped(head, one.found, indent, width)
            if one.remedy:
                lines += _wrapped(indent, f"-> {one.remedy}", indent + "   ", width)
        counts = {
            outcome: sum(one.outcome == outcome for one in self.findings)
            for outcome in ("pass", "fail", "skip")
        }
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return "\n".join([*lines, "", f"{self.source}: {said}"])

    def as_json(self) -> dict[str, Any]:
        """The same as plain data: `source`, `passed`, and a list of `findings`."""
        return {
            "source": self.source,
            "passed": not self.failed,
            "findings": [one._asdict() for one in self.findings],
        }


def _wrapped(head: str, text: str, indent: str, width: int) -> Sequence[str]:
    one_line = " ".join(text.split())
    return textwrap.wrap(
        one_line,
        width=max(width, len(indent) + 20),
        initial_indent=head,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ) or [head]
