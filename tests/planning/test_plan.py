"""A plan adds up, and the guide shows what the code says."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from mm1_hf.model.tiling_mm1 import plan_tiles
from mm1_hf.planning import Device, Layout, Workload, flop_model, image_cost, plan_run

from .small import config

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "plan.md"
WORKLOAD = Workload(steps=100, sequences_per_step=8, sequence_length=96, tiles_per_sequence=3)
DEVICE = Device(peak_flops=1e12, memory=1e9)


def plan(**changes):
    return plan_run(config(), **{"workload": WORKLOAD, "device": DEVICE, **changes})


def test_days_and_cost_follow_from_operations():
    made = plan(mfu=0.5, price_per_hour=3.0, layout=Layout(devices=2, sharding="ddp"))
    sequence = flop_model(config()).training(num_tokens=96, num_tiles=3).total
    assert made.flops_per_step.total == pytest.approx(8 * sequence)
    assert made.step_seconds == pytest.approx(8 * sequence / (2 * 1e12 * 0.5))
    assert made.device_hours == pytest.approx(2 * 24 * made.days)
    assert made.cost == pytest.approx(3.0 * made.device_hours)
    assert (made.tokens, made.tiles, made.accumulation) == (100 * 8 * 96, 100 * 8 * 3, 4)


def test_half_of_the_positions_are_visual_by_default():
    made = plan(workload=Workload(steps=1, sequences_per_step=2, sequence_length=96))
    assert made.tiles * 16 == made.tokens / 2


def test_recomputation_costs_no_days_of_its_own():
    """The MFU that is reached with it says how long it takes."""
    kept, recomputed = plan(), plan(recompute="layers")
    assert kept.days == recomputed.days
    assert recomputed.recomputed_per_step > kept.recomputed_per_step
    assert recomputed.memory.activations < kept.memory.activations


def test_an_image_takes_the_tiles_that_the_processor_cuts():
    for tiling, size in [("none", (100, 80)), ("static", (100, 80))]:
        tiles = plan_tiles(*size, tile_height=56, tile_width=56, tiling=tiling).num_tiles
        cost = image_cost(config(), height=size[0], width=size[1], tiling=tiling)
        assert (cost.tiles, cost.tokens) == (tiles, 16 * tiles)
        one = flop_model(config()).forward(num_tokens=16, num_tiles=1)
        assert cost.flops == pytest.approx(tiles * (one.vision_tower + one.connector))


def test_a_plan_is_plain_data_and_a_table():
    made = plan(price_per_hour=1.0)
    data = json.loads(json.dumps(made.to_dict()))
    assert data["parameters"]["total"] == made.parameters.total
    assert data["flops_per_step"]["total"] == made.flops_per_step.total
    table = made.table()
    assert "fits into" in table and "cost" in table and "days" in table


def test_what_does_not_fit_is_said():
    made = plan(device=Device(peak_flops=1e12, memory=1e6))
    assert not made.fits and "does NOT fit" in made.table()


def test_numbers_that_do_not_divide_are_errors():
    with pytest.raises(ValueError, match="sequences cannot be divided"):
        plan(layout=Layout(devices=3, sharding="ddp"))
    with pytest.raises(ValueError, match="mfu is 40"):
        plan(mfu=40)


def test_the_guide_shows_what_the_code_prints():
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert blocks
    names: dict = {}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == shown, "put what the code prints into docs/guides/plan.md"
