"""Checks of what turns text and pictures into model inputs: processor, tokenizer, counts, chat."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from mm1_hf.hub.doctor.findings import Fault
from mm1_hf.hub.doctor.patient import Patient
from mm1_hf.model.configuration_mm1 import image_height_width
from mm1_hf.model.tiling_mm1 import TILING_SETTINGS

TILING_FIELDS = (
    *TILING_SETTINGS,
    "image_mean",
    "image_std",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
)
_MAKE_AGAIN = (
    "Make the processor again: MM1Processor.from_parts(tokenizer=…, config=model.config, tiling=…),"
    " and save it beside the model."
)


def loads(patient: Patient) -> str:
    """The processor loads through its Auto class, and is ours."""
    try:
        processor = patient.processor
    except Exception as error:
        raise Fault(f"the processor does not load: {error}", _MAKE_AGAIN) from error
    name = type(processor).__name__
    if name != "MM1Processor":
        raise Fault(f"AutoProcessor makes a {name}, expected is MM1Processor", _MAKE_AGAIN)
    return "loads as MM1Processor"


def fields(patient: Patient) -> str:
    """Processor and model agree about tiles, tokens per tile, placeholder and normalisation."""
    config, processor = patient.config, patient.processor
    images = processor.image_processor
    height, width = image_height_width(config.vision_config)
    size = (images.size["height"], images.size["width"])
    pairs = [
        ("tokens per tile", processor.num_image_tokens, config.connector_config.num_image_tokens),
        ("id of the placeholder", processor.image_token_id, config.image_token_id),
        ("image mean", _rounded(images.image_mean), _rounded(config.image_mean)),
        ("image std", _rounded(images.image_std), _rounded(config.image_std)),
    ]
    # Towers interpolate positions, so other tiles are possible; but then all of them, on purpose.
    if size != (height, width):
        pairs.insert(0, ("tile size", size, (height, width)))
    wrong = [
        f"{what}: processor {ours}, model {theirs}"
        for what, ours, theirs in pairs
        if ours != theirs
    ]
    if wrong:
        raise Fault(
            "; ".join(wrong),
            f"{_MAKE_AGAIN} For tiles of another size call model.resize_image first.",
        )
    return f"tiles of {height} x {width} px, {processor.num_image_tokens} tokens each"


def tiling(patient: Patient) -> str:
    """The settings of tiling are stored, are the ones that load, and survive another save."""
    stored = patient.read_json("processor_config.json").get("image_processor") or {}
    missing = [name for name in TILING_FIELDS if name not in stored]
    if missing:
        raise Fault(
            f"processor_config.json does not hold {', '.join(missing)} of the image processor, so "
            "defaults take their place",
            _MAKE_AGAIN,
        )
    older = patient.read_json("preprocessor_config.json")
    differs = [name for name in TILING_FIELDS if name in older and older[name] != stored[name]]
    if differs:
        raise Fault(
            f"preprocessor_config.json says otherwise about {', '.join(differs)} than "
            "processor_config.json",
            "Remove preprocessor_config.json: some readers take it first.",
        )
    loaded = _plain(patient.processor.image_processor.to_dict())
    with tempfile.TemporaryDirectory(prefix="mm1-doctor-") as scratch:
        patient.processor.save_pretrained(scratch)
        saved = Patient(Path(scratch))
        again = saved.read_json("processor_config.json")["image_processor"]
    changed = [
        name
        for name in TILING_FIELDS
        if not _plain(stored[name]) == loaded[name] == _plain(again.get(name))
    ]
    if changed:
        raise Fault(
            f"{', '.join(changed)} of the image processor are not what they were after loading and "
            "saving",
            _MAKE_AGAIN,
        )
    return f"{stored['tiling']} tiling, {stored['resize_policy']} to shape; survives a save"


def tokenizer(patient: Patient) -> str:
    """All ids fit into the vocabulary, there is padding, and it stands on the left."""
    made = patient.processor.tokenizer if patient.sees else patient.tokenizer
    if made is None:
        return "a decoder without a tokenizer"
    rows = patient.config.get_text_config().vocab_size
    if len(made) > rows:
        raise Fault(
            f"the tokenizer has {len(made):,} tokens, the model's vocabulary {rows:,} rows",
            "Call model.resize_token_embeddings(len(tokenizer)) and train on, or take the "
            "tokenizer that the model was made with.",
        )
    if made.pad_token_id is None:
        raise Fault(
            "the tokenizer has no padding token, so batches cannot be made",
            "Set tokenizer.pad_token = tokenizer.eos_token and save again.",
        )
    if made.padding_side != "left" and patient.sees:
        raise Fault(
            f"the tokenizer pads on the {made.padding_side}, so batched answers go wrong",
            'Set tokenizer.padding_side = "left" and save again; training passes '
            'padding_side="right" itself.',
        )
    return f"{len(made):,} tokens, {rows:,} rows in the model"


def counts(patient: Patient) -> str:
    """Tiles and tokens: processor, plan, serving hook and pixels tell the same."""
    processor = patient.processor
    combined = [[size] for size in patient.picture_sizes] + [patient.picture_sizes]
    tiles = 0
    for sizes in combined:
        made = patient.ask(sizes)
        plan = processor.plan(sizes)
        hook = processor._get_num_multimodal_tokens(image_sizes=sizes)
        ids = torch.tensor(processor.image_token_ids)
        told = {
            "tokens in the prompt": int(torch.isin(made["input_ids"], ids).sum()),
            "tokens planned": sum(plan.num_tokens),
            "tokens told to engines": sum(hook.num_image_tokens),
        }
        rows = {
            "tiles made": len(made["pixel_values"]),
            "tiles planned": sum(plan.num_tiles),
            "tiles told to engines": sum(hook.num_image_patches),
        }
        for group in (told, rows):
            if len(set(group.values())) > 1:
                said = ", ".join(f"{count} {name}" for name, count in group.items())
                raise Fault(
                    f"pictures of {sizes} px are counted differently: {said}",
                    "Do not override one of plan, replace_image_token and "
                    "_get_num_multimodal_tokens alone: all count by mm1_hf.model.sample_plan_mm1.",
                )
        tiles += rows["tiles made"]
    return f"{len(combined)} prompts with {tiles} tiles: all counts agree"


def chat(patient: Patient) -> str:
    """The chat template shows pictures where they stand, and typed text never becomes one."""
    processor = patient.processor
    if not processor.chat_template:
        raise Fault(
            "there is no chat template",
            "Make the processor again with MM1Processor.from_parts, which brings one, or set "
            "processor.chat_template. It is stored as chat_template.jinja.",
        )
    size = patient.picture_sizes[0]
    from PIL import Image

    picture = Image.new("RGB", (size[1], size[0]), (90, 90, 90))
    typed = f"What does {processor.image_token} mean?"
    content: list[dict[str, Any]] = [
        {"type": "image", "image": picture},
        {"type": "text", "text": typed},
    ]
    try:
        made = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        written = processor.apply_chat_template([{"role": "user", "content": content}])
    except Exception as error:
        raise Fault(
            f"the chat template cannot be rendered: {type(error).__name__}: {error}",
            "Correct chat_template.jinja, or take the one of MM1Processor.from_parts.",
        ) from error
    found = int((made["input_ids"] == processor.image_token_id).sum())
    wanted = sum(processor.plan([size]).num_tiles) * processor.num_image_tokens
    if found != wanted:
        raise Fault(
            f"a turn with one picture and a typed {processor.image_token} has {found} "
            f"placeholders, expected are {wanted}",
            "The template must write the image token once for each image part, and message text "
            "as it stands. Take the one of MM1Processor.from_parts.",
        )
    marks = "generation" in json.dumps(processor.chat_template)
    said = "marks answers" if marks else "does not mark answers, which training on them needs"
    return f"renders {len(written)} characters, {said}"


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 6) for value in values]


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples are lists, sizes are mappings."""
    return json.loads(json.dumps(value, default=dict))
