"""Saving, loading, initialising, resizing: what holds for every class of ours."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import set_seed

from mm1_hf import MM1ForConditionalGeneration

from .cases import CASES, READERS, WITH_HEAD, answer

EVERY = pytest.mark.parametrize("case", CASES)


@EVERY
def test_saved_twice_and_loaded_twice_it_answers_as_before(case, tmp_path):
    """`from_pretrained` adds fields to a configuration, which must load again too."""
    model_class, _, inputs = CASES[case]
    model = CASES[case].make()
    expected = answer(model, inputs)
    for folder in (tmp_path / "first", tmp_path / "second"):
        model.save_pretrained(folder)
        assert (folder / "generation_config.json").exists() == model_class.can_generate()
        model, found = model_class.from_pretrained(folder, output_loading_info=True)
        assert not any(found.values()), found
        assert torch.equal(answer(model, inputs), expected)


@EVERY
def test_a_state_dict_carries_everything(case, tmp_path):
    model = CASES[case].make()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    again = CASES[case].make(randomised=False)
    again.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(answer(again, CASES[case].inputs), answer(model, CASES[case].inputs))


@EVERY
def test_a_configuration_and_a_state_dict_are_a_checkpoint(case):
    model = CASES[case].make()
    again = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


@EVERY
def test_loaded_weights_are_contiguous_whatever_was_saved(case, tmp_path):
    model = CASES[case].make()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.t().contiguous().t()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(parameter.is_contiguous() for parameter in again.parameters())


@EVERY
def test_every_tensor_is_a_parameter_or_a_buffer(case):
    """A plain attribute would not move to another device with the model."""
    for name, module in CASES[case].make().named_modules():
        plain = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not plain, (name, plain)


@EVERY
def test_weights_missing_from_a_checkpoint_are_those_of_a_new_model(case):
    """As if they had been made by the constructor: same distribution, nothing forgotten."""
    case = CASES[case]
    set_seed(0)
    new = case.model_class(case.config())
    empty = case.model_class.from_pretrained(None, config=case.config(), state_dict={})
    for name, parameter in empty.named_parameters():
        other = new.get_parameter(name)
        assert parameter.isfinite().all(), name
        if other.numel() > 200:
            assert 0.7 < (parameter.std() / other.std()).nan_to_num(1.0) < 1.4, name
        elif other.unique().numel() == 1:
            assert torch.equal(parameter, other), name
    for name, buffer in empty.named_buffers():
        torch.testing.assert_close(buffer, new.get_buffer(name))


@EVERY
def test_it_can_be_made_without_memory(case):
    with torch.device("meta"):
        model = CASES[case].model_class(CASES[case].config())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_loading_heeds_the_device_around_it_and_refuses_meta(tmp_path):
    model = CASES["whole"].make()
    model.save_pretrained(tmp_path)
    with torch.device("cpu"):
        again = MM1ForConditionalGeneration.from_pretrained(tmp_path)
    assert {parameter.device.type for parameter in again.parameters()} == {"cpu"}
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta"):
        MM1ForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("case", READERS)
def test_shapes_that_differ_are_an_error_or_new_on_request(case, tmp_path):
    model = CASES[case].make()
    model.save_pretrained(tmp_path)
    other = copy.deepcopy(model.config)
    other.get_text_config().vocab_size += 7
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        type(model).from_pretrained(tmp_path, config=other)
    again, found = type(model).from_pretrained(
        tmp_path, config=other, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert found["mismatched_keys"]
    table = again.get_input_embeddings().weight
    assert len(table) == other.get_text_config().vocab_size
    assert table.isfinite().all() and table.std() > 0.01


@pytest.mark.parametrize("case", WITH_HEAD)
def test_keys_that_lack_are_named_and_only_those(case, tmp_path):
    model = CASES[case].make()
    state = model.state_dict()
    del state["lm_head.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    _, found = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert found["missing_keys"] == {"lm_head.weight"}
    assert not found["unexpected_keys"]


@pytest.mark.parametrize("case", WITH_HEAD)
def test_a_checkpoint_of_the_model_loads_into_the_model_with_a_head_and_back(case, tmp_path):
    model = CASES[case].make()
    model.base_model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "whole")
    headed = type(model).from_pretrained(tmp_path / "base")
    bare = type(model.base_model).from_pretrained(tmp_path / "whole")
    for name, parameter in model.base_model.named_parameters():
        assert torch.equal(headed.base_model.get_parameter(name), parameter), name
        assert torch.equal(bare.get_parameter(name), parameter), name


@pytest.mark.parametrize("case", WITH_HEAD)
def test_tied_weights_are_one_tensor_saved_once(case, tmp_path):
    config = CASES[case].config()
    config.tie_word_embeddings = True
    config.get_text_config().tie_word_embeddings = True
    model = CASES[case].model_class(config).eval()
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again, found = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"]
    assert again.lm_head.weight is again.get_input_embeddings().weight
    again.lm_head.weight.data.fill_(0.5)
    assert again.get_input_embeddings().weight.unique().tolist() == [0.5]
    again.resize_token_embeddings(110)
    assert again.lm_head.weight is again.get_input_embeddings().weight


@pytest.mark.parametrize("case", WITH_HEAD)
@pytest.mark.parametrize("change", [10, -15])
def test_a_resized_vocabulary_keeps_its_rows_and_learns(case, change):
    model = CASES[case].make()
    model.config.image_token_id = None
    size = model.config.get_text_config().vocab_size
    table, head = (
        layer.weight.detach().clone()
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    model.resize_token_embeddings(size + change, mean_resizing=False)
    kept = min(size, size + change)
    assert model.config.get_text_config().vocab_size == size + change
    assert torch.equal(model.get_input_embeddings().weight[:kept], table[:kept])
    assert torch.equal(model.get_output_embeddings().weight[:kept], head[:kept])
    ids = torch.tensor([[1, 5, 6, 7]])
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert model.get_output_embeddings().weight.grad.any()
    assert model(input_ids=ids).logits.shape[-1] == size + change


@pytest.mark.parametrize("case", WITH_HEAD)
def test_initialising_again_leaves_a_resized_head_alone(case):
    model = CASES[case].make()
    model.resize_token_embeddings(model.config.get_text_config().vocab_size + 10)
    before = model.get_output_embeddings().weight.detach().clone()
    model.post_init()
    assert torch.equal(model.get_output_embeddings().weight, before)


@EVERY
def test_embeddings_are_found_and_replaced(case):
    model = CASES[case].make()
    before = model.get_input_embeddings()
    assert isinstance(before, nn.Conv2d if case == "vision" else nn.Embedding)
    new = copy.deepcopy(before)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    head = model.get_output_embeddings()
    assert (head is not None) == (case in WITH_HEAD)


@EVERY
def test_names_that_tools_go_by_are_right(case):
    model = CASES[case].make()
    first = next(iter(CASES[case].inputs))
    assert model.main_input_name == first
    assert hasattr(model, model.base_model_prefix) == (case in WITH_HEAD)
    assert not getattr(model, "_keep_in_fp32_modules", None)
    layers = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules or ()) <= layers
    assert model._no_split_modules


@EVERY
def test_every_entry_of_a_plan_for_several_devices_names_a_module(case):
    model = CASES[case].make()
    names = {name for name, _ in model.named_modules()} | set(dict(model.named_parameters()))
    starred = {
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
    }
    dense_or_sparse = ("mlp.experts", "mlp.gate", "mlp.up_proj", "mlp.down_proj", "_norm")
    for entry in model.tp_plan or {}:
        assert entry in starred or any(part in entry for part in dense_or_sparse), entry
    if case in WITH_HEAD:
        assert "lm_head" in model.tp_plan


@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
def test_the_dtype_is_set_everywhere_by_either_name(keyword, tmp_path):
    CASES["whole"].make().save_pretrained(tmp_path)
    model = MM1ForConditionalGeneration.from_pretrained(tmp_path, **{keyword: torch.bfloat16})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
