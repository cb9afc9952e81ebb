import math

import pytest
import torch
from torch import nn
from transformers import (
    Aimv2VisionConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
)

from mm1_hf import (
    MM1Connector,
    MM1ForConditionalGeneration,
    MM1Model,
    MM1Processor,
    MM1VisionModel,
)

from . import tiny

# MM1's sizes at its patch of 14 px; the tower itself is tiny.
PAPER = {"image_size": 378, "patch_size": 14, "num_hidden_layers": 1}


def model(**changes) -> MM1ForConditionalGeneration:
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(**changes)))


def pixels(height: int, width: int | None = None) -> torch.Tensor:
    return torch.randn(2, 3, height, width or height)


def features(model, tiles: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.get_image_features(tiles).pooler_output


@pytest.mark.parametrize("size", [224, 336, 378, 448, 560, 672, (224, 448), (672, 336)])
def test_resized_computes_what_interpolation_computed(size):
    mm1 = model(vision_config=tiny.vision_config(**PAPER))
    tiles = pixels(*((size, size) if isinstance(size, int) else size))
    before = features(mm1, tiles)
    mm1.resize_image(size)
    torch.testing.assert_close(features(mm1, tiles), before, atol=1e-5, rtol=0)
    height, width = tiles.shape[2:]
    assert mm1.config.vision_config.image_size == (height if height == width else [height, width])
    assert mm1.config.connector_config.patch_grid == [height // 14, width // 14]
    assert mm1.model.vision_tower.position_embedding.num_embeddings == 1 + height * width // 14**2


@pytest.mark.parametrize("vision", ["own", "clip", "siglip", "aimv2"])
@pytest.mark.parametrize("connector_type", tiny.CONNECTOR_TYPES)
def test_a_resized_model_is_saved_and_loaded_equal(tmp_path, vision, connector_type):
    mm1 = model(
        vision_config=tiny.vision_configs()[vision],
        connector_config=tiny.connector_config(connector_type),
    )
    mm1.resize_image(42)
    tiles = pixels(42)
    mm1.save_pretrained(tmp_path)
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(features(again, tiles), features(mm1, tiles), atol=0, rtol=0)
    assert again.config.vision_config.image_size == 42
    assert again.config.connector_config.patch_grid == [6, 6]
    # And once more: a loaded model can be resized.
    again.resize_image(56)
    assert again.get_image_features(pixels(56)).pooler_output.isfinite().all()


@pytest.mark.parametrize("vision", ["own", "clip", "siglip"])
@pytest.mark.parametrize("connector_type", tiny.CONNECTOR_TYPES)
@pytest.mark.parametrize("side", [14, 42, 56])
def test_every_tower_and_connector_computes_as_before(vision, connector_type, side):
    mm1 = model(
        vision_config=tiny.vision_configs()[vision],
        connector_config=tiny.connector_config(connector_type),
    )
    tiles = pixels(side)
    before = features(mm1, tiles)
    mm1.resize_image(side)
    torch.testing.assert_close(features(mm1, tiles), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vision", ["own", "clip", "siglip", "aimv2"])
def test_the_native_size_changes_nothing(vision):
    mm1 = model(vision_config=tiny.vision_configs()[vision])
    before = {name: (id(one), one.clone()) for name, one in mm1.named_parameters()}
    config = mm1.config.to_dict()
    mm1.resize_image(tiny.SIDE)
    mm1.resize_image((tiny.SIDE, tiny.SIDE))
    for name, parameter in mm1.named_parameters():
        assert id(parameter) == before[name][0], "an optimizer still has it"
        assert torch.equal(parameter, before[name][1])
    assert mm1.config.to_dict() == config


def test_a_native_size_with_a_rest_is_no_error_and_its_grid_is_kept():
    mm1 = model(vision_config=tiny.vision_config(image_size=30))  # 4 x 4 patches of 7, 2 px unseen
    table = mm1.model.vision_tower.position_embedding.weight.clone()
    mm1.resize_image(30)
    mm1.resize_image(28)
    assert torch.equal(mm1.model.vision_tower.position_embedding.weight, table)
    assert mm1.config.vision_config.image_size == 28


@pytest.mark.parametrize(("height", "width"), [(42, 42), (21, 56)])
def test_positions_are_those_that_transformers_clip_interpolates(height, width):
    clip = tiny.randomised(CLIPVisionModel(CLIPVisionConfig(**tiny.VISION_SIZES)))
    ours = MM1VisionModel(tiny.vision_config())
    table = clip.get_submodule("embeddings").position_embedding.weight
    ours.position_embedding.weight.data.copy_(table)
    ours.resize_image((height, width))
    num_patches = height * width // 7**2
    sequence = torch.empty(1, 1 + num_patches, 32)
    theirs = clip.get_submodule("embeddings").interpolate_pos_encoding(sequence, height, width)
    torch.testing.assert_close(ours.position_embedding.weight, theirs[0], atol=1e-6, rtol=0)


def test_the_whole_model_answers_and_learns_at_the_new_size():
    mm1 = model()
    mm1.resize_image(42)
    mm1.train()
    ids = torch.tensor([tiny.prompt([1, 5], "image", [6, 7, 2])])
    mm1(input_ids=ids, pixel_values=pixels(42)[:1], labels=ids).loss.backward()
    assert not tiny.parameters_without_gradient(mm1)
    mm1(input_ids=torch.tensor([[1, 5, 6]]), labels=torch.tensor([[1, 5, 6]])).loss.backward()


@pytest.mark.parametrize("vision", ["own", "clip"])
def test_freezing_and_dtype_stay(vision):
    mm1 = model(vision_config=tiny.vision_configs()[vision]).to(torch.bfloat16)
    mm1.model.vision_tower.requires_grad_(False)
    mm1.resize_image(56)
    tables = [
        one
        for name, one in mm1.named_parameters()
        if "position_embedding" in name and name.startswith("model.")
    ]
    assert [one.dtype for one in tables] == [torch.bfloat16] * 2
    assert [one.requires_grad for one in tables] == [False, True]
    assert mm1.get_image_features(pixels(56)).pooler_output.dtype == torch.bfloat16


def test_the_connector_alone_and_a_connector_of_ones_own():
    connector = tiny.randomised(MM1Connector(tiny.lone_connector_config()))
    patches = torch.randn(2, 6 * 3, 32)
    before = connector(patches, grid=(6, 3))
    connector.resize_grid((6, 3))
    torch.testing.assert_close(connector(patches), before, atol=1e-6, rtol=0)
    connector.projector = nn.Module()  # keeps nothing per patch
    connector.resize_grid((2, 2))
    assert connector.config.patch_grid == [2, 2]


@pytest.mark.parametrize("size", [30, (28, 30), 0, -28, 6])
def test_a_size_with_a_rest_is_an_error_that_names_the_nearest(size):
    mm1 = model()
    with pytest.raises(ValueError, match=r"no multiple of the patch size, 7 px.*nearest"):
        mm1.resize_image(size)
    assert mm1.config.vision_config.image_size == tiny.SIDE


@pytest.mark.parametrize("vision", ["clip", "siglip", "aimv2"])
def test_foreign_towers_know_squares_only(vision):
    with pytest.raises(ValueError, match=r"28 x 56 px is no square.*mm1_hf\.conversion"):
        model(vision_config=tiny.vision_configs()[vision]).resize_image((28, 56))


def test_an_unknown_tower_is_an_error_that_names_the_known():
    dinov2 = Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=7
    )
    mm1 = MM1Model(tiny.config(vision_config=dinov2))
    with pytest.raises(ValueError, match=r"'dinov2' tower cannot.*clip_vision_model"):
        mm1.resize_image(42)
    mm1.resize_image(28)


def test_aimv2_without_a_table_only_learns_the_size():
    native = Aimv2VisionConfig(**tiny.VISION_SIZES, is_native=True)
    mm1 = model(vision_config=native)
    tiles = pixels(42)
    before = features(mm1, tiles)
    mm1.resize_image(42)
    torch.testing.assert_close(features(mm1, tiles), before, atol=1e-5, rtol=0)


def test_tiles_that_a_tower_has_no_positions_for_are_an_error():
    mm1 = model(vision_config=tiny.vision_configs()["aimv2"])
    with pytest.raises(ValueError, match=r"42 x 42 px.*28 x 28 px only.*resize_image"):
        mm1.get_image_features(pixels(42))
    mm1.resize_image(42)
    assert features(mm1, pixels(42)).isfinite().all()


@pytest.mark.parametrize("connector_type", ["c_abstractor", "mlp"])
def test_a_processor_made_anew_fits_the_resized_model(make_tokenizer, connector_type):
    mm1 = model(
        connector_config=tiny.connector_config(connector_type),
        text_config=tiny.text_config(vocab_size=500),
        image_token_id=None,
    )
    tokenizer = make_tokenizer()
    old = MM1Processor.from_parts(tokenizer=tokenizer, config=mm1.config)
    mm1.resize_image(42)
    new = MM1Processor.from_parts(tokenizer=old.tokenizer, config=mm1.config)
    picture = torch.zeros(3, 50, 60, dtype=torch.uint8)
    inputs = new(text="<image> what?", images=picture, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 42, 42)
    assert new.num_image_tokens == (math.prod((6, 6)) if connector_type == "mlp" else 4)
    mm1(**inputs)
    stale = old(text="<image> what?", images=picture, return_tensors="pt")
    if connector_type == "mlp":
        stale["pixel_values"] = inputs["pixel_values"]
        with pytest.raises(ValueError, match=r"tokens: 16, features: 36"):
            mm1(**stale)
    else:
        mm1(**stale)  # smaller tiles than the native ones are interpolated
