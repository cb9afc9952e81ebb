"""A point is the baseline with one field changed, and every run has one place on the disk."""

from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import pytest

from mm1_hf.ablations import Axis, Study
from mm1_hf.ablations.fingerprints import fingerprint, plain
from mm1_hf.training.recipe import Recipe
from mm1_hf.training.recipes import RECIPES


@dataclass(frozen=True)
class Part:
    width: int = 4


@dataclass(frozen=True)
class Settings:
    side: int = 16
    part: Part = field(default_factory=Part)


def make_study(**changes) -> Study:
    axes = (
        Axis("side", "side", {"8 px": 8, "16 px": 16}),
        Axis("part", "part", {"wide": Part(8)}),
    )
    defaults = {"name": "s", "baseline": Settings(), "axes": axes, "run": lambda *_: {"x": 1.0}}
    return Study(**{**defaults, **changes})


def test_a_point_differs_from_the_baseline_in_one_field():
    points = make_study().points()
    assert [point.name for point in points] == ["baseline", "side=8 px", "side=16 px", "part=wide"]
    for point in points[1:]:
        differing = [
            name
            for name in ("side", "part")
            if getattr(point.settings, name) != getattr(Settings(), name)
        ]
        assert len(differing) == (0 if point.name == "side=16 px" else 1)


def test_equal_settings_are_one_cell_with_several_names():
    cells = make_study(seeds=(0, 1)).cells()
    assert [(cell.names, cell.seed) for cell in cells[:3]] == [
        (("baseline", "side=16 px"), 0),
        (("side=8 px",), 0),
        (("part=wide",), 0),
    ]
    assert len(cells) == 6 and len({(cell.key, cell.seed) for cell in cells}) == 6


def test_a_recipe_is_changed_by_its_own_rules():
    study = make_study(
        baseline=RECIPES["mm1-pretrain"],
        axes=(Axis("rate", "learning_rate", {"1e-4": 1e-4}),),
        change=Recipe.change,
    )
    changed = study.points()[1].settings
    assert changed.learning_rate == 1e-4 and changed.standing["learning_rate"] == "yours"
    with pytest.raises(ValueError, match="steps"):
        make_study(
            baseline=RECIPES["mm1-pretrain"],
            axes=(Axis("steps", "steps", {"none": 0}),),
            change=Recipe.change,
        ).points()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": {"side": 8}}, "frozen dataclass"),
        ({"axes": (Axis("a", "sid", {"x": 1}),)}, "fields of the baseline"),
        ({"axes": (Axis("a", "side", {"x": 1}), Axis("a", "part", {"x": 1}))}, "repeat"),
        ({"seeds": (0, 0)}, "repeat"),
        ({"seeds": ()}, "no seeds"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_study(**changes)


def test_an_axis_needs_values_with_names_that_fit_a_table():
    with pytest.raises(ValueError, match="no values"):
        Axis("a", "side", {})
    with pytest.raises(ValueError, match="must not be empty"):
        Axis("a", "side", {"8|px": 8})


def test_a_study_can_be_cut_to_some_axes_and_seeds():
    study = make_study().select(axes=["part"], seeds=[4])
    assert [point.name for point in study.points()] == ["baseline", "part=wide"]
    assert {cell.seed for cell in study.cells()} == {4}
    with pytest.raises(ValueError, match="side, part"):
        make_study().select(axes=["colour"])


def test_a_fingerprint_tells_settings_apart_and_nothing_else():
    assert fingerprint(Settings()) == fingerprint(Settings(part=Part(4)))
    changed = [Settings(side=8), Settings(part=Part(5)), replace(Settings(), side=17)]
    assert len({fingerprint(one) for one in [Settings(), *changed]}) == 4
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint((1, 2)) != fingerprint((2, 1))
    assert fingerprint(45) == fingerprint(45.0) != fingerprint(45.5)


def test_settings_become_plain_data_or_are_refused():
    kind = Enum("kind", "one two")
    assert plain({"k": kind.one, "p": Path("a/b"), "i": float("inf"), "t": (1, None)}) == {
        "k": "kind.one",
        "p": "a/b",
        "i": "inf",
        "t": [1, None],
    }
    with pytest.raises(ValueError, match="cannot be compared"):
        plain(Settings(part=lambda: None))
    with pytest.raises(ValueError, match="NaN"):
        plain(float("nan"))
