"""A model that was trained, adapted or changed by other tools saves and loads again."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mm1_hf import MM1ForConditionalGeneration

from ..model import tiny

SAMPLE = tiny.prompt([1, 5], "image", [6, 7, 8])
LORA = {
    "r": 2,
    "target_modules": r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj",
    "modules_to_save": ["connector"],
}


def mm1(**changes) -> MM1ForConditionalGeneration:
    return MM1ForConditionalGeneration(tiny.config(**changes))


def examples() -> list[dict[str, torch.Tensor]]:
    """The same pictures at every call, so that two runs see the same data."""
    chance = torch.Generator().manual_seed(3)
    return [{"pixel_values": torch.randn(1, 3, 28, 28, generator=chance)} for _ in range(8)]


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([SAMPLE] * len(rows))
    return {
        "input_ids": ids,
        "labels": ids.masked_fill(ids == tiny.IMAGE, -100),
        "pixel_values": torch.cat([row["pixel_values"] for row in rows]),
    }


def trainer(model, folder, **changes) -> Trainer:
    arguments = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "remove_unused_columns": False,
        "report_to": [],
        "use_cpu": True,
        "save_steps": 1,
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**{**arguments, **changes}),
        train_dataset=examples(),
        data_collator=collate,
    )


def assert_loads_alike(model: PreTrainedModel, folder) -> MM1ForConditionalGeneration:
    model.save_pretrained(folder)
    again, info = MM1ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    inputs = collate(examples()[:1])
    inputs.pop("labels")
    model.eval()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    return again


def test_a_trained_model_loads_and_resumes(tmp_path):
    model = mm1()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(model, tmp_path).train()
    changed = {n.split(".")[1] for n, v in model.state_dict().items() if not v.equal(before[n])}
    assert changed == {"vision_tower", "connector", "language_model", "weight"}
    assert_loads_alike(model, tmp_path / "saved")

    resumed = trainer(
        MM1ForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-1"), tmp_path
    )
    result = resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert result.global_step == 2
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_size_of_the_accumulated_batch_is_what_counts(dtype, tmp_path):
    """Two accumulated micro-batches of two are one batch of four."""
    losses = []
    for size, steps in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        model = mm1().to(dtype)
        job = trainer(
            model,
            tmp_path / str(size),
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            save_strategy="no",
        )
        job.train()
        losses.append(job.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if dtype == torch.float32 else 1e-2)


def test_evaluation_hands_logits_to_metrics_and_the_training_loss_agrees(tmp_path):
    seen = {}

    def metrics(prediction):
        seen["logits"], seen["labels"] = prediction.predictions[0].shape, prediction.label_ids.shape
        return {}

    model = mm1()
    job = trainer(model, tmp_path, per_device_eval_batch_size=4)
    job.compute_metrics = metrics
    loss = job.evaluate(examples())["eval_loss"]
    assert seen == {"logits": (8, len(SAMPLE), tiny.VOCABULARY), "labels": (8, len(SAMPLE))}
    model.train()
    assert model(**collate(examples())).loss.item() == pytest.approx(loss, rel=1e-5)


def test_smoothed_labels_train_from_logits(tmp_path):
    job = trainer(mm1(), tmp_path, label_smoothing_factor=0.1, save_strategy="no")
    job.train()
    assert job.state.log_history[0]["grad_norm"] > 0


def test_activation_checkpointing_trains_every_part(tmp_path):
    changes = {"activation_checkpointing": True}
    if not hasattr(TrainingArguments, "activation_checkpointing"):
        changes = {"gradient_checkpointing": True}
    model = mm1()
    trainer(model, tmp_path, **changes).train()
    assert_loads_alike(model, tmp_path / "saved")


# peft still asks for the old name of a property that transformers renamed.
peft_asks_for_the_old_name = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@peft_asks_for_the_old_name
def test_lora_touches_no_tower_and_merges(tmp_path):
    model = get_peft_model(mm1(), LoraConfig(**LORA))
    adapted = [name for name, _ in model.named_parameters() if "lora" in name]
    assert len(adapted) == 2 * 2 * 2
    assert all("language_model" in name for name in adapted)
    trainer(model, tmp_path / "run").train()
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload()
    assert_loads_alike(merged, tmp_path / "merged")


@peft_asks_for_the_old_name
def test_an_adapter_loads_onto_its_base(tmp_path):
    base = mm1()
    base.save_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(**LORA))
    trainer(model, tmp_path / "run").train()
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        MM1ForConditionalGeneration.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    inputs = collate(examples()[:1])
    assert torch.equal(again.eval()(**inputs).logits, model.eval()(**inputs).logits)


IMPLEMENTATIONS = {
    "eager": "eager",
    "sdpa": "sdpa",
    "per_part": {"text_config": "eager", "vision_config": "sdpa"},
}


@pytest.mark.parametrize("choice", IMPLEMENTATIONS)
def test_the_attention_implementation_is_chosen_for_all_parts_or_each(choice, tmp_path):
    model = mm1()
    inputs = collate(examples()[:2])
    expected = model.eval()(**inputs).logits
    model.set_attn_implementation(IMPLEMENTATIONS[choice])
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    wanted = IMPLEMENTATIONS[choice]
    if isinstance(wanted, str):
        wanted = {"text_config": wanted, "vision_config": wanted}
    inner = model.model
    assert inner.language_model.config._attn_implementation == wanted["text_config"]
    assert inner.vision_tower.config._attn_implementation == wanted["vision_config"]
    model.save_pretrained(tmp_path)
    loaded = MM1ForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation=IMPLEMENTATIONS[choice]
    )
    assert loaded.model.language_model.config._attn_implementation == wanted["text_config"]
    torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_resized_vocabulary_survives(tmp_path):
    model = mm1()
    model.resize_token_embeddings(tiny.VOCABULARY + 7)
    again = assert_loads_alike(model, tmp_path)
    assert again.config.text_config.vocab_size == tiny.VOCABULARY + 7


def test_attributes_that_other_tools_leave_survive(tmp_path):
    model = mm1()
    model.config.pad_token_id = 0
    model.config.some_tool_version = "2026.11"
    model.config.use_cache = model.config.text_config.use_cache = False
    assert assert_loads_alike(model, tmp_path).config.pad_token_id == 0
