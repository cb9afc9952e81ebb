"""A study: a baseline, axes, and a function that turns settings into figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mm1_hf.ablations.axis import Axis, Point
from mm1_hf.ablations.cache import StageCache
from mm1_hf.ablations.findings import Finding
from mm1_hf.ablations.fingerprints import fingerprint

BASELINE = "baseline"


class Context(NamedTuple):
    """What a run is given beside its settings.

    Attributes:
        seed: Decides everything that is random.
        folder: A folder of this cell alone, for checkpoints; kept if the run is interrupted, and
            removed when its figures are there.
        cache: Keeps what several cells need; see `StageCache.get`.
    """

    seed: int
    folder: Path
    cache: StageCache


Run = Callable[[Any, Context], Mapping[str, float]]


class Cell(NamedTuple):
    """One run: settings and a seed.

    Attributes:
        key: Fingerprint of the settings; cells of equal settings are one cell.
        seed: The seed.
        settings: The settings.
        names: Names of the points that these settings are.
    """

    key: str
    seed: int
    settings: Any
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question asked of a model, as differences from a baseline.

    Attributes:
        name: Names the study's folder.
        baseline: A frozen dataclass of settings, such as a training `Recipe`.
        axes: The axes; each changes one field of the baseline.
        run: Trains and tests: figures by name, from settings and `Context`. Same settings and seed,
            same figures.
        seeds: Seeds of which every point is run; five or more give useful intervals.
        change: Makes settings with another value of one field: `Recipe.change` for recipes.
        shown: Figures for the plots, in their order; all of them if empty.
        title: One line about the study, for the page of results.
        findings: What is to be judged by the figures; see `findings`.

    Raises:
        ValueError: If the baseline is no dataclass, an axis changes a field it does not have, or
            names or seeds are repeated.
    """

    name: str
    baseline: Any
    axes: Sequence[Axis]
    run: Run = field(compare=False)
    seeds: Sequence[int] = (0, 1, 2)
    change: Callable[..., Any] = field(default=replace, compare=False)
    shown: Sequence[str] = ()
    title: str = ""
    findings: Sequence[Finding] = ()

    def __post_init__(self) -> None:
        if not is_dataclass(self.baseline) or isinstance(self.baseline, type):
            raise ValueError(
                f"The baseline of {self.name!r} is {self.baseline!r}, but an object of a frozen "
                "dataclass is expected, such as a Recipe."
            )
        known = [entry.name for entry in fields(self.baseline)]
        for axis in self.axes:
            if axis.field not in known:
                raise ValueError(
                    f"The axis {axis.name!r} changes {axis.field!r}, but the fields of the "
                    f"baseline of {self.name!r} are: {', '.join(known)}."
                )
        for what, names in (
            ("axes", [axis.name for axis in self.axes]),
            ("seeds", list(self.seeds)),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"The {what} of {self.name!r} repeat: {names}. Name each once.")
        if not self.seeds:
            raise ValueError(f"The study {self.name!r} has no seeds. Give it at least one.")

    def select(
        self, *, axes: Sequence[str] | None = None, seeds: Sequence[int] | None = None
    ) -> "Study":
        """The study with fewer axes, or other seeds.

        Raises:
            ValueError: If there is no such axis.
        """
        chosen = list(self.axes)
        if axes is not None:
            known = {axis.name: axis for axis in self.axes}
            for name in axes:
                if name not in known:
                    raise ValueError(
                        f"There is no axis {name!r}; the axes of {self.name!r} are: "
                        f"{', '.join(known)}."
                    )
            chosen = [known[name] for name in axes]
        return replace(self, axes=chosen, seeds=self.seeds if seeds is None else seeds)

    def points(self) -> list[Point]:
        """The baseline, then every value of every axis."""
        points = [Point(BASELINE, None, BASELINE, self.baseline)]
        for axis in self.axes:
            for label, value in axis.values.items():
                settings = self.change(self.baseline, **{axis.field: value})
                points.append(Point(f"{axis.name}={label}", axis.name, label, settings))
        return points

    def cells(self) -> list[Cell]:
        """Every run once: seed by seed, so that a study cut short has whole seeds."""
        named: dict[str, tuple[Any, list[str]]] = {}
        for point in self.points():
            key = fingerprint(point.settings)
            named.setdefault(key, (point.settings, []))[1].append(point.name)
        return [
            Cell(key, seed, settings, tuple(names))
            for seed in self.seeds
            for key, (settings, names) in named.items()
        ]
