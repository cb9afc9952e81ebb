"""A sparse model begins where its dense parent stands, in memory and on disk alike."""

import os
import signal

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import MixtralForCausalLM, PreTrainedModel

from mm1_hf import (
    MM1ForCausalLM,
    MM1ForConditionalGeneration,
    MM1Model,
    MM1Processor,
    MM1TextModel,
    presets,
)
from mm1_hf.cli import main
from mm1_hf.conversion import (
    convert_model,
    convert_model_back,
    upcycle,
    upcycle_checkpoint,
    upcycled_config,
)

from ..model import tiny
from .originals import ORIGINALS, assert_bit_equal, rewrite

SHAPE = {"num_experts": 4, "every": 2}
LAYER = "layers.1.mlp"


def composed(text: str, **changes) -> MM1ForConditionalGeneration:
    return MM1ForConditionalGeneration(
        tiny.config(text_config=tiny.text_configs()[text], **changes)
    )


DENSE = {
    "MM1": lambda: MM1ForConditionalGeneration(tiny.config()),
    "MM1 without head": lambda: MM1Model(tiny.config()),
    "MM1 with CLIP and Llama": lambda: composed("llama", vision_config=_clip()),
    "MM1 with Qwen2": lambda: composed("qwen2"),
    "decoder with head": lambda: MM1ForCausalLM(tiny.text_config(qk_norm=True)),
    "tied decoder": lambda: MM1ForCausalLM(tiny.text_config(tie_word_embeddings=True)),
    "decoder": lambda: MM1TextModel(tiny.text_config()),
    **{name: ORIGINALS[name] for name in ("llama", "mistral", "qwen2", "qwen3", "llava")},
}


def _clip():
    return tiny.vision_configs()["clip"]


def dense(name: str) -> PreTrainedModel:
    return tiny.randomised(DENSE[name]())


def inputs_for(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    if not hasattr(model.config, "vision_config"):
        return {"input_ids": torch.randint(3, 90, (2, 12))}
    count = 16 if model.config.model_type == "llava" else 4
    row = tiny.prompt([1, 5], "image", [7, 8, 9], num_image_tokens=count)
    return {"input_ids": torch.tensor([row, row]), "pixel_values": tiny.tiles(2)}


@torch.no_grad()
def output(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs = model(**inputs)
    logits = getattr(outputs, "logits", None)
    return outputs.last_hidden_state if logits is None else logits


@pytest.mark.parametrize("name", DENSE)
def test_a_sparse_model_begins_with_the_output_of_its_dense_parent(name):
    parent = dense(name)
    inputs = inputs_for(parent)
    before = {key: value.clone() for key, value in parent.state_dict().items()}
    child = upcycle(parent, **SHAPE)
    expected = output(parent, inputs)
    torch.testing.assert_close(output(child, inputs), expected, rtol=1e-5, atol=1e-5)
    tiny.randomised(child)
    assert not torch.allclose(output(child, inputs), expected, atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in parent.state_dict().items())


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", DENSE)
def test_from_file_to_file_it_is_the_same_to_the_bit(name, noise, tmp_path):
    parent = dense(name)
    parent.save_pretrained(tmp_path / "dense", max_shard_size="8KB")
    report = upcycle_checkpoint(
        tmp_path / "dense", tmp_path / "sparse", **SHAPE, noise=noise, max_shard_bytes=8_000
    )
    child = upcycle(parent, **SHAPE, noise=noise)
    loaded, info = type(child).from_pretrained(tmp_path / "sparse", output_loading_info=True)
    assert not any(info.values())
    assert_bit_equal(loaded, child)
    inputs = inputs_for(parent)
    assert torch.equal(output(loaded, inputs), output(child, inputs))
    written = [load_file(path) for path in (tmp_path / "sparse").glob("model-*.safetensors")]
    assert len(written) > 1
    assert {*report.loaded, *report.filled} == {key for shard in written for key in shard}


def test_a_fresh_load_generates_the_tokens_of_the_dense_model(tmp_path):
    parent = dense("MM1")
    parent.generation_config.max_new_tokens = 6
    parent.save_pretrained(tmp_path / "dense")
    upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    loaded = MM1ForConditionalGeneration.from_pretrained(tmp_path / "sparse")
    inputs = inputs_for(parent)
    answer = loaded.generate(**inputs, do_sample=False)
    assert torch.equal(answer, parent.generate(**inputs, do_sample=False))
    assert upcycle(parent, **SHAPE).generation_config.max_new_tokens == 6


# What the sparse part is.


@pytest.mark.parametrize(
    ("every", "kinds"),
    [
        (1, ["sparse", "sparse", "sparse"]),
        (2, ["dense", "sparse", "dense"]),
        (3, ["dense", "dense", "sparse"]),
    ],
)
def test_the_last_layer_of_each_group_is_sparse_and_its_experts_are_copies(every, kinds):
    parent = tiny.randomised(MM1ForCausalLM(tiny.text_config(num_hidden_layers=3)))
    child = upcycle(parent, num_experts=4, every=every)
    assert child.config.mlp_layer_types == kinds
    assert (child.config.router_aux_loss_coef, child.config.router_z_loss_coef) == (0.01, 0.001)
    for kind, old, new in zip(kinds, parent.model.layers, child.model.layers, strict=True):
        if kind == "dense":
            assert_bit_equal(new.mlp, old.mlp)
            continue
        both = torch.cat([old.mlp.gate_proj.weight, old.mlp.up_proj.weight])
        for expert in range(4):
            assert torch.equal(new.mlp.experts.gate_up_proj[expert], both)
            assert torch.equal(new.mlp.experts.down_proj[expert], old.mlp.down_proj.weight)


def test_a_router_begins_anew_in_each_layer_and_by_its_seed():
    config = tiny.text_config(hidden_size=64, initializer_range=0.05)
    parent = MM1ForCausalLM(config)

    def routers(seed: int) -> list[torch.Tensor]:
        child = upcycle(parent, num_experts=64, every=1, seed=seed)
        return [layer.mlp.gate.weight for layer in child.model.layers]

    first, second = routers(0)
    again, _ = routers(0)
    other, _ = routers(1)
    assert torch.equal(first, again)
    assert not torch.allclose(first, second) and not torch.allclose(first, other)
    assert first.std().item() == pytest.approx(0.05, rel=0.05)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    routers(0)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are used up


def test_noise_is_relative_to_each_matrix_and_differs_between_experts(tmp_path):
    parent = dense("decoder with head")
    block = parent.model.layers[1].mlp
    with torch.no_grad():
        block.up_proj.weight.mul_(10).add_(8)  # a mean is no deviation
    inner = parent.config.intermediate_size
    experts = upcycle(parent, **SHAPE, noise=0.2).model.layers[1].mlp.experts
    pieces = {
        block.gate_proj: experts.gate_up_proj[:, :inner],
        block.up_proj: experts.gate_up_proj[:, inner:],
        block.down_proj: experts.down_proj,
    }
    for matrix, found in pieces.items():
        added = found - matrix.weight
        wanted = 0.2 * matrix.weight.std().item()
        assert added.std().item() == pytest.approx(wanted, rel=0.1)
        for expert in range(1, 4):
            correlation = torch.corrcoef(torch.stack([added[0].flatten(), added[expert].flatten()]))
            assert abs(correlation[0, 1]) < 0.15
    other = upcycle(parent, **SHAPE, noise=0.2, seed=1).model.layers[1].mlp.experts
    assert not torch.allclose(other.down_proj, experts.down_proj)
    inputs = inputs_for(parent)
    noisy = upcycle(parent, **SHAPE, noise=0.2)
    assert not torch.allclose(output(noisy, inputs), output(parent, inputs), atol=1e-3)


def test_noise_in_many_chunks_is_the_same_on_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr("mm1_hf.conversion.sparse_tensors._CHUNK", 100)  # 960 per matrix
    test_from_file_to_file_it_is_the_same_to_the_bit("MM1", 0.1, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype, tmp_path):
    parent = dense("MM1").to(dtype)
    parent.save_pretrained(tmp_path / "dense")
    upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE, noise=0.1)
    loaded = MM1ForConditionalGeneration.from_pretrained(tmp_path / "sparse")
    assert loaded.dtype == dtype
    assert_bit_equal(loaded, upcycle(parent, **SHAPE, noise=0.1))


@pytest.mark.parametrize("training", [True, False])
def test_a_model_stays_in_training_or_out_of_it(training):
    parent = dense("decoder").train(training)
    assert all(one.training == training for one in upcycle(parent, **SHAPE).modules())


@pytest.mark.parametrize(
    ("small", "large", "shape"),
    [
        (presets.mm1_3b, presets.mm1_3b_moe, {"num_experts": 64, "every": 2}),
        (presets.mm1_7b, presets.mm1_7b_moe, {"num_experts": 32, "every": 4}),
        (presets.mm1_5_1b, presets.mm1_5_1b_moe, {"num_experts": 64, "every": 2}),
    ],
)
def test_a_dense_preset_becomes_its_sparse_one(small, large, shape):
    config = upcycled_config(small(), **shape)
    expected = large()
    assert config.text_config.to_dict() == expected.text_config.to_dict()
    with torch.device("meta"):
        counts = [MM1ForCausalLM(one.text_config).num_parameters() for one in (config, expected)]
    assert counts[0] == counts[1]


# Training.


def train_step(model: PreTrainedModel, ids: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    model.eval()


def test_after_one_step_the_experts_part_and_so_do_child_and_parent():
    parent = MM1ForCausalLM(tiny.text_config()).eval()
    child = upcycle(parent, **SHAPE)
    ids = torch.randint(3, 90, (4, 64))
    inputs = {"input_ids": ids[:, :8]}
    assert torch.allclose(output(child, inputs), output(parent, inputs), atol=1e-5)
    train_step(parent, ids)
    train_step(child, ids)
    assert not torch.allclose(output(child, inputs), output(parent, inputs), atol=1e-5)
    down = child.model.layers[1].mlp.experts.down_proj
    assert not torch.allclose(down[0], down[1], atol=1e-7)


def test_every_expert_and_the_router_get_a_gradient():
    child = upcycle(dense("MM1"), num_experts=8, every=1).train()
    ids = torch.randint(3, 90, (4, 128))
    child(input_ids=ids, labels=ids).loss.backward()
    for layer in child.model.language_model.layers:
        for weight in (*layer.mlp.experts.parameters(), layer.mlp.gate.weight):
            assert (weight.grad.flatten(1).abs().amax(1) > 0).all()


# Files.


def test_what_belongs_to_the_model_comes_along_and_what_a_trainer_left_does_not(tmp_path):
    folder, target = tmp_path / "dense", tmp_path / "sparse"
    dense("MM1").save_pretrained(folder)
    for name in ("processor_config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    for name in ("trainer_state.json", "optimizer.pt", "training_args.bin", "README.md"):
        (folder / name).write_text("{}")
    upcycle_checkpoint(folder, target, **SHAPE)
    assert {path.name for path in target.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
    }


def test_a_processor_loads_from_the_sparse_folder(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    config = tiny.config(text_config=tiny.text_config(vocab_size=600), image_token_id=None)
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=config)
    processor.save_pretrained(tmp_path / "dense")
    MM1ForConditionalGeneration(config).save_pretrained(tmp_path / "dense")
    upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    loaded = MM1Processor.from_pretrained(tmp_path / "sparse")
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    config = MM1ForConditionalGeneration.from_pretrained(tmp_path / "sparse").config
    assert config.image_token_id == processor.image_token_id


def test_weights_that_only_move_are_never_read_into_memory(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a whole tensor was read")

    dense("MM1 with CLIP and Llama").save_pretrained(tmp_path / "dense")
    monkeypatch.setattr("mm1_hf.conversion.checkpoints.FileCheckpoint.elements", refuse)
    upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_nothing(error, tmp_path, monkeypatch):
    def write(recipe, checkpoint, file):
        if len(recipe.info.shape) == 3:
            raise error
        file.write(bytes(recipe.info.dtype.itemsize * torch.Size(recipe.info.shape).numel()))

    dense("MM1").save_pretrained(tmp_path / "dense")
    monkeypatch.setattr("mm1_hf.conversion.sparse_tensors.Recipe.write", write)
    with pytest.raises(type(error)):
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_killed_half_way_is_no_checkpoint(tmp_path, monkeypatch):
    dense("MM1").save_pretrained(tmp_path / "dense")
    monkeypatch.setattr(
        "mm1_hf.conversion.sparse_tensors.Recipe.write",
        lambda *_: os.kill(os.getpid(), signal.SIGKILL),
    )
    if (child := os.fork()) == 0:
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "sparse").exists()


# What is refused.


def with_shared_blocks() -> MM1TextModel:
    model = MM1TextModel(tiny.text_config())
    first, second = (layer.mlp for layer in model.layers)
    second.down_proj.weight = first.down_proj.weight
    return model


def with_adapters() -> nn.Module:
    config = LoraConfig(target_modules=["q_proj"], lora_dropout=0.0)
    return get_peft_model(MM1ForCausalLM(tiny.text_config()), config)


def on_meta() -> MM1TextModel:
    with torch.device("meta"):
        return MM1TextModel(tiny.text_config())


# peft still asks for the old name of a property that transformers renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: upcycle(dense("MM1"), **SHAPE), "'MM1For.*' is sparse already: num_experts is 4"),
        (lambda: MixtralForCausalLM(tiny.text_configs()["mixtral"]), "num_(local_)?experts is 2"),
        (lambda: ORIGINALS["clip"](), "'clip_vision_model', which cannot become .*: mm1, .*llava"),
        (lambda: MM1ForCausalLM(tiny.text_config(mlp_bias=True)), "biases .*without them"),
        (with_shared_blocks, r"layers\.1\S+ and layers\.0\S+ of MM1TextModel are one tensor"),
        (with_adapters, "merge_and_unload"),
        (on_meta, "meta device.*upcycled_config"),
        (lambda: composed("qwen2").model.language_model, "Is this really a Qwen2ForCausalLM"),
    ],
)
def test_a_model_that_cannot_become_sparse_says_why(make, message):
    with pytest.raises(ValueError, match=message):
        upcycle(make(), **SHAPE)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_experts": 1}, "num_experts_per_tok is 2 and num_experts 1: .*2 of 32 or 64"),
        ({"num_experts": 0}, "num_experts 0"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"every": 0}, "every is 0, but the decoder has 2 layers: choose 1"),
        ({"every": 3}, "every is 3, but the decoder has 2 layers"),
        ({"noise": -0.1}, "noise is -0.1, but must be a share"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"max_positions": 64}, "max_positions is for decoders that are converted"),
    ],
)
def test_numbers_that_do_not_fit_say_what_would(numbers, message, tmp_path):
    parent = dense("decoder with head")
    parent.save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match=message):
        upcycle(parent, **{**SHAPE, **numbers})
    with pytest.raises(ValueError, match=message):
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **{**SHAPE, **numbers})
    assert not (tmp_path / "sparse").exists()


def _drop(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def _add(tensors):
    tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(40)


def _cut(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(39, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"missing model.layers.1.mlp.up_proj.weight of shape \(40, 24\)"),
        (_add, r"left over model.layers.1.mlp.up_proj.bias of shape \(40,\)"),
        (_cut, r"model.layers.1.mlp.up_proj.weight has shape \(39, 24\), expected \(40, 24\)"),
    ],
)
@pytest.mark.parametrize("name", ["decoder with head", "llama"])
def test_a_checkpoint_that_does_not_fit_its_configuration_is_refused(
    name, change, message, tmp_path
):
    dense(name).save_pretrained(tmp_path / "dense")
    rewrite(tmp_path / "dense", change)
    with pytest.raises(ValueError, match=message):
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    assert not (tmp_path / "sparse").exists()


def test_a_tied_checkpoint_with_another_head_is_refused(tmp_path):
    parent = dense("tied decoder")
    parent.save_pretrained(tmp_path / "dense")
    table = parent.model.embed_tokens.weight.detach()
    rewrite(tmp_path / "dense", lambda tensors: tensors.update({"lm_head.weight": table.clone()}))
    upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    rewrite(tmp_path / "dense", lambda tensors: tensors.update({"lm_head.weight": table + 1}))
    with pytest.raises(ValueError, match="two different tensors"):
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "other", **SHAPE)


def test_a_folder_with_an_adapter_or_of_another_model_is_refused(tmp_path):
    parent = dense("MM1")
    parent.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter.*merge_and_unload"):
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    (tmp_path / "dense" / "adapter_config.json").unlink()
    upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    with pytest.raises(ValueError, match="is sparse already"):
        upcycle_checkpoint(tmp_path / "sparse", tmp_path / "again", **SHAPE)
    with pytest.raises(ValueError, match="Nothing is overwritten"):
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)


def test_a_sliding_window_asks_for_the_longest_sequence(tmp_path):
    parent = dense("mistral")
    parent.config.sliding_window = 16
    parent.save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match="max_positions=16"):
        upcycle_checkpoint(tmp_path / "dense", tmp_path / "sparse", **SHAPE)
    child = upcycle(parent, **SHAPE, max_positions=16)
    assert child.config.max_position_embeddings == 16


def test_a_sparse_decoder_has_no_way_back_and_says_why():
    child = upcycle(convert_model(dense("llama")).model, **SHAPE)
    with pytest.raises(ValueError, match="num_experts is 4, expected None"):
        convert_model_back(child)


# The command.


def test_the_command_writes_what_the_function_does(tmp_path, capsys):
    parent = dense("llama")
    parent.save_pretrained(tmp_path / "dense")
    numbers = ("--num-experts", "4", "--every", "2", "--noise", "0.1", "--seed", "3")
    assert main(["upcycle", str(tmp_path / "dense"), str(tmp_path / "sparse"), *numbers]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM -> sparse MM1ForCausalLM: " in said
    assert "filled in 1: model.layers.1.mlp.gate.weight (a fresh router" in said
    assert "Noise of 0.1" in said
    loaded = MM1ForCausalLM.from_pretrained(tmp_path / "sparse")
    assert_bit_equal(loaded, upcycle(parent, **SHAPE, noise=0.1, seed=3))
    assert main(["upcycle", str(tmp_path / "sparse"), str(tmp_path / "x"), *numbers]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mm1 upcycle: ") and error.count("\n") == 1
