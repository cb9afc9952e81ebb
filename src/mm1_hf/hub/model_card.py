"""The model card: metadata and sections made from the model, its records, and its author's prose.

Generated sections stand between two comments; writing a card again replaces what stands between
them and keeps everything else, wherever it stands.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mm1_hf.hub.records import Records, TaskResult

_BEGIN = "<!-- mm1: {} -->"
_END = "<!-- mm1: end of {} -->"

_PROSE = """\
# {name}

Write here what the model is for, what it must not be used for, and where it fails. What stands
between two "mm1" comments is made anew each time the model is published; everything else is kept.
"""
_PIPELINES = {"mm1": "image-text-to-text", "mm1_text": "text-generation"}
_OWN_KEYS = ("library_name", "pipeline_tag")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card is made from.

    Attributes:
        name: Name of the model, as readers see it.
        source: What readers pass to `from_pretrained`.
        config: The model's configuration.
        num_parameters: Parameters of each part.
        dtype: Dtype of the weights.
        processor: The processor, or a decoder's tokenizer, or None.
        generation: Settings of generation that differ from transformers' defaults.
        records: Recipe, mixture, steps, results.
        remote_code: Whether the code is published too.
        requires: Modules that readers import first, where it is not.
        license: Licence of the weights, by the Hub's name; None keeps that of an older card.
    """

    name: str
    source: str
    config: Any
    num_parameters: Mapping[str, int]
    dtype: str
    processor: Any = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    records: Records = field(default_factory=Records)
    remote_code: bool = True
    requires: Sequence[str] = ()
    license: str | None = None


def make_card(facts: CardFacts, *, older: str | None = None) -> str:
    """Write the card.

    Args:
        facts: What it is made from.
        older: The card to write again. Its prose is kept, and of its metadata what is not made
            here: results of other data sets, tags, anything an author added.

    Returns:
        The text of `README.md`.
    """
    kept = ModelCard(older, ignore_metadata_errors=True) if older else None
    body = kept.text if kept else _PROSE.format(name=facts.name)
    for title, write in _SECTIONS.items():
        body = _replace_section(body, title, write(facts))
    metadata = _metadata(facts, kept.data if kept else None)
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n"


def _replace_section(body: str, title: str, text: str | None) -> str:
    """Put a section in its place, or at the end; None takes it away."""
    begin, end = _BEGIN.format(title), _END.format(title)
    section = f"{begin}\n{text.strip()}\n{end}" if text else ""
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if found.search(body):
        return found.sub(lambda _: section, body, count=1)
    return f"{body.rstrip()}\n\n{section}\n" if section else body


def _metadata(facts: CardFacts, older: Any) -> ModelCardData:
    entries = older.to_dict() if older else {}
    entries.pop("model-index", None)
    made = {
        "library_name": "transformers",
        "pipeline_tag": _PIPELINES[facts.config.model_type],
        "tags": _tags(facts, entries.get("tags") or []),
    }
    if facts.license is not None:
        made["license"] = facts.license
    results = _eval_results(facts)
    there = {(one.dataset_type, one.metric_type) for one in results}
    for one in (older.eval_results if older else None) or []:
        if (one.dataset_type, one.metric_type) not in there:
            results.append(one)
    if results:
        made |= {"eval_results": results, "model_name": facts.name}
    return ModelCardData(**{**entries, **made})


def _tags(facts: CardFacts, older: Sequence[str]) -> list[str]:
    made = ["mm1", "arxiv:2403.09611"]
    if facts.config.model_type == "mm1":
        made.append("multimodal")
    if _num_experts(facts.config):
        made.append("mixture-of-experts")
    if facts.remote_code:
        made.append("custom_code")
    return list(dict.fromkeys([*older, *made]))


def _eval_results(facts: CardFacts) -> list[EvalResult]:
    made = []
    for result in facts.records.results:
        shots = result.settings.get("num_shots")
        for figure in result.figures:
            if figure.value is None:
                continue
            name = figure.name if shots is None else f"{figure.name} ({shots} shots)"
            made.append(
                EvalResult(
                    task_type=_PIPELINES[facts.config.model_type],
                    dataset_type=result.task,
                    dataset_name=result.task,
                    dataset_split=result.settings.get("split"),
                    metric_type=figure.name,
                    metric_name=name,
                    metric_value=figure.value,
                )
            )
    return made


# Sections. Each returns its text, or None where there is nothing to say.


def _use(facts: CardFacts) -> str:
    seeing = facts.config.model_type == "mm1"
    model = "AutoModelForImageTextToText" if seeing else "AutoModelForCausalLM"
    reader = "AutoProcessor" if seeing else "AutoTokenizer"
    trust = ", trust_remote_code=True" if facts.remote_code else ""
    imports = [] if facts.remote_code else ["import mm1_hf"]
    imports += [f"import {name}" for name in ([] if facts.remote_code else facts.requires)]
    code = [
        *imports,
        *(["from PIL import Image"] if seeing else []),
        f"from transformers import {model}, {reader}",
        "",
        f'model = {model}.from_pretrained("{facts.source}"{trust})',
    ]
    # Without trust, a tokenizer loads without asking: it needs no code.
    told = ", trust_remote_code=False" if facts.remote_code and not seeing else trust
    name = "processor" if seeing else "tokenizer"
    if facts.processor is not None:
        code.append(f'{name} = {reader}.from_pretrained("{facts.source}"{told})')
    if seeing:
        mark = getattr(facts.processor, "image_token", "<image>")
        code += [
            "",
            f'inputs = processor(text="{mark} A photo of", images=Image.open("photo.jpg"), '
            'return_tensors="pt")',
            "tokens = model.generate(**inputs, max_new_tokens=30)",
            "print(processor.batch_decode(tokens, skip_special_tokens=True)[0])",
        ]
    needs = (
        "The code travels with the weights: `trust_remote_code=True` runs the Python files of this "
        "repository. Read them first, and pin a revision."
        if facts.remote_code
        else "Needs the package `mm1-hf`"
        + "".join(f", and the module `{name}`" for name in facts.requires)
        + "."
    )
    return "\n".join(["## Use", "", "```python", *code, "```", "", needs])


def _architecture(facts: CardFacts) -> str:
    config, rows = facts.config, []
    text = config.get_text_config()
    if config.model_type == "mm1":
        vision, connector = config.vision_config, config.connector_config
        rows += [
            (
                "vision tower",
                f"{vision.model_type}, {vision.num_hidden_layers} layers of width "
                f"{vision.hidden_size:,}, tiles of {vision.image_size} px, patches of "
                f"{vision.patch_size} px",
            ),
            (
                "connector",
                f"{connector.connector_type}, {connector.num_image_tokens} tokens per tile",
            ),
        ]
    experts = _num_experts(config)
    sparse = f", {experts} experts" if experts else ""
    rows.append(
        (
            "decoder",
            f"{text.model_type}, {text.num_hidden_layers} layers of width "
            f"{text.hidden_size:,}{sparse}, vocabulary of {text.vocab_size:,}",
        )
    )
    rows += [(f"parameters, {part}", f"{n:,}") for part, n in facts.num_parameters.items()]
    rows.append(("dtype", facts.dtype))
    images = getattr(facts.processor, "image_processor", None)
    if images is not None:
        tiling = f"{images.tiling} tiling"
        if images.tiling == "dynamic":
            tiling += f" into {images.min_tiles} to {images.max_tiles} tiles and an overview"
        rows.append(("pictures", f"{tiling}, {images.resize_policy} to shape"))
        rows.append(("chat template", "yes" if facts.processor.chat_template else "none"))
    if facts.generation:
        said = ", ".join(f"{name} {value}" for name, value in facts.generation.items())
        rows.append(("generation", said))
    head = (
        "An [MM1](https://arxiv.org/abs/2403.09611): a vision tower, a connector, and a decoder "
        "that reads visual tokens among its text."
        if config.model_type == "mm1"
        else "The decoder of an [MM1](https://arxiv.org/abs/2403.09611)."
    )
    return "\n".join(["## Model", "", head, "", *_table(("part", "what it is"), rows)])


def _training(facts: CardFacts) -> str | None:
    records, rows = facts.records, []
    if records.recipe:
        rows.append(("recipe", f"`{records.recipe.get('base', 'of its own')}`"))
        rows += [(n, _shown(v)) for n, v in records.recipe.items() if n != "base"]
    if records.steps is not None:
        rows.append(("steps made", f"{records.steps:,}"))
    return "\n".join(["## Training", "", *_table(("what", "value"), rows)]) if rows else None


def _data(facts: CardFacts) -> str | None:
    mixture = facts.records.mixture
    sources = mixture.get("sources")
    if not isinstance(sources, Mapping) or not sources:
        return None
    rows = [
        (name, _share(entry), f"`{str(entry.get('fingerprint', 'none'))[:16]}`")
        for name, entry in sources.items()
    ]
    said = f"Mixed by {mixture.get('unit', 'sequence')}, seed {mixture.get('seed', 0)}."
    table = _table(("source", "share", "fingerprint"), rows)
    return "\n".join(["## Data", "", said, "", *table])


def _results(facts: CardFacts) -> str | None:
    if not facts.records.results:
        return None
    rows = [
        (
            result.task,
            figure.name,
            _figure(figure.value, figure.standard_error),
            "" if figure.count is None else f"{figure.count:,}",
            _settings(result),
        )
        for result in facts.records.results
        for figure in result.figures
    ]
    head = ("task", "figure", "value ± standard error", "examples", "settings")
    return "\n".join(["## Results", "", *_table(head, rows)])


_SECTIONS: dict[str, Callable[[CardFacts], str | None]] = {
    "use": _use,
    "model": _architecture,
    "training": _training,
    "data": _data,
    "results": _results,
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _num_experts(config: Any) -> int | None:
    text = config.get_text_config()
    return getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(one) for one in value) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _share(entry: Mapping[str, Any]) -> str:
    share = entry.get("share")
    return "" if share is None else f"{share:.1%}"


def _figure(value: float | None, error: float | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


# What two people must agree on before they compare figures; paths and hashes tell a reader nothing.
_TOLD_SETTINGS = {
    "split": "split",
    "num_shots": "shots",
    "style": "style",
    "seeds": "seeds",
    "high_resolution_last": "examples at high resolution",
}


def _settings(result: TaskResult) -> str:
    return ", ".join(
        f"{told} {_shown(result.settings[name])}"
        for name, told in _TOLD_SETTINGS.items()
        if result.settings.get(name) is not None
    )
