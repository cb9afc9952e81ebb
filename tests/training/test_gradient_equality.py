"""One step has one gradient, however its sequences are spread over passes, ranks and rows."""

import pytest
import torch
from transformers import Trainer

from mm1_hf.data.collators import IGNORED, MM1Collator

from ..data import small_corpus as corpus
from . import jobs, small_runs

pytestmark = pytest.mark.slow

SPREAD = {
    "batch-4": {"ranks": 1, "accumulation": 1},
    "accumulation-4": {"ranks": 1, "accumulation": 4},
    "ranks-2-accumulation-2": {"ranks": 2, "accumulation": 2},
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory) -> dict[str, jobs.Lived]:
    once = {"save_strategy": "no", "weight_decay": 0.1}
    lives = [{"run": run, "arguments": once, **spread} for run, spread in SPREAD.items()]
    found = jobs.live(tmp_path_factory.mktemp("gradients"), *lives)
    assert all(set(one.codes) == {0} for one in found)
    return dict(zip(SPREAD, found, strict=True))


def require_equal(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    scale = max(one.abs().max() for one in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-6 * scale), name


def test_supervised_counts_are_uneven_and_a_pass_of_one_rank_has_no_image(lived):
    passes = lived["accumulation-4"].seen[0]["targets"][:8]
    assert len(set(passes)) > 2
    first, second = lived["ranks-2-accumulation-2"].seen
    assert first["targets"] != second["targets"]
    assert [0 in rank["tiles"] for rank in (first, second)].count(True) >= 1
    both = zip(first["tiles"], second["tiles"], strict=True)
    assert any((one == 0) != (other == 0) for one, other in both)


@pytest.mark.parametrize("run", list(SPREAD)[1:])
def test_accumulation_and_ranks_do_not_change_gradients(lived, run):
    require_equal(lived[run].gradients, lived["batch-4"].gradients)


@pytest.mark.parametrize("run", list(SPREAD)[1:])
def test_accumulation_and_ranks_do_not_change_losses(lived, run):
    assert lived[run].losses == pytest.approx(lived["batch-4"].losses, rel=1e-5)


@pytest.mark.parametrize("run", list(SPREAD)[1:])
def test_what_is_logged_by_source_does_not_depend_on_accumulation_and_ranks(lived, run):
    for step, logs in lived["batch-4"].seen[0]["logs"].items():
        for rank in lived[run].seen:
            found = rank["logs"][step]
            by_source = {name for name in logs if "/" in name}
            assert by_source == {name for name in found if "/" in name}
            assert {n: found[n] for n in by_source} == pytest.approx(
                {n: logs[n] for n in by_source}, rel=1e-5
            )


# One batch of documents, in three forms.


class Recorder(Trainer):
    """Keeps the gradients of its first step."""

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.gradients = {n: p.grad.clone() for n, p in self.model.named_parameters()}
        return loss


def pad_documents(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Documents as rows with an attention mask, as a collator of chat data makes them."""
    length = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.zeros(len(rows), length, dtype=torch.int64),
        "labels": torch.full((len(rows), length), IGNORED),
        "attention_mask": torch.zeros(len(rows), length, dtype=torch.int64),
    }
    for number, row in enumerate(rows):
        size = len(row["input_ids"])
        batch["input_ids"][number, :size] = torch.as_tensor(row["input_ids"])
        batch["labels"][number, :size] = torch.as_tensor(row["labels"])
        batch["attention_mask"][number, :size] = 1
    batch["pixel_values"] = torch.cat([torch.as_tensor(row["pixel_values"]) for row in rows])
    return batch


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, Recorder]:
    folder = tmp_path_factory.mktemp("forms")
    rows = small_runs.packs(folder)[:4]
    documents = [one for row in rows for one in corpus.documents_of(row, corpus.make_processor())]
    collate = MM1Collator(corpus.make_processor())
    several = len(documents)
    inputs = {
        "packed": (rows, collate, 4, 1),
        "varlen": (rows, MM1Collator(corpus.make_processor(), varlen=True), 4, 1),
        "padded": (documents, pad_documents, several, 1),
        "single": (documents, collate, 1, several),
    }
    found = {}
    for form, (data, collator, batch, accumulation) in inputs.items():
        settings = {
            "max_steps": 1,
            "max_grad_norm": 0.0,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
        }
        run = small_runs.trainer(data, folder, Recorder, args=settings, data_collator=collator)
        run.train()
        found[form] = run
    return found


@pytest.mark.parametrize("form", ["varlen", "padded", "single"])
def test_packed_padded_and_single_documents_train_alike(forms, form):
    found, expected = forms[form], forms["packed"]
    loss = small_runs.logs(expected, "loss")
    assert small_runs.logs(found, "loss") == pytest.approx(loss, rel=1e-5)
    require_equal(found.gradients, expected.gradients)
