"""Two processes compute what one does, in whatever way the model is spread over them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mm1_hf import MM1ForConditionalGeneration

from ..data import small_corpus as corpus
from ..model import tiny

pytestmark = pytest.mark.slow

CHECKPOINTS = {
    "whole": {"qk_norm": True},
    "tied": {"tie_word_embeddings": True},
    "sparse": {"num_experts": 4, "moe_every_n_layers": 2},
}
TRAINED = ("ddp", "fsdp2", "fsdp2_resumed", "fsdp2_mm1_trainer")
TRAINED_SPARSE = ("fsdp2_sparse", "fsdp2_sparse_resumed", "fsdp2_sparse_mm1_trainer")
NATIVE = {
    "native_tp": "whole",
    "native_tp_tied": "tied",
    "native_tp_sparse": "sparse",
}
# Older transformers shard a part before its layers, which torch refuses, and beside expert
# parallelism they spread a tower's weights but not its inputs.
SHARDS_NESTED = importlib.util.find_spec("transformers.distributed.parallel_utils") is not None
if SHARDS_NESTED:
    NATIVE |= {
        "native_fsdp": "whole",
        "native_fsdp_tied": "tied",
        "native_fsdp_sparse": "sparse",
        "native_ep": "sparse",
    }
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


def run_cases(
    folder: Path, *cases: str, launcher: tuple[str, ...] = (), **environment: str
) -> dict[str, list[dict[str, Any]]]:
    """What each rank of each case saw."""
    script = Path(__file__).with_name("sharded_lives.py")
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(folder), ",".join(cases)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        case: [json.loads(path.read_text()) for path in sorted(folder.glob(f"{case}-?.json"))]
        for case in cases
    }


# Under the Trainer.


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    corpus.write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def trained(corpus_folder) -> dict[str, list[dict[str, Any]]]:
    return run_cases(corpus_folder, "alone", *TRAINED)


@pytest.fixture(scope="module")
def trained_sparse(corpus_folder) -> dict[str, list[dict[str, Any]]]:
    return run_cases(corpus_folder, "alone_sparse", *TRAINED_SPARSE)


def test_some_batch_has_images_on_one_rank_only(trained):
    for case in TRAINED:
        first, second = trained[case]
        both = list(zip(first["tiles"], second["tiles"], strict=True))
        assert any((one == 0) != (other == 0) for one, other in both)


def test_fsdp2_shards_every_parameter_and_each_layer_by_itself(trained):
    assert all(rank["is_ddp"] for rank in trained["ddp"])
    for case in ("fsdp2", "fsdp2_resumed", "fsdp2_mm1_trainer"):
        for rank in trained[case]:
            assert not rank["is_ddp"]
            assert rank["whole"] == []
            layers = {"model.vision_tower.layers.0", "model.language_model.layers.0"}
            assert layers <= set(rank["sharded_modules"])
        halves = zip(*(rank["pieces"].values() for rank in trained[case]), strict=True)
        assert all(one[0] + other[0] == one[1] for one, other in halves)


@pytest.mark.parametrize("case", ["ddp", "fsdp2", "fsdp2_mm1_trainer"])
def test_two_ranks_have_the_losses_of_one_process(trained, case):
    (alone,) = trained["alone"]
    for rank in trained[case]:
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-5)


def test_a_resumed_sharded_run_repeats_the_losses_to_the_bit(trained):
    for whole, resumed in zip(trained["fsdp2"], trained["fsdp2_resumed"], strict=True):
        assert list(resumed["losses"]) == ["3", "4", "5"]
        assert resumed["losses"] == {step: whole["losses"][step] for step in resumed["losses"]}


def test_a_sharded_checkpoint_is_merged_and_loads(trained, corpus_folder, tmp_path):
    from accelerate.commands.merge import merge_command, merge_command_parser

    shards = corpus_folder / "fsdp2/checkpoint-2/pytorch_model_fsdp_0"
    merge_command(merge_command_parser().parse_args([str(shards), str(tmp_path)]))
    corpus.make_config().save_pretrained(tmp_path)
    merged, info = MM1ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    # Two steps away from the start, on the way to the end.
    start = corpus.make_model(corpus.make_processor()).state_dict()
    end = MM1ForConditionalGeneration.from_pretrained(corpus_folder / "ddp/final").state_dict()
    for name, weight in merged.state_dict().items():
        assert not torch.equal(weight, end[name]), name
        assert not torch.equal(weight, start[name]), name


def test_ddp_and_fsdp2_end_with_the_same_saved_model(trained, corpus_folder):
    ddp, fsdp2, by_ours = (
        MM1ForConditionalGeneration.from_pretrained(corpus_folder / run / "final").state_dict()
        for run in ("ddp", "fsdp2", "fsdp2-mm1")
    )
    for name, weight in ddp.items():
        assert torch.allclose(fsdp2[name], weight, atol=1e-5), name
        assert torch.allclose(by_ours[name], weight, atol=1e-5), name


@pytest.mark.parametrize("case", ["fsdp2_sparse", "fsdp2_sparse_mm1_trainer"])
def test_sharded_experts_have_the_losses_of_one_process(trained_sparse, case):
    """With those of the routers: decision 14."""
    (alone,) = trained_sparse["alone_sparse"]
    for rank in trained_sparse[case]:
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert rank["whole"] == [] and not rank["is_ddp"]
        names = [name for name in rank["pieces"] if ".mlp.experts." in name or ".gate." in name]
        assert len(names) == 3
        assert all(rank["pieces"][name][0] * 2 == rank["pieces"][name][1] for name in names)


def test_a_resumed_run_with_sharded_experts_repeats_the_losses_to_the_bit(trained_sparse):
    whole, resumed = trained_sparse["fsdp2_sparse"], trained_sparse["fsdp2_sparse_resumed"]
    for one, other in zip(whole, resumed, strict=True):
        assert list(other["losses"]) == ["3", "4", "5"]
        assert other["losses"] == {step: one["losses"][step] for step in other["losses"]}


def test_sharded_experts_end_as_the_model_of_one_process_does(trained_sparse, corpus_folder):
    alone, *sharded = (
        MM1ForConditionalGeneration.from_pretrained(corpus_folder / run / "final").state_dict()
        for run in ("alone-sparse", "fsdp2-sparse", "fsdp2-sparse-mm1")
    )
    for name, weight in alone.items():
        for other in sharded:
            assert torch.allclose(other[name], weight, atol=1e-4), name


@needs_deepspeed
def test_zero3_of_the_examples_has_the_losses_of_one_process(trained, corpus_folder):
    (alone,) = trained["alone"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    found = run_cases(corpus_folder, "zero3", launcher=torchrun, DS_ACCELERATOR="cpu")
    for rank in found["zero3"]:
        assert rank["kind"] == "DeepSpeedEngine" and rank["whole"] == []
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-5)


# transformers' own sharding.


class Reference:
    """What the whole model computes in one process."""

    def __init__(self, folder: Path, inputs: dict[str, torch.Tensor]):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        model = MM1ForConditionalGeneration.from_pretrained(folder)
        with torch.no_grad():
            self.logits = model(**inputs).logits
        self.answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        loss = model.train()(**inputs, labels=labels).loss
        loss.backward()
        self.loss = loss.item()
        self.gradients = {name: one.grad for name, one in model.named_parameters()}
        self.weights = model.state_dict()


@pytest.fixture(scope="module")
def native(tmp_path_factory) -> tuple[Path, dict[str, list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("native")
    torch.manual_seed(0)
    for name, changes in CHECKPOINTS.items():
        text = tiny.text_config(vocab_size=100, **changes)
        model = MM1ForConditionalGeneration(tiny.config(text_config=text))
        tiny.randomised(model).save_pretrained(folder / name)
    rows = [
        tiny.prompt([5, 6, 7], "image", [8, 9, 10, 11, 12]),
        tiny.prompt("image", [15, 16, 17, 18, 19, 20, 21, 22]),
    ]
    ids = torch.tensor(rows)
    labels = ids.masked_fill(ids == tiny.IMAGE, -100)
    inputs = {"input_ids": ids, "labels": labels, "pixel_values": tiny.tiles(2)}
    torch.save(inputs, folder / "inputs.pt")
    return folder, run_cases(folder, *NATIVE)


@pytest.fixture(params=list(NATIVE))
def spread(request, native):
    """Case, what its first rank saw and computed, and what one process computes."""
    folder, seen = native
    reference = Reference(folder / NATIVE[request.param], torch.load(folder / "inputs.pt"))
    found = torch.load(folder / f"{request.param}.pt")
    return request.param, seen[request.param][0], found, reference


def test_a_spread_model_has_the_logits_and_the_answer_of_the_whole_one(spread):
    _, seen, found, reference = spread
    assert torch.allclose(found["logits"], reference.logits, atol=1e-4)
    assert torch.equal(found["answer"], reference.answer)
    assert seen["loss"] == pytest.approx(reference.loss, rel=1e-5)


def test_a_spread_model_has_the_gradients_of_the_whole_one(spread):
    _, seen, found, reference = spread
    scale = max(one.abs().max() for one in reference.gradients.values())
    assert set(found["gradients"]) == set(reference.gradients)
    for name, gradient in reference.gradients.items():
        assert torch.allclose(found["gradients"][name], gradient, atol=1e-5 * scale), name
    assert seen["missing"] == []  # in a batch of text alone


def test_a_spread_model_saves_whole_weights(spread, native):
    case, _, _, reference = spread
    again = MM1ForConditionalGeneration.from_pretrained(native[0] / case).state_dict()
    assert all(torch.equal(again[name], one) for name, one in reference.weights.items())


@pytest.mark.skipif(not SHARDS_NESTED, reason="transformers is older")
def test_fsdp_shards_every_parameter_and_each_part_by_itself(native):
    for rank in native[1]["native_fsdp"]:
        assert rank["whole"] == []
        units = {"model.vision_tower", "model.connector", "lm_head"}
        assert units | {"model.vision_tower.layers.1"} <= set(rank["sharded_modules"])


def test_tensor_parallelism_divides_tower_and_decoder_and_repeats_the_connector(native):
    for rank in native[1]["native_tp"]:
        pieces = {name for name, (here, whole) in rank["pieces"].items() if 2 * here == whole}
        for part in ("vision_tower.layers.0.mlp.fc1", "language_model.layers.1.mlp.down_proj"):
            assert f"model.{part}.weight" in pieces
        assert not any("connector" in name for name in rank["pieces"])


@pytest.mark.skipif(not SHARDS_NESTED, reason="expert parallelism needs a newer transformers")
def test_expert_parallelism_divides_the_experts(native):
    for rank in native[1]["native_ep"]:
        # Two of four experts on each rank.
        here, all_ = rank["pieces"]["model.language_model.layers.1.mlp.experts.gate_up_proj"]
        assert 2 * here == all_


@pytest.mark.parametrize("changes", CHECKPOINTS.values(), ids=list(CHECKPOINTS))
@pytest.mark.parametrize("plan", ["tp_plan", "fsdp_plan"])
def test_every_rule_of_a_plan_names_a_module(changes, plan):
    with torch.device("meta"):
        text = tiny.text_config(vocab_size=100, **changes)
        model = MM1ForConditionalGeneration(tiny.config(text_config=text))
    names = {
        ".".join("*" if part.isdigit() else part for part in name.split("."))
        for name, _ in [*model.named_modules(), *model.named_parameters()]
    }
    assert getattr(model, plan)
    assert set(getattr(model, plan)) <= names
