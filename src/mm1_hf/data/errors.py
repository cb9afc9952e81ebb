"""Files that cannot be used: raise at the first, or skip, count and log within a budget.

A run of weeks meets damaged images in several worker processes on several ranks, is killed, and
resumes. So counts live in files and not in a process: every process appends lines to a file of its
own in one folder, and the counts are those of all files. Packs are a pure function of the plan, so
what a resumed run meets a second time has the same place in the plan and is counted once.
"""

import json
import logging
import os
import socket
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

logger = logging.getLogger(__name__)

ErrorMode = Literal["raise", "skip"]
# "changed": the file or text no longer has the length that was planned. "unmeasured": a document
# that could not be used when lengths were measured, so that it is in no pack. "unanswered": a
# conversation of whose answers nothing fits into the budgets, so that it is in no pack either.
Reason = Literal[
    "missing",
    "unreadable",
    "empty",
    "not_an_image",
    "too_large",
    "truncated",
    "corrupt",
    "changed",
    "unmeasured",
    "unanswered",
]

MODES: tuple[str, ...] = get_args(ErrorMode)
REASONS: tuple[str, ...] = get_args(Reason)


class BadDataError(ValueError):
    """Data that cannot be used, under a policy that does not let it pass.

    Takes one string: a `DataLoader` rebuilds the errors of its workers that way.
    """


class BadData(Exception):
    """Why something cannot be used; raised where it is found, before any policy is asked."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason: Reason = reason


class Place(NamedTuple):
    """Where the plan uses what is bad; equal in every run of the same plan.

    Attributes:
        pack: Index of the pack.
        piece: Position of the piece of a document in the pack.
        image: Position of the image in the document, or -1 for the whole piece.
    """

    pack: int
    piece: int
    image: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPolicy:
    """What happens when an image or a document cannot be used.

    Args:
        mode: `"raise"`: the first one stops the run. `"skip"`: an image is left out together with
            its placeholders, an unreadable piece of a document as a whole; each is counted by
            source and reason and logged with the document's key.
        budget_per_source: How much may be skipped of each source before the run stops after all: an
            integer is a number, a float a share of what the plan reads from the source (its images
            and its pieces of documents, those that could not be measured included). The default is
            our choice.

    Raises:
        ValueError: If the mode is unknown or the budget is negative or a share above 1.
    """

    mode: ErrorMode = "raise"
    budget_per_source: int | float = 0.01

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            known = ", ".join(map(repr, MODES))
            raise ValueError(f"mode is {self.mode!r}, but it must be one of: {known}.")
        budget = self.budget_per_source
        if not budget >= 0 or (isinstance(budget, float) and budget > 1):
            raise ValueError(
                f"budget_per_source is {budget!r}, but a number (integer) or a share from 0.0 to "
                "1.0 (float) is expected."
            )

    def allowed(self, planned: int) -> int:
        """How many may be skipped of a source of which the plan reads `planned`."""
        budget = self.budget_per_source
        return int(budget * planned) if isinstance(budget, float) else budget


class ErrorLog:
    """What was skipped under one plan, by all processes, ranks and runs that share `folder`.

    Can be pickled and forked; every process opens a file of its own at its first error. A line is
    written before the pack is handed on, and survives the death of the process. Processes that meet
    errors in the same moment may pass the budget by one error each before all stop.

    Args:
        folder: Holds the files; made at the first error.
        policy: The policy.
        planned: For every source, how many images and pieces the plan reads from it, and how many
            it could not measure (`SourceReport.attempted`).
        unmeasured: For every source, how many documents the plan left out because they could not be
            measured; they count towards the budget.
        unanswered: The same for conversations of whose answers nothing fits.

    Raises:
        BadDataError: If a budget is already spent.
    """

    def __init__(
        self,
        *,
        folder: str | os.PathLike,
        policy: ErrorPolicy,
        planned: Mapping[str, int],
        unmeasured: Mapping[str, int],
        unanswered: Mapping[str, int] | None = None,
    ):
        self.folder = Path(folder)
        self.policy = policy
        self._planned = dict(planned)
        self._left_out = {"unmeasured": dict(unmeasured), "unanswered": dict(unanswered or {})}
        self._forget()
        for source in self._planned:
            self._check_budget(source)

    def __getstate__(self) -> dict:
        names = ("folder", "policy", "_planned", "_left_out")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def handle(self, bad: BadData, *, source: str, key: str, place: Place) -> None:
        """Let what is bad be skipped, or raise.

        Args:
            bad: What was found.
            source: Name of the source.
            key: Key of the document.
            place: Where the plan uses it.

        Raises:
            BadDataError: Under `"raise"` always; under `"skip"` if the source's budget is spent.
        """
        what = f"image {place.image} of document" if place.image >= 0 else "document"
        found = f"{what} {key!r} of source {source!r} (pack {place.pack}): {bad}"
        found = found[0].upper() + found[1:]
        if self.policy.mode == "raise":
            raise BadDataError(
                f"{found} Repair or remove it, or pass errors=ErrorPolicy(mode='skip') to leave "
                "out such images and count them."
            )
        self._read_all()
        if place not in self._seen:
            record = {"place": place, "source": source, "reason": bad.reason, "key": key}
            self._append(record | {"message": str(bad)})
            logger.warning("Skipped (%s): %s", bad.reason, found)
        self._check_budget(source, last_key=key)

    def counts(self) -> dict[str, dict[str, int]]:
        """What was skipped so far, by source and reason, over all processes and runs."""
        self._read_all()
        by_source: dict[str, dict[str, int]] = {}
        for (source, reason), count in sorted(self._counts.items()):
            by_source.setdefault(source, {})[reason] = count
        return by_source

    def records(self) -> list[dict]:
        """Everything skipped so far, in the order of the plan: source, reason, key, message."""
        unique = {}
        for path in self._paths():
            for line in path.read_bytes().splitlines():
                if (record := _parse(line)) is not None:
                    unique.setdefault(Place(*record["place"]), record)
        return [unique[place] for place in sorted(unique)]

    def _check_budget(self, source: str, last_key: str | None = None) -> None:
        if self.policy.mode == "raise":
            return
        reasons = self.counts().get(source, {})
        spent, planned = sum(reasons.values()), self._planned.get(source, 0)
        allowed = self.policy.allowed(planned)
        if spent > allowed:
            detail = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            last = f"; the last in document {last_key!r}" if last_key is not None else ""
            raise BadDataError(
                f"Source {source!r} has {spent} images or documents that cannot be used "
                f"({detail}{last}), but its budget is {allowed} of the {planned} that the plan "
                f"reads. Look at the files in {self.folder}, repair the source, or raise "
                "budget_per_source."
            )

    def _forget(self) -> None:
        self._file: tuple[int, int] | None = None  # process, descriptor
        self._offsets: dict[Path, int] = {}
        self._seen: set[Place] = set()
        self._counts: Counter[tuple[str, str]] = Counter(
            {
                (source, reason): count
                for reason, counts in self._left_out.items()
                for source, count in counts.items()
                if count
            }
        )

    def _append(self, record: dict) -> None:
        process = os.getpid()
        # A descriptor inherited by a fork belongs to the parent's file.
        if self._file is None or self._file[0] != process:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"{socket.gethostname()}-{process}-{uuid.uuid4().hex[:8]}.jsonl"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = (process, os.open(self.folder / name, flags, 0o644))
        os.write(self._file[1], json.dumps(record).encode() + b"\n")
        self._read_all()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))

    def _read_all(self) -> None:
        """Count the lines that any process added since the last time."""
        for path in self._paths():
            offset = self._offsets.get(path, 0)
            if path.stat().st_size == offset:
                continue
            with path.open("rb") as file:
                file.seek(offset)
                added = file.read()
            # What follows the last line break is still being written, or never will be.
            added = added[: added.rfind(b"\n") + 1]
            self._offsets[path] = offset + len(added)
            for line in added.splitlines():
                record = _parse(line)
                if record is not None and (place := Place(*record["place"])) not in self._seen:
                    self._seen.add(place)
                    self._counts[record["source"], record["reason"]] += 1


def _parse(line: bytes) -> dict | None:
    """A record, or None for a line that its process did not live to finish."""
    try:
        return json.loads(line)
    except ValueError:
        return None
