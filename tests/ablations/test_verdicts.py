"""A finding is reproduced, not reproduced, or open, by its intervals and nothing else."""

from dataclasses import dataclass

import pytest

from mm1_hf.ablations import Axis, Study
from mm1_hf.ablations.paper.findings import FINDINGS
from mm1_hf.ablations.paper.studies import paper
from mm1_hf.ablations.results import Results
from mm1_hf.ablations.verdicts import as_data, describe, judge

FIGURES = ("zero_shot", "shots_4", "shots_8", "score", "text_accuracy", "balance")
# Of the mean of every figure, for a world in which all six findings are true.
TRUE_WORLD = {
    "resolution=12 px": -0.2,
    "encoder=small": -0.05,
    "tokens=1": -0.1,
    "mixture=100:0:0": {"zero_shot": 0.1, "shots_8": -0.4, "text_accuracy": -0.1, "balance": -0.2},
    "mixture=50:50:0": {"balance": -0.05},
    "mixture=0:100:0": {"zero_shot": -0.4, "balance": -0.1},
    "mixture=33:33:33": {"balance": -0.05},
    "text=50:50:0": {"shots_4": -0.05, "shots_8": -0.05, "text_accuracy": -0.1},
    "captions=0% full": -0.05,
}


def make_results(effects: dict, *, noise: float = 0.002, num_seeds: int = 3) -> Results:
    """Figures around 0.5, moved by the effects, with noise that differs between the seeds."""
    (study, *_) = paper("quick")
    figures: dict = {}
    for place, point in enumerate(study.points()):
        effect = effects.get(point.name, 0.0)
        for seed in range(num_seeds):
            sign = (-1) ** (place + seed)
            figures.setdefault(point.name, {})[seed] = {
                name: 0.5
                + (effect.get(name, 0.0) if isinstance(effect, dict) else effect)
                + noise * sign * (1 + seed)
                for name in FIGURES
            }
    return Results(study, figures, {}, 0, 0, 0.0, ())


def rulings(results: Results) -> dict[int, str]:
    return {one.finding.number: one.ruling for one in judge(FINDINGS, results)}


def test_every_finding_is_reproduced_where_it_is_true():
    assert set(rulings(make_results(TRUE_WORLD)).values()) == {"reproduced"}


# For each finding, what turns it around.
FALSE_WORLDS = {
    1: {"encoder=small": -0.4},
    2: {"connector=average_pool": -0.2},
    3: {"mixture=100:0:0": {"shots_8": 0.1}},
    4: {"text=50:50:0": {"text_accuracy": 0.1}},
    5: {"mixture=33:33:33": {"balance": 0.1}},
    6: {"captions=0% full": {"shots_8": 0.1}},
}


@pytest.mark.parametrize("number", FALSE_WORLDS)
def test_a_finding_is_not_reproduced_where_one_claim_is_false(number):
    found = rulings(make_results({**TRUE_WORLD, **FALSE_WORLDS[number]}))
    assert found[number] == "not reproduced"


def test_nobody_can_tell_where_seeds_differ_more_than_points():
    assert set(rulings(make_results(TRUE_WORLD, noise=0.4)).values()) == {"cannot tell"}


def test_nobody_can_tell_from_one_seed_or_none():
    assert set(rulings(make_results(TRUE_WORLD, num_seeds=1)).values()) == {"cannot tell"}
    assert set(rulings(make_results({}, num_seeds=0)).values()) == {"cannot tell"}


def test_a_seed_without_one_of_the_points_does_not_count():
    results = make_results(TRUE_WORLD)
    del results.figures["tokens=1"][2]
    (claim, *_) = judge(FINDINGS, results)[1].claims
    assert claim.interval.n == 2


def test_differences_are_taken_within_seeds():
    """Seeds that move all points alike do not blur a difference."""
    results = make_results(TRUE_WORLD, noise=0.0)
    for by_seed in results.figures.values():
        for seed, figures in by_seed.items():
            figures.update({name: value + 0.1 * seed for name, value in figures.items()})
    assert set(rulings(results).values()) == {"reproduced"}


def test_all_six_findings_stand_on_points_of_the_quick_study():
    (study, *_) = paper("quick")
    points = {point.name for point in study.points()}
    assert [finding.number for finding in FINDINGS] == [1, 2, 3, 4, 5, 6]
    for finding in FINDINGS:
        for claim in finding.claims:
            assert set(claim.points) <= points


def test_the_numbers_stand_beside_the_ruling():
    verdicts = judge(FINDINGS, make_results(TRUE_WORLD))
    text = describe(verdicts)
    assert text.count("**reproduced**") == 6
    assert "| more visual tokens help (1 → 4, score) | +0.1" in text
    (first, *_) = as_data(verdicts)
    assert first["ruling"] == "reproduced" and first["claims"][0]["n"] == 3


@dataclass(frozen=True)
class Settings:
    size: int = 1


def test_a_study_of_ones_own_may_have_findings():
    study = Study(
        name="own",
        baseline=Settings(),
        axes=(Axis("size", "size", {"2": 2}),),
        run=lambda *_: {"score": 1.0},
        findings=FINDINGS[:1],
    )
    (verdict,) = judge(study.findings, Results(study, {}, {}, 0, 0, 0.0, ()))
    assert verdict.ruling == "cannot tell"
