import pytest
import torch
from transformers import CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mm1_hf import MM1ForConditionalGeneration, MM1VisionModel

from . import tiny


def mm1(**changes) -> MM1ForConditionalGeneration:
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(**changes)))


def batch(*samples: list[int]) -> dict[str, torch.Tensor]:
    """Right-padded samples and the tiles they ask for."""
    longest = max(map(len, samples))
    ids = torch.tensor([sample + [0] * (longest - len(sample)) for sample in samples])
    num_tiles = int((ids == tiny.IMAGE).sum()) // 4
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return inputs | ({"pixel_values": tiny.tiles(num_tiles)} if num_tiles else {})


def labels_of(ids: torch.Tensor) -> torch.Tensor:
    return ids.masked_fill((ids == tiny.IMAGE) | (ids == 0), -100)


def vision_calls(model: MM1ForConditionalGeneration) -> list[int]:
    """Grows by the number of tiles at each call of the vision tower."""
    calls: list[int] = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    return calls


ONE = tiny.prompt([1, 5], "image", [6, 7])
TWO = tiny.prompt([1], "image", [8, 9], "image", [10])
NONE = tiny.prompt([1, 11, 12])


def test_images_of_samples_with_different_counts_reach_their_own_sample():
    model = mm1()
    inputs = batch(TWO, NONE, ONE)
    found = model(**inputs).logits
    tiles = inputs["pixel_values"].split([2, 0, 1])
    for row, (sample, pixels) in enumerate(zip((TWO, NONE, ONE), tiles, strict=True)):
        pixels = {"pixel_values": pixels} if len(pixels) else {}
        alone = model(input_ids=torch.tensor([sample]), **pixels).logits
        torch.testing.assert_close(found[row, : len(sample)], alone[0], atol=1e-5, rtol=1e-5)


def test_the_order_of_tiles_is_the_order_of_placeholders():
    model = mm1()
    pixels, ids = tiny.tiles(2), torch.tensor([TWO])
    output = model(input_ids=ids, pixel_values=pixels)
    alone = model.get_image_features(pixels[1:]).pooler_output
    torch.testing.assert_close(output.image_hidden_states[1:], alone, atol=1e-5, rtol=1e-5)
    embeds = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(input_ids=ids, pixel_values=pixels)
    seen = embeds[0][ids == tiny.IMAGE]
    torch.testing.assert_close(seen, output.image_hidden_states.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_text_alone_is_the_decoders_own():
    model = mm1()
    inputs = {"input_ids": torch.tensor([NONE])}
    expected = model.lm_head(model.model.language_model(**inputs).last_hidden_state)
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize(("num_tiles", "features"), [(1, 4), (3, 12)])
def test_placeholders_and_tiles_must_match(num_tiles, features):
    message = f"^Image features and image tokens do not match, tokens: 8, features: {features} "
    with pytest.raises(ValueError, match=message):
        mm1()(input_ids=torch.tensor([TWO]), pixel_values=tiny.tiles(num_tiles))


@pytest.mark.parametrize("training", [True, False])
def test_placeholders_without_any_tile_are_an_error(training):
    message = "^Image features and image tokens do not match, tokens: 8, features: 0 "
    with pytest.raises(ValueError, match=message):
        mm1().train(training)(input_ids=torch.tensor([TWO]))


def test_generating_from_placeholders_without_any_tile_is_an_error():
    with pytest.raises(ValueError, match=r"^Image features and image tokens do not match"):
        mm1().generate(input_ids=torch.tensor([TWO]), max_new_tokens=2)


def test_a_placeholder_behind_a_cache_is_let_through():
    """Candidates that are looked up in the prompt copy its placeholders, and are then rejected."""
    model = mm1()
    read = model(**batch(ONE))
    model(input_ids=torch.tensor([[tiny.IMAGE, 7]]), past_key_values=read.past_key_values)


def test_without_a_placeholder_id_pictures_are_an_error_that_says_how_to_set_it():
    with pytest.raises(ValueError, match=r"image_token_id is not set.*MM1Processor\.from_parts"):
        mm1(image_token_id=None)(**batch(ONE))


def test_inputs_that_exclude_each_other_are_refused():
    model, inputs = mm1(), batch(ONE)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(pixel_values=inputs["pixel_values"])
    encoded = {"image": model.get_image_features(inputs["pixel_values"])}
    with pytest.raises(ValueError, match="pixel_values or mm_encoder_outputs, not both"):
        model(**inputs, mm_encoder_outputs=encoded)


def test_no_tiles_at_all_are_text_alone():
    model, ids = mm1(), torch.tensor([NONE])
    expected = model(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids, pixel_values=tiny.tiles(0)).logits, expected)


@pytest.mark.parametrize("text", tiny.text_configs())
@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_a_training_forward_calls_the_tower_once_and_leaves_no_gradient_out(vision, text):
    model = mm1(
        vision_config=tiny.vision_configs()[vision], text_config=tiny.text_configs()[text]
    ).train()
    calls = vision_calls(model)
    for samples, num_tiles in (((TWO, ONE), 3), ((NONE,), 1)):
        calls.clear()
        model.zero_grad()
        inputs = batch(*samples)
        model(**inputs, labels=labels_of(inputs["input_ids"])).loss.backward()
        assert calls == [num_tiles]
        assert not tiny.parameters_without_gradient(model)


def test_the_black_tile_of_a_text_batch_changes_nothing():
    model = mm1()
    inputs = batch(NONE)
    expected = model(**inputs).logits
    model.train()
    torch.testing.assert_close(model(**inputs).logits, expected, atol=0, rtol=0)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert not any(p.grad.any() for p in model.model.vision_tower.parameters())


def test_reading_text_calls_no_tower():
    model = mm1()
    calls = vision_calls(model)
    model(**batch(NONE))
    model.generate(**batch(NONE), max_new_tokens=2, pad_token_id=0)
    with torch.no_grad():
        model.train()(**batch(NONE))
    assert calls == []


def test_embeddings_in_place_of_tokens_change_nothing():
    model, inputs = mm1(), batch(ONE, TWO)
    expected = model(**inputs).logits
    ids = inputs.pop("input_ids")
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model(**inputs, inputs_embeds=embeds).logits, expected)


def test_features_computed_beforehand_change_nothing():
    model, inputs = mm1(), batch(ONE, TWO)
    expected = model(**inputs).logits
    encoded = {"image": model.get_image_features(inputs.pop("pixel_values"))}
    calls = vision_calls(model)
    assert torch.equal(model(**inputs, mm_encoder_outputs=encoded).logits, expected)
    assert calls == []


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4])])
def test_logits_are_computed_only_where_wanted(keep):
    model, inputs = mm1(), batch(ONE)
    wanted = slice(-keep, None) if isinstance(keep, int) else keep
    found = model(**inputs, logits_to_keep=keep).logits
    torch.testing.assert_close(found, model(**inputs).logits[:, wanted], atol=1e-5, rtol=1e-5)


def test_tuples_hold_what_the_named_outputs_hold():
    model, inputs = mm1(), batch(ONE)
    labels = labels_of(inputs["input_ids"])
    named = model(**inputs, labels=labels)
    plain = model(**inputs, labels=labels, return_dict=False)
    assert isinstance(plain, tuple) and torch.equal(plain[0], named.loss)
    assert torch.equal(plain[1], named.logits)


@pytest.mark.parametrize("vision", tiny.vision_configs())
def test_image_features_follow_transformers_contract(vision):
    model = mm1(vision_config=tiny.vision_configs()[vision])
    pixels = tiny.tiles(3)
    for owner in (model, model.model):
        features = owner.get_image_features(pixels, output_hidden_states=True)
        assert isinstance(features, BaseModelOutputWithPooling)
        assert features.pooler_output.shape == (3, 4, 24)
        assert features.last_hidden_state.shape[-1] == 32
        assert len(features.hidden_states) == 3
        as_tuple = owner.get_image_features(pixels, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert torch.equal(as_tuple[1], features.pooler_output)


def test_a_foreign_feature_layer_is_read():
    clip = tiny.vision_configs()["clip"]
    model = mm1(vision_config=clip, vision_feature_layer=-2)
    tower = model.model.vision_tower
    assert isinstance(tower, CLIPVisionModel)
    pixels = tiny.tiles(1)
    patches = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    expected = model.model.connector(patches)
    torch.testing.assert_close(model.get_image_features(pixels).pooler_output, expected)


@pytest.mark.parametrize("vision", ["own", "clip", "siglip"])
def test_tiles_of_another_resolution_become_as_many_tokens(vision):
    model = mm1(vision_config=tiny.vision_configs()[vision])
    assert model.get_image_features(tiny.tiles(2, side=42)).pooler_output.shape == (2, 4, 24)


def test_the_loss_of_a_split_batch_adds_up():
    model, inputs = mm1(), batch(ONE, TWO, NONE)
    labels = labels_of(inputs["input_ids"])
    num_items = int((labels[:, 1:] != -100).sum())
    whole = model(**inputs, labels=labels).loss
    pixels = inputs["pixel_values"].split([1, 2, 0])
    parts = [
        model(
            input_ids=inputs["input_ids"][row : row + 1],
            attention_mask=inputs["attention_mask"][row : row + 1],
            pixel_values=pixels[row] if len(pixels[row]) else None,
            labels=labels[row : row + 1],
            num_items_in_batch=num_items,
        ).loss
        for row in range(3)
    ]
    torch.testing.assert_close(sum(parts), whole)


def packed(*samples: list[int]) -> dict[str, torch.Tensor]:
    labels = [label for s in samples for label in [-100, *s[1:]]]
    labels = [-100 if label == tiny.IMAGE else label for label in labels]
    return {
        "input_ids": torch.tensor([[token for sample in samples for token in sample]]),
        "position_ids": torch.tensor([[i for s in samples for i in range(len(s))]]),
        "labels": torch.tensor([labels]),
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("text", tiny.text_configs())
def test_packed_documents_are_read_as_if_alone(text, training):
    model = mm1(text_config=tiny.text_configs()[text]).train(training)
    pixels = tiny.tiles(3)
    found = model(**packed(ONE, NONE, TWO), pixel_values=pixels, skip_logits=False).logits
    found = found.split([len(ONE), len(NONE), len(TWO)], dim=1)
    for logits, sample, own in zip(
        found, (ONE, NONE, TWO), (pixels[:1], None, pixels[1:]), strict=True
    ):
        expected = model(input_ids=torch.tensor([sample]), pixel_values=own, use_cache=False)
        torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_arguments_of_packed_attention_do_not_reach_the_tower(monkeypatch):
    model, seen = mm1(), {}
    forward = MM1VisionModel.forward

    def spy(self, *args, **kwargs):
        seen.update(kwargs)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(MM1VisionModel, "forward", spy)
    model(**batch(ONE), cu_seq_lens_q=torch.tensor([0, 8]), max_length_q=8)
    assert not {"cu_seq_lens_q", "max_length_q"} & set(seen)


def test_activation_checkpointing_changes_no_gradient():
    model, inputs = mm1().train(), batch(ONE, TWO)
    labels = labels_of(inputs["input_ids"])
    model(**inputs, labels=labels).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    tiny.enable_activation_checkpointing(model)
    assert model.model.vision_tower.layers[0].gradient_checkpointing
    assert model.model.language_model.layers[0].gradient_checkpointing
    model(**inputs, labels=labels).loss.backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_whole_forward_compiles_into_one_graph():
    sizes = {"num_hidden_layers": 1}
    model = mm1(vision_config=tiny.vision_config(**sizes), text_config=tiny.text_config(**sizes))
    inputs = batch(ONE, TWO)
    expected = model(**inputs, use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(**inputs, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
