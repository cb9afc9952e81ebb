"""Checks of the model at work: what it makes of pictures, what it says, and when it stops."""

from typing import Any

import torch

from mm1_hf.hub.doctor.findings import Fault
from mm1_hf.hub.doctor.patient import Patient


def placeholders(patient: Patient) -> str:
    """The model makes as many visual tokens of a tile as the processor leaves places for."""
    made = patient.ask(patient.picture_sizes[:2])
    pixels = made["pixel_values"].to(patient.model.dtype)
    with torch.no_grad():
        tokens = patient.model.model.get_image_features(pixels).pooler_output
    places = int((made["input_ids"] == patient.processor.image_token_id).sum())
    found = tokens.shape[0] * tokens.shape[1]
    if found != places:
        raise Fault(
            f"the model makes {found} visual tokens of {len(pixels)} tiles, the processor leaves "
            f"{places} places",
            "Make the processor again with MM1Processor.from_parts and the model's configuration.",
        )
    return f"{tokens.shape[1]} tokens for each of {len(pixels)} tiles, as many as places"


def answers(patient: Patient) -> str:
    """Logits are finite and of the vocabulary's size, and the model continues a prompt."""
    if patient.sees:
        inputs = patient.ask(patient.picture_sizes[:1])
    else:
        ids = torch.arange(min(6, patient.config.get_text_config().vocab_size))[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = patient.model
    inputs = {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        logits = model(**inputs).logits
        tokens = model.generate(**inputs, max_new_tokens=2, do_sample=False, num_beams=1)
    rows = patient.config.get_text_config().vocab_size
    if not torch.isfinite(logits).all() or logits.shape[-1] != rows:
        raise Fault(
            f"logits of shape {tuple(logits.shape)} with "
            f"{int((~torch.isfinite(logits)).sum())} values that are no numbers, for a vocabulary "
            f"of {rows:,}",
            "Weights overflow in this dtype, or are damaged: try dtype=torch.float32, and an "
            "earlier checkpoint.",
        )
    new = tokens.shape[1] - inputs["input_ids"].shape[1]
    return f"{logits.shape[1]} positions of finite logits, {new} tokens generated"


def generation(patient: Patient) -> str:
    """Generation stops: its end of sequence is a token, and the one that the tokenizer has."""
    settings = patient.model.generation_config
    rows = patient.config.get_text_config().vocab_size
    ends = settings.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    named = {"eos_token_id": ends, "bos_token_id": [settings.bos_token_id]}
    named["pad_token_id"] = [settings.pad_token_id]
    for name, ids in named.items():
        outside = [one for one in ids if one is not None and not 0 <= one < rows]
        if outside:
            raise Fault(
                f"{name} is {outside[0]}, but the vocabulary has {rows:,} rows",
                "Set it in generation_config.json to an id of the tokenizer.",
            )
    made: Any = patient.processor.tokenizer if patient.sees else patient.tokenizer
    end = getattr(made, "eos_token_id", None)
    if end is not None and end not in ends:
        raise Fault(
            f"the tokenizer's end of sequence is {end}, generation stops at "
            f"{ends or 'nothing'}: answers run on to max_new_tokens",
            f"Set eos_token_id to {end} in generation_config.json, or to a list that has it.",
        )
    return f"stops at {ends or 'nothing'}"
