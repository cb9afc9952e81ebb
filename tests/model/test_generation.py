import pytest
import torch
from transformers.generation import utils as generation

from mm1_hf import MM1ForConditionalGeneration

from . import tiny

FIXED_LENGTH = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0}
WAYS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "several_beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "static": {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
    "no_cache": {"do_sample": False, "use_cache": False},
    "prefill_in_chunks": {"do_sample": False, "prefill_chunk_size": 3},
}
IN_CHUNKS = pytest.param(
    "prefill_in_chunks",
    marks=pytest.mark.skipif(
        not hasattr(generation, "_slice_mm_encoder_output"),
        reason="this transformers forgets the pictures of a prefill in chunks",
    ),
)
SAMPLES = (
    tiny.prompt([1, 5], "image", [6, 7]),
    tiny.prompt([1], "image", [8, 9], "image", [10]),
    tiny.prompt([1, 11, 12]),
)


@pytest.fixture
def model() -> MM1ForConditionalGeneration:
    model = tiny.randomised(MM1ForConditionalGeneration(tiny.config()))
    # A placeholder is never a label, so a trained model does not write one; a random model may.
    model.generation_config.suppress_tokens = [tiny.IMAGE]
    return model


def batch(*samples: list[int]) -> dict[str, torch.Tensor]:
    """Left-padded samples with the tiles they ask for."""
    longest = max(map(len, samples))
    ids = torch.tensor([[0] * (longest - len(sample)) + sample for sample in samples])
    num_tiles = int((ids == tiny.IMAGE).sum()) // 4
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return inputs | ({"pixel_values": tiny.tiles(num_tiles)} if num_tiles else {})


def alone(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One sample of a batch without its padding."""
    ids = inputs["input_ids"]
    tiles = ((ids == tiny.IMAGE).sum(1) // 4).tolist()
    pixels = inputs["pixel_values"].split(tiles)[row]
    ids = ids[row][inputs["attention_mask"][row].bool()].unsqueeze(0)
    return {"input_ids": ids} | ({"pixel_values": pixels} if len(pixels) else {})


def reference(model, inputs: dict[str, torch.Tensor]) -> list[int]:
    """Greedy decoding by hand: the whole forward again for every token."""
    ids = inputs["input_ids"]
    for _ in range(5):
        logits = model(**{**inputs, "input_ids": ids}, use_cache=False).logits[:, -1]
        logits[:, tiny.IMAGE] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids[0, -5:].tolist()


@pytest.mark.parametrize("way", ["greedy", "static", "no_cache", IN_CHUNKS])
def test_a_batch_generates_what_each_sample_does_alone(model, way):
    inputs = batch(*SAMPLES)
    found = model.generate(**inputs, **FIXED_LENGTH, **WAYS[way])[:, -5:].tolist()
    assert found == [reference(model, alone(inputs, row)) for row in range(3)]


@pytest.mark.parametrize("way", [*list(WAYS)[:-1], IN_CHUNKS])
def test_every_way_generates_from_every_kind_of_batch(model, way):
    for samples in (SAMPLES, SAMPLES[:1], SAMPLES[2:]):
        found = model.generate(**batch(*samples), **FIXED_LENGTH, **WAYS[way])
        rows = len(samples) * WAYS[way].get("num_return_sequences", 1)
        assert found.shape == (rows, max(map(len, samples)) + 5)


def test_candidates_looked_up_in_the_prompt_change_nothing(model):
    """They may copy placeholders, which have no tiles at this step; none is accepted."""
    sample = tiny.prompt([1, 7, 7], "image", [7, 7], "image", [7, 7])
    inputs = batch(sample)
    found = model.generate(**inputs, **FIXED_LENGTH, do_sample=False, prompt_lookup_num_tokens=3)
    assert found[0, -5:].tolist() == reference(model, inputs)


@pytest.mark.parametrize("way", ["beams", "several_beams"])
def test_beams_of_a_batch_are_those_of_each_sample_alone(model, way):
    inputs = batch(*SAMPLES)
    found = model.generate(**inputs, **FIXED_LENGTH, **WAYS[way])[:, -5:]
    per_sample = WAYS[way].get("num_return_sequences", 1)
    for row in range(3):
        expected = model.generate(**alone(inputs, row), **FIXED_LENGTH, **WAYS[way])[:, -5:]
        assert torch.equal(found[row * per_sample : (row + 1) * per_sample], expected)


def test_several_samples_are_drawn_per_prompt(model):
    inputs = batch(*SAMPLES)
    torch.manual_seed(1)
    found = model.generate(**inputs, **FIXED_LENGTH, do_sample=True, num_return_sequences=4)
    assert found.shape == (12, inputs["input_ids"].shape[1] + 5)
    assert torch.equal(found[:, :-5], inputs["input_ids"].repeat_interleave(4, dim=0))
    assert len({tuple(row) for row in found[:4, -5:].tolist()}) > 1


def test_sampling_without_chance_is_greedy(model):
    """Each of several samples must see its own pictures, in a batch with different counts."""
    inputs = batch(*SAMPLES)
    found = model.generate(
        **inputs, **FIXED_LENGTH, do_sample=True, top_k=1, num_return_sequences=2
    )
    greedy = model.generate(**inputs, **FIXED_LENGTH, do_sample=False)
    assert torch.equal(found, greedy.repeat_interleave(2, dim=0))


def test_the_picture_matters(model):
    inputs = batch(SAMPLES[0])
    answers = set()
    for _ in range(5):
        inputs["pixel_values"] = tiny.tiles(1)
        answers.add(tuple(model.generate(**inputs, **FIXED_LENGTH, do_sample=False)[0].tolist()))
    assert len(answers) >= 4


def test_the_tower_runs_once_per_generation(model):
    calls = []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    model.generate(**batch(*SAMPLES), **FIXED_LENGTH, do_sample=False, num_beams=2)
    assert len(calls) == 1


def test_generation_continues_from_embeddings(model):
    inputs = batch(SAMPLES[0])
    expected = model.generate(**inputs, **FIXED_LENGTH, do_sample=False)[:, -5:]
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    found = model.generate(inputs_embeds=embeds, **inputs, **FIXED_LENGTH, do_sample=False)
    assert torch.equal(found, expected)


def test_generation_stops_at_the_end_token(model):
    inputs = batch(SAMPLES[0])
    first = model.generate(**inputs, **FIXED_LENGTH, do_sample=False)[0, -5].item()
    short = model.generate(
        **inputs, max_new_tokens=5, eos_token_id=first, pad_token_id=0, do_sample=False
    )
    assert short.shape[1] == inputs["input_ids"].shape[1] + 1
