"""Checks of what is stored: files, configuration, and weights by their names, shapes and values."""

from collections import Counter
from collections.abc import Iterable

import torch
from safetensors import SafetensorError, safe_open

from mm1_hf.hub.doctor.findings import Fault
from mm1_hf.hub.doctor.patient import MODEL_TYPES, Patient

_SAVE_AGAIN = (
    "Save model and processor again with save_pretrained, or copy the folder again: the copy may "
    "have been cut off."
)
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "model.embed_tokens.weight")


def files(patient: Patient) -> str:
    """Configuration and weights are there and whole."""
    pickles = sorted(path.name for path in patient.folder.glob("pytorch_model*.bin"))
    present = [path for path in patient.weight_files if path.is_file()]
    if pickles and not present:
        raise Fault(
            f"the weights are a pickle ({pickles[0]}), and loading a pickle can run any code",
            "Load the model once and save it with save_pretrained, which writes safetensors.",
        )
    names = ["config.json", *(path.name for path in patient.weight_files)]
    _require_files(patient, names, _SAVE_AGAIN)
    for path in present:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise Fault(f"{path.name} is damaged ({error})", _SAVE_AGAIN) from error
    size = sum(path.stat().st_size for path in present)
    return f"{len(present)} file(s) of weights, {size:,} bytes"


def processor_files(patient: Patient) -> str:
    """The files of processor and tokenizer are there."""
    names = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")
    _require_files(
        patient,
        names,
        "Save the processor into the folder with save_pretrained. A Trainer does so if it is given "
        "as processing_class: the processor, not its tokenizer.",
    )
    return "processor and tokenizer are there"


def _require_files(patient: Patient, names: Iterable[str], remedy: str) -> None:
    missing = [name for name in names if not (patient.folder / name).is_file()]
    if missing:
        raise Fault(f"missing: {', '.join(missing)}", remedy)


def configuration(patient: Patient) -> str:
    """The configuration loads, and is of a model that is known here."""
    try:
        config = patient.config
    except Exception as error:
        raise Fault(
            f"config.json does not load: {error}",
            "Correct the field that the message names, or restore the file.",
        ) from error
    if config.model_type not in MODEL_TYPES:
        raise Fault(
            f"the model type is {config.model_type!r}, expected is one of {', '.join(MODEL_TYPES)}",
            "`mm1 convert` turns other models into MM1.",
        )
    return f"model type {config.model_type!r}"


def numbers(patient: Patient) -> str:
    """Every stored weight is a finite number."""
    bad = [
        name
        for name, tensor in patient.stored_tensors()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise Fault(
            f"{len(bad)} tensors hold NaN or infinity, such as {bad[0]}",
            "Training broke before this checkpoint: go back to an earlier one, and see "
            "docs/guides/survive.md for finding the step. In fp16, train in bf16 instead.",
        )
    return "all weights are finite"


def loads(patient: Patient) -> str:
    """The model loads through its Auto class."""
    try:
        return f"loads as {type(patient.model).__name__}"
    except Exception as error:
        raise Fault(
            f"the model does not load: {type(error).__name__}: {error}",
            "Make configuration and weights fit each other; both must come from one save.",
        ) from error


def keys(patient: Patient) -> str:
    """No weight is missing, none is left over."""
    report = patient.loaded[1]
    said = [
        f"{len(found)} weights are {what}, such as {sorted(found)[0]}"
        for what, found in (
            ("missing", report["missing_keys"]),
            ("left over", report["unexpected_keys"]),
        )
        if found
    ]
    if said:
        raise Fault(
            "; ".join(said),
            "Missing ones would be noise. Save the whole model (merge adapters first), or correct "
            "what config.json says about its parts.",
        )
    return "no weight is missing or left over"


def shapes(patient: Patient) -> str:
    """Every stored weight has the shape that the configuration asks for."""
    mismatched = sorted(patient.loaded[1]["mismatched_keys"])
    if mismatched:
        name, stored, expected = mismatched[0]
        raise Fault(
            f"{len(mismatched)} weights have another shape than the configuration asks for, such "
            f"as {name}: {tuple(stored)} instead of {tuple(expected)}",
            "Correct the sizes in config.json. If the vocabulary grew, save after "
            "model.resize_token_embeddings.",
        )
    return "all shapes are those of the configuration"


def dtypes(patient: Patient) -> str:
    """All stored weights have one dtype, which is that of the configuration."""
    found = Counter(
        str(tensor.dtype).removeprefix("torch.")
        for _, tensor in patient.stored_tensors()
        if tensor.is_floating_point()
    )
    if len(found) > 1:
        said = ", ".join(f"{count} of {dtype}" for dtype, count in found.most_common())
        raise Fault(
            f"the weights have several dtypes: {said}",
            "Save the model in one: model.to(torch.bfloat16).save_pretrained(…).",
        )
    stored = next(iter(found), None)
    told = patient.config.dtype
    told = None if told is None else str(told).removeprefix("torch.")
    if told != stored:
        raise Fault(
            f"the weights are {stored}, config.json says {told}",
            f'Set "dtype" in config.json to "{stored}", or save the model again.',
        )
    return f"all weights are {stored}"


def tied(patient: Patient) -> str:
    """The head is tied to the embeddings if the configuration says so, and nothing is lost."""
    wanted = bool(patient.config.tie_word_embeddings)
    stored = {
        name: tensor
        for name, tensor in patient.stored_tensors()
        if name == "lm_head.weight" or name in _EMBEDDINGS
    }
    head = stored.pop("lm_head.weight", None)
    table = next(iter(stored.values()), None)
    if wanted and head is not None and table is not None and not torch.equal(head, table):
        raise Fault(
            "config.json ties the head to the embeddings, but two different tables are stored: one "
            "of them would be lost",
            "Set tie_word_embeddings to false to keep both (in config.json and its text_config), "
            "or remove lm_head.weight. Adapters of a tied head need ensure_weight_tying=True.",
        )
    outputs = patient.model.get_output_embeddings().weight
    shared = outputs is patient.model.get_input_embeddings().weight
    if shared != wanted:
        raise Fault(
            f"head and embeddings are {'one' if shared else 'two tables'}, but "
            f"tie_word_embeddings is {wanted}",
            "Set tie_word_embeddings alike in config.json and its text_config.",
        )
    return "head and embeddings are one table" if shared else "the head has a table of its own"
