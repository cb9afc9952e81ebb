"""What vLLM's transformers back end and transformers' server ask of a model and its processor.

vLLM itself runs in `test_vllm.py`, where it is installed; these laws hold without it. The names are
those that vLLM 0.32 reads.
"""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mm1_hf import MM1ForConditionalGeneration, MM1Model, MM1Processor

from ..model import tiny
from ..model.processors import make_config
from ..small_tokenizers import SmallTokenizers
from .conftest import KINDS, noise

SIDES = st.integers(1, 120)


def make_processor(config, **settings) -> MM1Processor:
    return MM1Processor.from_parts(
        tokenizer=SmallTokenizers()("byte_level"), config=config, **settings
    )


@pytest.fixture(scope="module")
def config():
    return make_config()


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    config = make_config(text_config=tiny.text_config(vocab_size=512, **KINDS[request.param]))
    make_processor(config)
    torch.manual_seed(0)
    return tiny.randomised(MM1ForConditionalGeneration(config))


def test_an_engine_may_set_the_attention_and_the_experts():
    for model_class in (MM1Model, MM1ForConditionalGeneration):
        assert model_class._supports_attention_backend
        assert model_class.is_backend_compatible()
        assert model_class._can_set_attn_implementation()
        assert model_class._can_set_experts_implementation()


def test_the_base_model_is_built_from_a_configuration_without_weights(model):
    with torch.device("meta"):
        base = AutoModel.from_config(model.config)
    assert type(base) is MM1Model
    assert base.language_model.embed_tokens is base.get_input_embeddings()
    assert base.get_decoder() is base.language_model
    assert base.vision_tower is base.get_encoder(modality="image")
    # Its parameters are those of the checkpoint behind the prefix `model.`.
    names = {name.removeprefix("model.") for name in model.state_dict() if name[:7] != "lm_head"}
    assert set(base.state_dict()) == names


def test_linear_layers_get_contiguous_rows(model):
    strides = []

    def watch(module, inputs):
        strides.append(inputs[0].stride(-1))

    handles = [
        module.register_forward_pre_hook(watch)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    inputs = torch.tensor([tiny.prompt([5, 6], "image", [7])])
    inputs[inputs == tiny.IMAGE] = model.config.image_token_id
    model(input_ids=inputs, pixel_values=tiny.tiles(1))
    for handle in handles:
        handle.remove()
    assert strides and set(strides) == {1}


def test_features_are_a_constant_number_of_tokens_per_tile(model):
    features = model.model.get_image_features(tiny.tiles(5), return_dict=True)
    visual = features.pooler_output
    assert visual.shape == (5, 4, model.config.text_config.hidden_size)
    # An engine splits them by tiles, and each part is what its tiles give alone.
    one = model.model.get_image_features(tiny.tiles(5)[:1], return_dict=True).pooler_output
    assert one.shape == visual[:1].shape
    as_tuple = model.model.get_image_features(tiny.tiles(2), return_dict=False)
    assert isinstance(as_tuple, tuple)


def test_arguments_of_the_engine_reach_its_attention(model):
    """Such as vLLM's: embeddings, positions, no cache, and attention that reads the module."""
    base, seen = model.model, []

    def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
        seen.append((kwargs.get("attention_instances"), module.layer_idx, query.shape, scaling))
        return torch.zeros_like(query).transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS.register("engine_for_test", attention)
    before = base.config.text_config._attn_implementation
    base.config.text_config._attn_implementation = "engine_for_test"
    try:
        embeddings = torch.randn(1, 6, base.config.text_config.hidden_size)
        outputs = base(
            input_ids=None,
            inputs_embeds=embeddings,
            position_ids=torch.arange(6)[None],
            use_cache=False,
            return_dict=False,
            attention_instances={"marker": 1},
        )
    finally:
        base.config.text_config._attn_implementation = before
        ALL_ATTENTION_FUNCTIONS._local_mapping.pop("engine_for_test", None)
    assert outputs[0].shape == (1, 6, embeddings.shape[-1])
    assert [entry[:2] for entry in seen] == [({"marker": 1}, 0), ({"marker": 1}, 1)]
    heads, width = base.config.text_config.num_attention_heads, base.config.text_config.head_dim
    assert all(entry[2] == (1, heads, 6, width) for entry in seen)


def test_experts_are_where_an_engine_replaces_them():
    config = make_config(text_config=tiny.text_config(vocab_size=512, **KINDS["sparse"]))
    text = config.text_config
    make_processor(config)
    model = MM1ForConditionalGeneration(config)
    blocks = [m for m in model.modules() if hasattr(m, "experts")]
    assert blocks and text.num_experts_per_tok == 2 and text.intermediate_size
    for block in blocks:
        assert all(parameter.ndim == 3 for parameter in block.experts.parameters())
        names = {name for name, _ in block.experts.named_parameters()}
        assert names == {"gate_up_proj", "down_proj"}
        positional = list(inspect.signature(type(block.experts).forward).parameters)[1:]
        assert positional == ["hidden_states", "top_k_index", "top_k_weights"]
        _, weights, _ = block.gate(torch.randn(1, 3, text.hidden_size))
        # vLLM's own routing renormalises where more than one expert is chosen.
        torch.testing.assert_close(weights.sum(-1), torch.ones(3))


@given(
    sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3),
    tiling=st.sampled_from(["none", "static", "dynamic"]),
    markers=st.sampled_from(["none", "index", "separators"]),
)
@settings(max_examples=25)
def test_counts_from_sizes_are_those_of_the_pixels(sizes, tiling, markers):
    config = make_config()
    processor = make_processor(config, tiling=tiling, markers=markers)
    counted = processor._get_num_multimodal_tokens(image_sizes=[list(size) for size in sizes])
    images = [noise(*size) for size in sizes]
    inputs = processor(
        text=processor.image_token * len(images),
        images=images,
        return_tensors="pt",
        return_text_replacement_offsets=True,
    )
    offsets = inputs.pop("text_replacement_offsets")[0]
    assert len(offsets) == len(images)
    assert sum(counted["num_image_patches"]) == len(inputs["pixel_values"])
    assert sum(counted["num_image_tokens"]) == inputs["input_ids"].shape[1]
    for tokens, tiles, offset in zip(
        counted["num_image_tokens"], counted["num_image_patches"], offsets, strict=True
    ):
        ids = processor.tokenizer.encode(offset["replacement"], add_special_tokens=False)
        assert len(ids) == tokens
        # The token that an expansion repeats is the one that holds the embeddings.
        assert max(set(ids), key=ids.count) == processor.image_token_id
        assert ids.count(processor.image_token_id) == tiles * processor.num_image_tokens


def test_every_tensor_of_pixels_has_a_row_per_tile(config):
    processor = make_processor(config, tiling="dynamic")
    assert processor.image_processor.model_input_names == ["pixel_values"]
    inputs = processor(
        text=f"{processor.image_token} and {processor.image_token}",
        images=[noise(60, 40), noise(28, 28)],
        return_tensors="pt",
    )
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}
    counts = processor._get_num_multimodal_tokens(image_sizes=[(60, 40), (28, 28)])
    assert len(inputs["pixel_values"]) == sum(counts["num_image_patches"])


def test_the_largest_picture_of_a_profile_stays_bounded(config):
    """Engines size their memory by a picture of 10,000 x 10,000 pixels."""
    processor = make_processor(config, tiling="dynamic", max_tiles=9)
    counts = processor._get_num_multimodal_tokens(image_sizes=([10_000, 10_000],))
    assert counts["num_image_patches"][0] <= 10
    assert processor._get_num_multimodal_tokens().num_image_tokens is None
