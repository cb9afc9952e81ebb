"""The grid of learning rates finds the law that was planted in it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mm1_hf.ablations.paper.law import fit_seeds, law_section
from mm1_hf.ablations.paper.studies import RATE_WIDTHS, paper, rates_name
from mm1_hf.ablations.rates import best_rate, fit_law
from mm1_hf.ablations.results import load_results
from mm1_hf.ablations.runner import run_study


def surface(num_parameters: float, rate: float, *, slope: float, offset: float) -> float:
    """A loss whose lowest place moves with size as planted, and rises the faster far from it."""
    away = math.log(rate) - (slope * math.log(num_parameters) + offset)
    return 3 - 0.1 * math.log(num_parameters) + 0.2 * away**2


def run_grid(folder, *, slope, offset, noise=0.0):
    """The real studies of rates, on the surface in place of training."""

    def run(settings, context):
        size = 24.0 * settings.decoder.width**2
        rng = np.random.default_rng([context.seed, settings.decoder.width])
        shift = noise * rng.normal()
        loss = surface(size, settings.learning_rate, slope=slope, offset=offset + shift)
        return {"loss": loss, "parameters": size}

    studies = [replace(one, run=run) for one in paper("quick") if one.name.startswith("rates")]
    for study in studies:
        run_study(study, folder, report=lambda _: None)
    return [load_results(study, folder) for study in studies]


@pytest.mark.parametrize(("slope", "offset"), [(-0.4214, -0.5535), (-0.25, -2.4), (0.0, -5.4)])
def test_the_planted_exponent_is_recovered(tmp_path, slope, offset):
    fitted = fit_seeds(run_grid(tmp_path, slope=slope, offset=offset))
    assert list(fitted) == [0, 1, 2]
    for one in fitted.values():
        assert one.law.slope == pytest.approx(slope, abs=1e-6)
        assert one.law.offset == pytest.approx(offset, abs=1e-5)
        assert all(best.is_inside for best in one.best.values())


def test_the_planted_exponent_lies_in_the_interval_under_noise(tmp_path):
    results = run_grid(tmp_path, slope=-0.4214, offset=-0.5535, noise=0.1)
    section = law_section(results, tmp_path)
    assert section is not None and "lies in the interval" in section.text
    assert len(set(section.data["slopes"].values())) == 3
    assert (tmp_path / "plots" / "rates-law.png").is_file()
    assert "edge of the grid" not in section.text


def test_a_best_rate_at_the_edge_of_the_grid_is_told(tmp_path):
    section = law_section(run_grid(tmp_path, slope=-0.4214, offset=2.0), tmp_path)
    assert (
        section is not None and "the edge of the grid, the true one may lie beyond" in section.text
    )


def test_an_exponent_far_away_lies_outside_the_interval(tmp_path):
    section = law_section(run_grid(tmp_path, slope=0.0, offset=-5.4, noise=0.01), tmp_path)
    assert section is not None and "lies outside the interval" in section.text


def test_no_law_is_drawn_through_a_grid_with_holes(tmp_path):
    results = run_grid(tmp_path, slope=-0.4, offset=-0.5)
    del results[0].figures["rate=0.001"], results[0].figures["rate=0.002"]
    del results[0].figures["rate=0.016"], results[0].figures["rate=0.032"]
    del results[0].figures["baseline"]
    assert fit_seeds(results) == {}
    assert law_section(results, tmp_path) is None
    assert [one.study.name for one in results] == [rates_name(width) for width in RATE_WIDTHS]


def test_the_best_rate_of_a_parabola_is_its_vertex():
    losses = {rate: surface(1e6, rate, slope=-0.4, offset=-0.5) for rate in (5e-4, 2e-3, 6e-3)}
    best = best_rate(losses)
    assert best.rate == pytest.approx(math.exp(-0.4 * math.log(1e6) - 0.5), rel=1e-6)
    assert best.loss == pytest.approx(3 - 0.1 * math.log(1e6))


def test_a_lowest_loss_at_the_edge_is_said_to_be_there():
    assert best_rate({1e-3: 1.0, 2e-3: 2.0, 4e-3: 3.0}) == (1e-3, 1.0, False)
    assert not best_rate({1e-3: 3.0, 2e-3: 2.0, 4e-3: 1.0}).is_inside


def test_far_from_the_best_rate_losses_may_do_anything():
    losses = {rate: surface(1e6, rate, slope=-0.4, offset=-0.5) for rate in (1e-3, 2e-3, 4e-3)}
    assert best_rate({**losses, 8e-3: 50.0, 5e-4: 9.0}) == best_rate(losses)


def test_too_few_rates_or_sizes_are_refused():
    with pytest.raises(ValueError, match="at least three"):
        best_rate({1e-3: 1.0, 2e-3: 2.0})
    with pytest.raises(ValueError, match="two sizes"):
        fit_law([(1e6, 1e-3), (1e6, 2e-3)])
