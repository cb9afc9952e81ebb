"""Adapters sit where the preset says and nowhere else, and nothing of them is lost."""

import re
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import MixtralConfig

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.training.adapters import adapter_config, linear_layers
from mm1_hf.training.freezing import freeze

from ..model import tiny

# PEFT asks transformers in its older words.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

DECODER = [
    f"model.language_model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    )
]
VISION = [
    f"model.vision_tower.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.fc1", "mlp.fc2"),
    )
]


def make_model(**changes) -> MM1ForConditionalGeneration:
    torch.manual_seed(0)
    return tiny.randomised(MM1ForConditionalGeneration(tiny.config(**changes)))


def make_inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    rows = [tiny.prompt([5, 6], "image", [7, 8, 9]), tiny.prompt("image", [10, 11, 12, 13, 14])]
    return {"input_ids": torch.tensor(rows), "pixel_values": tiny.tiles(2)}


def labels_of(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.IMAGE, -100)


def take_steps(model: torch.nn.Module, *, steps: int = 3) -> torch.nn.Module:
    """Train a little, so that adapters do something."""
    inputs = make_inputs()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs, labels=labels_of(inputs)).loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(**make_inputs()).logits


def adapted_modules(model: PeftModel) -> set[str]:
    """Names of modules with an adapter, as they were before."""
    names = (name for name, _ in model.named_modules() if name.endswith(".lora_A"))
    return {name.removeprefix("base_model.model.").removesuffix(".lora_A") for name in names}


@pytest.mark.parametrize(
    ("preset", "targets", "saved"),
    [
        ("decoder", DECODER, None),
        ("decoder+connector", DECODER, ["model.connector"]),
        ("all", [*DECODER, *VISION], ["model.connector"]),
    ],
)
def test_a_preset_names_exactly_these_modules(preset, targets, saved):
    config = adapter_config(make_model(), preset=preset)
    assert sorted(config.target_modules) == sorted(targets)
    assert config.modules_to_save == saved
    assert adapted_modules(get_peft_model(make_model(), config)) == set(targets)


@pytest.mark.parametrize("vision", tiny.vision_configs().items(), ids=lambda one: one[0])
@pytest.mark.parametrize("text", tiny.text_configs().items(), ids=lambda one: one[0])
def test_every_trained_parameter_gets_a_gradient_and_every_other_none(vision, text):
    changes = {"vision_config": vision[1], "text_config": text[1]}
    model = make_model(**changes)
    model = get_peft_model(model, adapter_config(model, preset="all", r=2))
    inputs = make_inputs()
    model.train()(**inputs, labels=labels_of(inputs)).loss.backward()
    assert tiny.parameters_without_gradient(model) == []
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert all("lora_" in name or "connector.modules_to_save" in name for name in trained)
    assert not any("router" in name or ".gate." in name for name in trained)
    assert any("vision_tower" in name for name in trained)


@pytest.mark.parametrize("preset", ["decoder", "decoder+connector"])
@pytest.mark.parametrize("vision", tiny.vision_configs().items(), ids=lambda one: one[0])
def test_the_vision_tower_never_trains_unless_asked(preset, vision):
    model = make_model(vision_config=vision[1])
    model = get_peft_model(model, adapter_config(model, preset=preset))
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert not any("vision_tower" in name for name in trained)
    assert any("connector" in name for name in trained) == (preset != "decoder")


def test_short_names_would_hit_the_vision_tower():
    """The reason for full names."""
    model = get_peft_model(make_model(), peft.LoraConfig(target_modules=["q_proj"]))
    assert any("vision_tower" in name for name in adapted_modules(model))


@pytest.mark.parametrize("preset", ["decoder", "decoder+connector", "all"])
def test_saved_loaded_and_merged_adapters_give_the_same_logits(preset, tmp_path):
    base = make_model()
    before = logits_of(base)
    model = take_steps(get_peft_model(base, adapter_config(base, preset=preset, r=4)))
    after = logits_of(model)
    assert (after - before).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "adapter")
    assert torch.equal(logits_of(loaded), after)
    merged = loaded.merge_and_unload()
    assert torch.allclose(logits_of(merged), after, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_of(again), after, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_trained_tokens_survive_merging_saving_and_loading(tied, tmp_path):
    def grown() -> MM1ForConditionalGeneration:
        text = tiny.text_config(tie_word_embeddings=tied)
        model = make_model(text_config=text)
        model.resize_token_embeddings(tiny.VOCABULARY + 2, mean_resizing=False)
        return tiny.randomised(model)

    torch.manual_seed(2)
    base = grown()
    base.save_pretrained(tmp_path / "base")
    table = base.get_input_embeddings().weight.detach().clone()
    config = adapter_config(base, embeddings="trained", r=4)
    model = take_steps(get_peft_model(base, config))
    after = logits_of(model)
    model.save_pretrained(tmp_path / "adapter")
    start = MM1ForConditionalGeneration.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(start, tmp_path / "adapter")
    assert torch.allclose(logits_of(loaded), after, atol=1e-5)
    merged = loaded.merge_and_unload()
    assert not torch.equal(merged.get_input_embeddings().weight, table)
    merged.save_pretrained(tmp_path / "merged")
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_of(again), after, atol=1e-4)
    same = again.lm_head.weight is again.get_input_embeddings().weight
    assert same == tied


@pytest.mark.parametrize("preset", ["decoder", "decoder+connector", "all"])
def test_activation_checkpointing_and_a_frozen_tower_lose_no_gradient(preset):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = make_model()
        freeze(model, "vision_tower")
        config = adapter_config(model, preset=preset, r=2, init_lora_weights=False)
        torch.manual_seed(3)
        model = get_peft_model(model, config)
        if checkpointing:
            tiny.enable_activation_checkpointing(model)
            model.enable_input_require_grads()  # as Trainer does
        inputs = make_inputs()
        model.train()(**inputs, labels=labels_of(inputs)).loss.backward()
        assert tiny.parameters_without_gradient(model) == []
        return {n: one.grad for n, one in model.named_parameters() if one.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert set(plain) == set(checkpointed)
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, atol=1e-5), name


def sparse_model() -> MM1ForConditionalGeneration:
    sizes = {**tiny.TEXT_SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
    return make_model(text_config=MixtralConfig(**sizes))


def test_experts_are_adapted_only_when_asked_and_the_router_never(tmp_path):
    model = sparse_model()
    assert adapter_config(model).target_parameters is None
    config = adapter_config(model, experts="adapted", r=2)
    experts = [f"model.language_model.layers.{layer}.mlp.experts" for layer in (0, 1)]
    assert sorted(config.target_parameters) == sorted(
        f"{one}.{name}" for one in experts for name in ("gate_up_proj", "down_proj")
    )
    router = {n: p.detach().clone() for n, p in model.named_parameters() if ".gate." in n}
    assert router
    adapted = take_steps(get_peft_model(model, config))
    after = logits_of(adapted)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(sparse_model(), tmp_path)
    assert torch.allclose(logits_of(loaded), after, atol=1e-5)
    merged = loaded.merge_and_unload()
    assert torch.allclose(logits_of(merged), after, atol=1e-4)
    weights = merged.state_dict()
    assert all(torch.equal(weights[name], one) for name, one in router.items())


def test_the_skip_list_of_the_guide_keeps_tower_connector_and_head_whole():
    from transformers.quantizers.quantizers_utils import should_convert_module

    guide = (Path(__file__).parents[2] / "docs/guides/adapters.md").read_text()
    (names,) = re.findall(r"llm_int8_skip_modules=\[(.*?)\]", guide)
    skipped = [name.strip('" ') for name in names.split(",")]
    model = make_model()
    converted = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and should_convert_module(name, skipped)
    ]
    assert sorted(converted) == sorted(DECODER)


def test_what_cannot_be_is_an_error_that_says_so():
    model = make_model()
    with pytest.raises(ValueError, match="preset is 'everything', but it must be one of"):
        adapter_config(model, preset="everything")
    with pytest.raises(ValueError, match="no fused experts"):
        adapter_config(model, experts="adapted")
    with pytest.raises(ValueError, match="without dropout only"):
        adapter_config(sparse_model(), experts="adapted", lora_dropout=0.1)
    with pytest.raises(ValueError, match="has no vision_tower and no connector"):
        adapter_config(torch.nn.ModuleDict({"language_model": torch.nn.Linear(2, 2)}))
    with pytest.raises(ValueError, match="has adapters already"):
        adapter_config(get_peft_model(model, adapter_config(model)))
    bare = torch.nn.ModuleDict({name: torch.nn.ReLU() for name in ("vision_tower", "connector")})
    bare["language_model"] = torch.nn.ReLU()
    bare.config = SimpleNamespace(tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"no torch\.nn\.Linear to adapt"):
        linear_layers(bare, "language_model")
