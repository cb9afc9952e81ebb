"""Under the Trainer: one router loss however a step is spread, and what is logged of routers."""

import math

import pytest
import torch

from mm1_hf import MM1TextConfig
from mm1_hf.training.metrics import TrainingMeter
from mm1_hf.training.router_health import RouterMeter, plot_router_health

from ..data import small_corpus as corpus
from . import jobs, small_runs

SPARSE = {"num_experts": 4, "moe_every_n_layers": 1}
# Coefficients at which an error of the router losses could not hide behind the loss of tokens.
HEAVY = {**SPARSE, "router_aux_loss_coef": 3.0, "router_z_loss_coef": 1.0}
SPREAD = {
    "batch-4": {"ranks": 1, "accumulation": 1},
    "accumulation-2": {"ranks": 1, "accumulation": 2},
    "accumulation-4": {"ranks": 1, "accumulation": 4},
    "ranks-2-accumulation-2": {"ranks": 2, "accumulation": 2},
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory) -> dict[str, jobs.Lived]:
    once = {"arguments": {"save_strategy": "no"}, "decoder": HEAVY}
    lives = [{"run": run, **once, **spread} for run, spread in SPREAD.items()]
    stock = {"run": "stock", "trainer": "stock", "accumulation": 4, **once}
    found = jobs.live(tmp_path_factory.mktemp("routers"), *lives, stock)
    assert all(set(one.codes) == {0} for one in found)
    return dict(zip([*SPREAD, "stock"], found, strict=True))


SPLITS = [*list(SPREAD)[1:], "stock"]


def test_passes_have_uneven_numbers_of_labels(lived):
    for run in ("accumulation-2", "accumulation-4"):
        assert len(set(lived[run].seen[0]["targets"][:2])) == 2


@pytest.mark.parametrize("run", SPLITS)
def test_losses_with_routers_do_not_depend_on_accumulation_and_ranks(lived, run):
    assert lived[run].losses == pytest.approx(lived["batch-4"].losses, rel=1e-5)


@pytest.mark.parametrize("run", SPLITS)
def test_gradients_of_routers_do_not_depend_on_accumulation_and_ranks(lived, run):
    found, expected = lived[run].gradients, lived["batch-4"].gradients
    assert set(found) == set(expected)
    router = "model.language_model.layers.0.mlp.gate.weight"
    assert expected[router].abs().max() > 0
    scale = max(one.abs().max() for one in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-6 * scale), name


@pytest.mark.parametrize("run", SPLITS[:-1])
def test_what_is_logged_of_routers_does_not_depend_on_accumulation_and_ranks(lived, run):
    # Later, rounding decides between experts that are nearly equal.
    expected = lived["batch-4"].seen[0]["logs"]["1"]
    names = {name for name in expected if name.startswith("router/")}
    assert "router/layer_0/entropy" in names
    for rank in lived[run].seen:
        found = rank["logs"]["1"]
        assert {n: found[n] for n in names} == pytest.approx({n: expected[n] for n in names})


# What is counted.


def config(**changes) -> MM1TextConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 1, "moe_every_n_layers": 2}
    return MM1TextConfig(
        **{**sizes, "num_hidden_layers": 4, "num_key_value_heads": 2, **experts, **changes}
    )


def report(router_logits: list[torch.Tensor], **changes) -> dict[str, float]:
    meter = RouterMeter(each_expert=changes.pop("each_expert", False))
    batch = {"labels": torch.arange(len(router_logits[0]))[None], **changes.pop("batch", {})}
    meter.add(router_logits, text_config=config(**changes), batch=batch)
    return meter.report([meter.told()])


def test_a_balanced_and_a_one_sided_layer_are_told_apart():
    balanced = torch.eye(4)
    one_sided = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1)
    logs = report([balanced, one_sided])
    assert logs == pytest.approx(
        {
            "router/busiest": (1 + 4) / 2,
            "router/layer_1/busiest": 1,
            "router/layer_3/busiest": 4,
            "router/idle": (0 + 0.75) / 2,
            "router/layer_1/idle": 0,
            "router/layer_3/idle": 0.75,
            "router/entropy": 0.5,
            "router/layer_1/entropy": 1,
            "router/layer_3/entropy": 0,
            "router/dropped": 0,
            "router/layer_1/dropped": 0,
            "router/layer_3/dropped": 0,
        }
    )


def test_the_entropy_is_that_of_the_loads():
    logits = torch.tensor([[1.0, 0, 0, 0]] * 3 + [[0, 1.0, 0, 0]])
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    logs = report([logits, logits], each_expert=True)
    assert logs["router/entropy"] == pytest.approx(expected)
    assert [logs[f"router/layer_3/expert_{n}"] for n in range(4)] == [3.0, 1.0, 0.0, 0.0]


def test_what_finds_no_room_is_counted():
    logits = torch.tensor([[1.0, 0, 0, 0]] * 4)
    logs = report([logits, torch.eye(4)], router_capacity_factor=1.0)
    assert logs["router/layer_1/dropped"] == 0.75
    assert logs["router/layer_3/dropped"] == 0


@pytest.mark.parametrize("padding", ["mask", "pack"])
def test_padding_is_not_counted(padding):
    logits = torch.eye(4)[[0, 1, 2, 3, 0, 0]]
    labels = torch.tensor([[-100, 5, 6, 7, -100, -100]])
    if padding == "mask":
        shown = {"attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]])}
    else:
        shown = {"position_ids": torch.tensor([[0, 1, 2, 3, 0, 1]])}
    logs = report([logits, logits], batch={"labels": labels, **shown})
    assert logs["router/busiest"] == 1


def test_counts_of_ranks_add_up():
    mine = {"layer_1": ([4, 0, 0, 0], 1)}
    other = {"layer_1": ([0, 4, 4, 4], 0)}
    logs = RouterMeter().report([mine, other])
    assert logs["router/busiest"] == 1 and logs["router/dropped"] == 1 / 16


def test_a_dense_decoder_logs_nothing_of_routers():
    assert not any(name.startswith("router/") for name in TrainingMeter().report())


# The trainer and the picture.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    processor = corpus.make_processor()
    run = small_runs.trainer(
        small_runs.packs(folder),
        folder,
        model=corpus.make_model(processor, **SPARSE),
        log_each_expert=True,
    )
    run.train()
    return run


def test_the_trainer_logs_each_layer_and_each_expert(trained):
    loads = [small_runs.logs(trained, f"router/layer_0/expert_{n}") for n in range(4)]
    for step in zip(*loads, strict=True):
        assert sum(step) == pytest.approx(4)
    assert len(small_runs.logs(trained, "router/dropped")) == 2


def test_the_logs_become_a_picture(trained, tmp_path):
    pytest.importorskip("matplotlib")
    path = plot_router_health(trained.state.log_history, tmp_path / "router.png")
    assert path.stat().st_size > 1000
    without = [
        {name: value for name, value in entry.items() if "/expert_" not in name}
        for entry in trained.state.log_history
    ]
    smaller = plot_router_health(without, tmp_path / "curves.png")
    assert 1000 < smaller.stat().st_size


def test_logs_without_routers_make_no_picture(tmp_path):
    with pytest.raises(ValueError, match="Nothing of routers was logged"):
        plot_router_health([{"loss": 1.0, "step": 1}], tmp_path / "router.png")
