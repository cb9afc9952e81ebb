"""A cell of two steps does what a long one does, and what is cached is what would be computed."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mm1_hf.ablations import Context, StageCache
from mm1_hf.ablations.paper.documents import Picture, Pretraining, Text
from mm1_hf.ablations.paper.evaluation import read
from mm1_hf.ablations.paper.features import tiles_of
from mm1_hf.ablations.paper.models import FeatureReader
from mm1_hf.ablations.paper.run import run_cell
from mm1_hf.ablations.paper.settings import Albums, Decoder, Encoder, Settings, Tuning
from mm1_hf.ablations.paper.stages import Shared
from mm1_hf.ablations.paper.studies import paper

TINY = Settings(
    encoder=Encoder(width=16, layers=2, steps=2, batch_size=4),
    decoder=Decoder(width=16, layers=2, text_steps=1),
    steps=2,
    batch_size=4,
    albums=Albums(captioned=12, singles=12, pages=8, tested=6),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return StageCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def shared(cache):
    return Shared(TINY, seed=0, cache=cache)


def cell(settings, cache, *, seed=0):
    return run_cell(settings, Context(seed, cache.folder, cache))


def test_cached_features_are_what_the_model_computes_from_pixels(shared):
    model = shared.pretrained().eval()
    collator = shared.padded(shared.pretraining_features())
    batch = collator([[Picture("captioned", index), Text(" top left")] for index in range(5)])
    labels = batch.pop("labels")
    pixels = tiles_of(shared.library["captioned"][:5], side=16).flatten(0, 1)
    with torch.inference_mode():
        ours = FeatureReader(model)(**batch).logits
        del batch["features"]
        theirs = model(pixel_values=pixels, **batch).logits
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=5e-3)
    assert ours.shape[:2] == labels.shape


@pytest.mark.parametrize("experts", [None, 2])
def test_packed_batches_train_as_padded_ones_do(cache, experts):
    settings = replace(TINY, decoder=replace(TINY.decoder, experts=experts))
    shared = Shared(settings, seed=0, cache=cache)
    model = shared.pretrained()
    make = Pretraining(shared.library, settings.mixture, full_captions=0.4)
    documents = [make(np.random.default_rng(index)) for index in range(12)]
    features = shared.pretraining_features()
    gradients = []
    for collator in (shared.padded(features), shared.packed(features)):
        model.zero_grad()
        loss = FeatureReader(model)(**collator(documents)).loss
        loss.backward()
        gradients.append([loss, *(one.grad for one in model.parameters() if one.grad is not None)])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    assert len(gradients[0]) > 10


def test_reading_says_right_exactly_where_greedy_decoding_gives_the_truth(shared):
    model = shared.pretrained().eval()
    collator = shared.padded(shared.pretraining_features())
    split = functools.partial(collator.tokenizer, add_special_tokens=False)
    checked = 0
    for index, prompt in enumerate(["Digits:", "Places:", " 7\n", "a", "The", " digits of"]):
        document = [Picture("captioned_test", index), Text(prompt, learned=False)]
        tokens = collator([document])["input_ids"][:, :-1]
        said = model.generate(
            input_ids=tokens,
            pixel_values=tiles_of(shared.library["captioned_test"][index : index + 1], side=16)[0],
            max_new_tokens=2,
            do_sample=False,
            eos_token_id=-1,
        )[0, tokens.shape[1] :].tolist()
        answer = collator.tokenizer.decode(said)
        if split(answer)["input_ids"] == said:  # not every pair of tokens is how a text is split
            checked += 1
            (asked,) = read(model, collator, [[*document, Text(answer)]])
            assert asked.likeliest[:2].tolist() == said
            (asked,) = read(model, collator, [[*document, Text(f"?{answer}")]])
            assert not asked.is_right
    assert checked


def test_the_same_seed_gives_the_same_figures_from_cache_and_without(cache, tmp_path):
    once = cell(TINY, cache)
    assert cell(TINY, cache) == once
    assert cell(TINY, StageCache(tmp_path)) == once
    assert cell(TINY, cache, seed=1) != once
    assert all(math.isfinite(value) for value in once.values())
    assert {"zero_shot", "shots_4", "shots_8", "score", "text_accuracy", "balance"} <= set(once)


def test_an_axis_that_leaves_the_encoder_alone_computes_no_features_anew(cache):
    cell(TINY, cache)
    before = made(cache, "encoder", "features")
    cell(replace(TINY, num_image_tokens=1), cache)
    cell(replace(TINY, connector="average_pool"), cache)
    assert made(cache, "encoder", "features") == before
    cell(replace(TINY, image_side=12), cache)
    assert len(made(cache, "encoder", "features")) == len(before) + 2


def made(cache, *kinds):
    return {
        path.name
        for kind in kinds
        for path in cache.folder.glob(f"{kind}-*")
        if path.suffix != ".lock"
    }


@pytest.mark.parametrize("tiling", ["none", "static"])
def test_fine_tuning_starts_from_the_same_pretraining(cache, tiling):
    cell(TINY, cache)
    before = made(cache, "pretrained")
    figures = cell(replace(TINY, tuning=Tuning(tiling=tiling, steps=1, batch_size=2)), cache)
    assert 0 <= figures["questions"] <= 1
    assert made(cache, "pretrained") == before


def test_pages_are_cut_into_five_tiles_or_one(shared):
    for tiling, tiles in (("none", 1), ("static", 5)):
        features = shared.features(("pages",), tiling=tiling)
        assert features.num_tiles("pages") == tiles
        assert features.read([("pages", 0), ("pages_test", 1)]).shape[0] == 2 * tiles


@pytest.mark.parametrize(
    "change",
    [{"connector": "attention_pool"}, {"decoder": Decoder(16, 2, experts=2, text_steps=1)}],
)
def test_other_connectors_and_experts_run(cache, change):
    figures = cell(replace(TINY, **change), cache)
    assert all(math.isfinite(value) for value in figures.values())


def test_experts_do_not_lower_the_learning_rate_of_the_law(cache):
    from mm1_hf.ablations.paper.stages import dense_parameters

    dense = Shared(TINY, seed=0, cache=cache).pretrained()
    sparse_settings = replace(TINY, decoder=Decoder(16, 2, experts=2, text_steps=1))
    sparse = Shared(sparse_settings, seed=0, cache=cache).pretrained()
    routers = sum(
        parameter.numel()
        for name, parameter in sparse.model.language_model.named_parameters()
        if "gate.weight" in name or "router" in name
    )
    assert dense_parameters(sparse) - routers == dense_parameters(dense)


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_every_axis_of_the_paper_is_there(scale):
    axes = {axis.name: axis for study in paper(scale) for axis in study.axes}
    assert set(axes) == {
        "resolution",
        "encoder",
        "tokens",
        "connector",
        "mixture",
        "text",
        "captions",
        "experts",
        "rate",
        "steps",
        "tiling",
    }
    for study in paper(scale):
        points = study.points()
        assert len({point.name for point in points}) == len(points)
        assert len(study.seeds) >= 2
