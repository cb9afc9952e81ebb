"""Exported programs compute what the model does, at sizes they were not exported with."""

import subprocess
import sys

import pytest
import torch

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.export import export_decoder, export_images, export_prefill

from ..model import tiny

SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_every_n_layers": 2}
TOWERS = [("own", connector) for connector in tiny.CONNECTOR_TYPES]
TOWERS += [(tower, "c_abstractor") for tower in ("clip", "siglip", "aimv2")]

pytestmark = [
    pytest.mark.slow,
    # Of torch's own tracing.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def mm1(tower: str = "own", connector: str = "c_abstractor", text: str = "own"):
    text_configs = {**tiny.text_configs(), "sparse": tiny.text_config(**SPARSE)}
    config = tiny.config(
        vision_config=tiny.vision_configs()[tower],
        connector_config=tiny.connector_config(connector),
        text_config=text_configs[text],
    )
    return tiny.randomised(MM1ForConditionalGeneration(config))


def sample(tiles_per_row: int, rows: int) -> dict[str, torch.Tensor]:
    ids = tiny.prompt([1, 5], *["image"] * tiles_per_row, [6, 7])
    return {
        "input_ids": torch.tensor([ids] * rows),
        "pixel_values": tiny.tiles(tiles_per_row * rows),
    }


@torch.no_grad()
def assert_same(program, expected: torch.Tensor, **inputs: torch.Tensor) -> None:
    torch.testing.assert_close(program.module()(**inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tower", "connector"), TOWERS)
def test_any_number_of_tiles_becomes_the_same_visual_tokens(tower, connector):
    model = mm1(tower, connector)
    program = export_images(model, most_tiles=9)
    for count in (1, 2, 9):
        pixels = tiny.tiles(count)
        with torch.no_grad():
            expected = model.get_image_features(pixels).pooler_output
        assert_same(program, expected, pixel_values=pixels)


def test_another_resolution_is_exported_with_its_positions():
    model = mm1()
    program = export_images(model, size=(42, 35))
    pixels = torch.randn(3, 3, 42, 35)
    with torch.no_grad():
        expected = model.get_image_features(pixels).pooler_output
    assert_same(program, expected, pixel_values=pixels)


@pytest.mark.parametrize("text", ["own", "sparse", "llama", "qwen2", "mixtral"])
def test_the_decoder_reads_rows_of_any_length(text):
    model = mm1(text=text)
    program = export_decoder(model)
    for shape in ((1, 3, 24), (4, 33, 24)):
        embeds = torch.randn(shape)
        with torch.no_grad():
            outputs = model.get_decoder()(inputs_embeds=embeds, use_cache=False)
        assert_same(program, outputs.last_hidden_state, inputs_embeds=embeds)


@pytest.mark.parametrize(
    ("text", "needs"), [("own", "torch"), ("sparse", "transformers.integrations.moe")]
)
def test_the_whole_model_answers_and_still_counts_its_placeholders(text, needs, tmp_path):
    model = mm1(text=text)
    program = export_prefill(model)
    for tiles_per_row, rows in ((1, 1), (3, 3)):
        inputs = sample(tiles_per_row, rows)
        with torch.no_grad():
            expected = model(**inputs, use_cache=False).logits
        assert_same(program, expected, **inputs)
    for count in (1, 3):
        with pytest.raises(RuntimeError):
            program.module()(**{**sample(2, 1), "pixel_values": tiny.tiles(count)})
    assert_it_runs_in_a_fresh_process(
        program, {**inputs, "expected": expected}, folder=tmp_path, needs=needs
    )


def test_a_saved_program_runs_where_nothing_else_is_installed(tmp_path):
    model, pixels = mm1(), tiny.tiles(2)
    with torch.no_grad():
        expected = model.get_image_features(pixels).pooler_output
    assert_it_runs_in_a_fresh_process(
        export_images(model),
        {"pixel_values": pixels, "expected": expected},
        folder=tmp_path,
        needs="torch",
    )


def assert_it_runs_in_a_fresh_process(program, tensors: dict, *, folder, needs: str) -> None:
    torch.export.save(program, folder / "program.pt2")
    torch.save(tensors, folder / "tensors.pt")
    code = f"""
import sys, torch
for name in {{"mm1_hf", "transformers"}} - {{{needs.partition(".")[0]!r}}}:
    sys.modules[name] = None
import {needs}
torch.set_num_threads(1)
tensors = torch.load({str(folder / "tensors.pt")!r})
expected = tensors.pop("expected")
program = torch.export.load({str(folder / "program.pt2")!r}).module()
torch.testing.assert_close(program(**tensors), expected, rtol=1e-5, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_training_mode_and_a_missing_placeholder_are_refused():
    model = mm1().train()
    with pytest.raises(ValueError, match=r"model\.eval"):
        export_images(model)
    model.eval().config.image_token_id = None
    with pytest.raises(ValueError, match="image_token_id is not set"):
        export_prefill(model)


def test_onnx_computes_the_same_visual_tokens(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    pytest.importorskip("onnxscript", exc_type=ImportError)
    model = mm1()
    path = tmp_path / "see.onnx"
    torch.onnx.export(export_images(model), f=path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        pixels = tiny.tiles(count)
        with torch.no_grad():
            expected = model.get_image_features(pixels).pooler_output
        (found,) = session.run(None, {"pixel_values": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
