"""MM1Trainer trains what the stock Trainer trains, and says more about it."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer

from mm1_hf.data.collators import IGNORED, MM1Collator, PackedBatch, PackOrigin, PieceOrigin
from mm1_hf.planning.flops import training_flops
from mm1_hf.training.flop_meter import FlopMeter
from mm1_hf.training.metrics import TrainingMeter, rates_beside
from mm1_hf.training.parameters import parameter_groups
from mm1_hf.training.trainer import MM1Trainer

from ..data import small_corpus as corpus
from . import small_runs

SOURCES = ("captions", "pages", "texts")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return small_runs.packs(tmp_path_factory.mktemp("corpus"))


def batch_of(*pieces: tuple[str, int, int], tiles: int = 0) -> PackedBatch:
    """A row of pieces: source, tokens, targets."""
    tokens = sum(piece[1] for piece in pieces)
    origin = PackOrigin(
        pieces=tuple(PieceOrigin(source, "key", n, targets) for source, n, targets in pieces),
        tokens=tokens,
        images=tiles,
    )
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    entries = {"input_ids": ids, "labels": ids, "pixel_values": torch.zeros(tiles, 3, 2, 2)}
    return PackedBatch(entries, origins=(origin,))


def test_the_stock_trainer_with_the_same_groups_has_the_same_losses_to_the_bit(rows, tmp_path):
    scales = {"vision_tower": 0.3}
    ours = small_runs.trainer(rows, tmp_path / "ours", rate_scales=scales)
    ours.train()
    stock = small_runs.trainer(rows, tmp_path / "stock", Trainer)
    groups = parameter_groups(stock.model, learning_rate=1e-2, weight_decay=0.1, rate_scales=scales)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(stock.args)
    stock.optimizer = kind(groups, **settings)
    stock.train()
    for name in ("loss", "grad_norm", "learning_rate"):
        assert small_runs.logs(ours, name) == small_runs.logs(stock, name)
    after = stock.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in ours.model.state_dict().items())


def test_every_group_gets_its_rate_and_the_logs_name_those_that_differ(rows, tmp_path):
    run = small_runs.trainer(
        rows, tmp_path, rate_scales={"vision_tower": 0.5}, args={"lr_scheduler_type": "linear"}
    )
    run.train()
    names = [group["name"] for group in run.optimizer.param_groups]
    assert len(set(names)) == len(names) > 4
    rates = small_runs.logs(run, "learning_rate")
    assert small_runs.logs(run, "learning_rate/vision_tower") == [rate / 2 for rate in rates]
    assert not small_runs.logs(run, "learning_rate/connector")


@pytest.mark.parametrize("accumulation", [1, 4])
def test_losses_by_source_add_up_to_the_loss(rows, tmp_path, accumulation):
    settings = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 4 // accumulation,
    }
    run = small_runs.trainer(rows, tmp_path, args=settings)
    run.train()
    for step, (log, total) in enumerate(
        zip(run.state.log_history, small_runs.logs(run, "loss"), strict=False)
    ):
        present = [name for name in SOURCES if f"loss/{name}" in log]
        counts = {name: log[f"supervised_tokens/{name}"] for name in present}
        assert len(present) > 1
        here = rows[4 * step : 4 * step + 4]
        assert sum(counts.values()) == sum((row["labels"] != IGNORED).sum() for row in here)
        assert sum(log[f"tokens/{name}"] for name in present) == sum(
            len(row["labels"]) for row in here
        )
        mean = sum(log[f"loss/{name}"] * counts[name] for name in present) / sum(counts.values())
        assert math.isclose(mean, total, rel_tol=1e-5)
        assert math.isclose(sum(log[f"share/{name}"] for name in present), 1.0)


def test_the_loss_of_a_source_is_that_of_its_tokens_alone(rows, tmp_path):
    run = small_runs.trainer(rows, tmp_path)
    collate = MM1Collator(corpus.make_processor())
    batch = collate(rows[:4])
    expected = {}
    with torch.no_grad():
        logits = run.model.eval()(**{name: batch[name] for name in batch}).logits
    ids = batch.source_ids(SOURCES)
    for number, name in enumerate(SOURCES):
        labels = batch["labels"].masked_fill(ids != number, IGNORED)
        expected[name] = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        ).item()
    run.train()
    first = run.state.log_history[0]
    for name in SOURCES:
        if f"loss/{name}" in first:
            assert math.isclose(first[f"loss/{name}"], expected[name], rel_tol=1e-5)


def test_operations_count_tiles_and_documents_and_no_padding(rows, tmp_path):
    run = small_runs.trainer(rows, tmp_path, peak_flops=1e12)
    run.train()
    expected = 0
    for row in rows[:8]:
        starts = [*(row["position_ids"] == 0).nonzero()[0].tolist(), len(row["labels"])]
        expected += training_flops(
            run.model.config,
            num_tokens=len(row["labels"]),
            num_tiles=len(row["pixel_values"]),
            num_supervised=int((row["labels"] != IGNORED).sum()),
            document_lengths=[end - start for start, end in pairwise(starts)],
        )
    assert math.isclose(run.state.total_flos, expected, rel_tol=1e-9)
    log = run.state.log_history[0]
    assert 0 < log["mfu"] < 1
    assert log["images_per_second"] == log["tiles_per_second"] > 0


def test_larger_tiles_count_at_their_size():
    meter = FlopMeter(corpus.make_model(corpus.make_processor()))
    batch = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    small, large = (
        meter(batch | {"pixel_values": torch.zeros(1, 3, side, side)})
        for side in (corpus.SIDE, 2 * corpus.SIDE)
    )
    assert large > small > meter(batch)


def test_a_frozen_tower_costs_no_backward(rows, tmp_path):
    run = small_runs.trainer(rows, tmp_path, args={"max_steps": 1})
    frozen = small_runs.trainer(rows, tmp_path, args={"max_steps": 1})
    frozen.model.model.vision_tower.requires_grad_(False)
    run.train()
    frozen.train()
    assert frozen.state.total_flos < run.state.total_flos


def test_batches_that_do_not_say_where_they_come_from_train_all_the_same(rows, tmp_path):
    collate = MM1Collator(corpus.make_processor())
    run = small_runs.trainer(rows, tmp_path, data_collator=lambda packs: dict(collate(packs)))
    run.train()
    log = run.state.log_history[0]
    assert log["tokens_per_second"] > 0
    assert not any(name.startswith("loss/") for name in log)


def test_a_loss_without_parts_is_logged_as_a_whole(rows, tmp_path):
    def mean_square(outputs, labels, num_items_in_batch=None):
        return outputs.logits.square().mean()

    settings = {"args": {"max_steps": 1}, "compute_loss_func": mean_square}
    run = small_runs.trainer(rows, tmp_path, **settings)
    run.train()
    log = run.state.log_history[0]
    assert log["loss"] > 0
    assert log["tokens/pages"] > 0
    assert "loss/pages" not in log


def test_sums_of_a_window_are_divided_once():
    meter = TrainingMeter(share_of="sequences")
    meter.start()
    first = batch_of(("a", 3, 2), ("b", 5, 4), tiles=2)
    second = batch_of(("c", 4, 1))
    meter.add_batch(first, flops=1)
    meter.add_batch(second, flops=1)
    # Position t holds the loss of token t + 1.
    meter.add_losses(first, torch.tensor([[1.0, 1.0, 0.0, 2.0, 2.0, 2.0, 2.0, 0.0]]))
    meter.add_losses(second, torch.tensor([[5.0, 0.0, 0.0, 0.0]]))
    log = meter.report()
    assert [log[f"loss/{name}"] for name in "abc"] == [1.0, 2.0, 5.0]
    assert [log[f"share/{name}"] for name in "abc"] == [1 / 3] * 3
    assert "mfu" not in log
    assert not any(name.startswith("loss/") for name in meter.report()), "a report begins anew"


def test_a_pause_does_not_count_as_time(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    meter = TrainingMeter(peak_flops=10.0)
    meter.start()
    meter.add_batch(batch_of(("a", 6, 6)), flops=20)
    clock.now = 2.0
    with meter.paused(), meter.paused():
        clock.now = 100.0
    clock.now = 102.0
    log = meter.report()
    assert (log["tokens_per_second"], log["mfu"]) == (1.5, 0.5)


def test_rates_follow_the_logged_one_while_it_warms_up_from_zero():
    optimizer = SimpleNamespace(
        param_groups=[
            {"name": "decoder.decay", "lr": 0.0, "initial_lr": 2.0},
            {"name": "connector.decay", "lr": 0.0, "initial_lr": 4.0},
        ]
    )
    assert rates_beside({"learning_rate": 0.5}, optimizer) == {"learning_rate/connector": 1.0}


@pytest.mark.parametrize("given", ["nothing", "tokenizer", "image_processor"])
def test_a_processor_that_is_not_whole_is_refused(rows, tmp_path, given):
    whole = corpus.make_processor()
    processing_class = None if given == "nothing" else getattr(whole, given)
    with pytest.raises(ValueError, match=r"processing_class is .* Pass the whole MM1Processor"):
        small_runs.trainer(rows, tmp_path, processing_class=processing_class)


def test_smoothing_that_would_teach_repetition_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match=r"label_smoothing_factor is 0\.1"):
        small_runs.trainer(rows, tmp_path, args={"label_smoothing_factor": 0.1})


def test_removing_columns_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns is True"):
        small_runs.trainer(rows, tmp_path, args={"remove_unused_columns": True})


def test_several_devices_in_one_process_are_refused(rows, tmp_path):
    args = small_runs.arguments(tmp_path)
    args._n_gpu = 2
    processor = corpus.make_processor()
    with pytest.raises(ValueError, match=r"drives 2 GPUs.*torchrun --nproc-per-node 2"):
        MM1Trainer(
            corpus.make_model(processor),
            args,
            train_dataset=rows,
            data_collator=MM1Collator(processor),
            processing_class=processor,
        )


def test_unknown_shares_are_refused():
    with pytest.raises(ValueError, match="share_of is 'images'"):
        TrainingMeter(share_of="images")


def test_evaluation_keeps_no_logits_unless_somebody_computes_metrics(rows, tmp_path):
    seen = {}

    def metrics(prediction) -> dict:
        seen["shape"] = prediction.predictions.shape
        return {"metric": 1.0}

    run = small_runs.trainer(rows, tmp_path, eval_dataset=rows[:2])
    assert run.predict(rows[:2]).predictions is None
    assert math.isfinite(run.evaluate()["eval_loss"])
    run = small_runs.trainer(
        rows,
        tmp_path,
        eval_dataset=rows[:2],
        compute_metrics=metrics,
        data_collator=MM1Collator(
            corpus.make_processor(), pad_to="sequence_length", sequence_length=96
        ),
        preprocess_logits_for_metrics=lambda logits, labels: (
            logits[0] if isinstance(logits, tuple) else logits
        ).argmax(-1),
    )
    assert run.evaluate()["eval_metric"] == 1.0
    assert seen["shape"] == (2, 96)


def test_a_loss_that_is_no_number_stops_the_run_before_the_optimizer_and_names_the_packs(
    rows, tmp_path
):
    run = small_runs.trainer(rows, tmp_path)
    before = {name: one.clone() for name, one in run.model.state_dict().items()}

    def spoil(model, args, outputs):
        outputs.loss = outputs.loss * float("inf")
        return outputs

    run.model.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError) as caught:
        run.train()
    message = str(caught.value)
    assert message.startswith("The loss of step 1 is inf for packs 0, 1, 2, 3 with documents ")
    for row in rows[:4]:
        for source, key in zip(row["sources"], row["document_keys"], strict=True):
            assert f"{source}: {key!r}" in message
    assert all(torch.equal(one, before[name]) for name, one in run.model.state_dict().items())
