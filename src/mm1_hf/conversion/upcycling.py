"""A dense decoder grown into a sparse one: every expert begins as the dense block it replaces.

Each expert of a sparse layer is a copy of the layer's feed-forward block, and the router begins
anew. A token's weights of its experts add up to 1, so whatever the router says, the output is the
dense model's until training moves the experts apart.

An upcycled tensor is pieces of dense ones, some of them many times over. So a checkpoint of any
size is upcycled through a buffer: nothing as large as an expert is ever in memory.

Letters: E experts, D width, I inner width.

Source: Komatsuzaki et al., Sparse Upcycling, arXiv 2212.05055 (copies of the dense block, a fresh
router). MM1 does not say how its sparse models began.
"""

import copy
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from mm1_hf.conversion.convert import FORMATS
from mm1_hf.conversion.decoders import DECODERS, decoder_for
from mm1_hf.conversion.formats import ConversionOptions, Format, Route, Side, write_config
from mm1_hf.conversion.renaming import (
    Plan,
    Rename,
    RenameTable,
    Rule,
    require_exactly,
)
from mm1_hf.conversion.report import ConversionReport
from mm1_hf.conversion.sources import FolderSource, ModelSource, Source, common_dtype, open_source
from mm1_hf.conversion.sparse_tensors import Recipe, Start, plan_recipes
from mm1_hf.conversion.writing import (
    MAX_SHARD_BYTES,
    Entry,
    whole_folder,
    write_checkpoint,
)
from mm1_hf.model.decoder_mm1 import MM1ForCausalLM, MM1TextModel
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration, MM1Model

# Our classes, and where the decoder stands in each.
_CLASSES: dict[str, tuple[type[PreTrainedModel], str]] = {
    "MM1ForConditionalGeneration": (MM1ForConditionalGeneration, "model.language_model"),
    "MM1Model": (MM1Model, "language_model"),
    "MM1ForCausalLM": (MM1ForCausalLM, "model"),
    "MM1TextModel": (MM1TextModel, ""),
}
_SPARSE_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts")
# A dense configuration says 0 for both losses; a sparse one shall have MM1's own.
_FIELDS_BEGUN_ANEW = ("mlp_layer_types", "router_aux_loss_coef", "router_z_loss_coef")

# Tokenizer, processor, settings of generation, remote code; not what a trainer leaves behind, nor
# a model card, which tells of another model.
_CARRIED_SUFFIXES = (".jinja", ".json", ".model", ".py", ".txt")
_NOT_CARRIED = ("config.json", "trainer_state.json")
_CARRIED_FOLDERS = ("additional_chat_templates",)


def upcycle(
    model: PreTrainedModel,
    *,
    num_experts: int,
    every: int,
    num_experts_per_tok: int = 2,
    noise: float = 0.0,
    seed: int = 0,
    max_positions: int | None = None,
) -> PreTrainedModel:
    """Make a sparse model of a dense one in memory; the two share nothing.

    The weights are those that `upcycle_checkpoint` writes, to the bit.

    Args:
        model: One of ours, whole or its decoder, with an own decoder or one that `convert_model`
            makes ours (Llama, Mistral, Qwen2, Qwen3); or such a decoder itself, or a LLaVA.
        num_experts: Experts of each sparse layer.
        every: Make every so many-th layer sparse, the last one of each group.
        num_experts_per_tok: Experts of one token; 2 (published).
        noise: Standard deviation of what is added to each expert's matrices, as a share of the
            standard deviation of the dense matrix: `W + noise * std(W) * N(0, 1)`, drawn anew for
            every expert, added in fp32 and rounded once. With any, the output is the dense model's
            no longer. None by default (our choice).
        seed: Of routers and noise. What is drawn depends on it, on layer, matrix and expert only.
        max_positions: For decoders that are converted: see `ConversionOptions`.

    Raises:
        ValueError: If the model is sparse already, is none that `MM1TextModel` can hold, shares
            weights that would be parted, has adapters, or the numbers do not fit it.
    """
    _require_whole(model)
    source = ModelSource(model)
    _require_nothing_shared(source)
    options = ConversionOptions(max_positions=max_positions)
    _, route = _dense_route(source, options, model_class=type(model))
    side = _sparse_side(
        route, num_experts=num_experts, every=every, num_experts_per_tok=num_experts_per_tok
    )
    start = _start(side, noise=noise, seed=seed)
    recipes = plan_recipes(_plan(route, source), side, source.checkpoint, start)
    model_class: Any = side.model_class
    dtype = common_dtype({name: recipe.info for name, recipe in recipes.items()})
    with no_init_weights():
        built = model_class._from_config(side.config, dtype=dtype)
    tensors = built.state_dict()
    for name, recipe in recipes.items():
        place = 0
        for run in recipe.runs(source.checkpoint):
            tensors[name].view(-1)[place : place + len(run)].copy_(run)
            place += len(run)
    built.tie_weights()
    if built.can_generate() and getattr(model, "generation_config", None) is not None:
        built.generation_config = copy.deepcopy(model.generation_config)
    return built.to(model.device).train(model.training)


def upcycle_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    num_experts: int,
    every: int,
    num_experts_per_tok: int = 2,
    noise: float = 0.0,
    seed: int = 0,
    max_positions: int | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ConversionReport:
    """Make a sparse checkpoint of a dense one, from file to file.

    Everything is checked before anything is written; the folder appears when all of it is there.
    Tokenizer, processor and settings of generation come along.

    Args:
        source: Folder with safetensors files, one such file, or a Hub id, of ours or of a kind that
            `convert` makes ours on the way.
        target: Folder to write, which must not exist or be empty.
        num_experts: See `upcycle`.
        every: See `upcycle`.
        num_experts_per_tok: See `upcycle`.
        noise: See `upcycle`.
        seed: See `upcycle`.
        max_positions: See `upcycle`.
        max_shard_bytes: Largest file to write (transformers' own default), unless a single tensor
            is larger.

    Raises:
        ValueError: As `upcycle`; or if a key is unknown or missing, or a shape differs. Nothing is
            written then.
    """
    found = open_source(source)
    if (found.folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{found.name!r} holds an adapter, which an upcycled model would not fit. Merge it "
            "first: model.merge_and_unload().save_pretrained(…)."
        )
    options = ConversionOptions(max_positions=max_positions)
    chosen, route = _dense_route(found, options, model_class=None)
    side = _sparse_side(
        route, num_experts=num_experts, every=every, num_experts_per_tok=num_experts_per_tok
    )
    start = _start(side, noise=noise, seed=seed)
    plan = _plan(route, found)
    recipes = plan_recipes(plan, side, found.checkpoint, start)
    side.config.dtype = common_dtype({name: recipe.info for name, recipe in recipes.items()})
    report = _report(plan, recipes, side, start)
    entries = [
        Entry(name, recipe.info, partial(recipe.write, found.checkpoint))
        for name, recipe in recipes.items()
    ]
    with whole_folder(Path(target)) as folder:
        if chosen is None:
            _carry_texts(found, folder)
            write_config(side, folder)
        else:
            report.notes += chosen.write_texts(found, folder, replace(route, target=side))
        write_checkpoint(folder, entries, max_shard_bytes=max_shard_bytes)
    return report


def upcycled_config(
    config: PreTrainedConfig, *, num_experts: int, every: int, num_experts_per_tok: int = 2
) -> PreTrainedConfig:
    """Return the configuration of the sparse model that a dense one of ours becomes.

    Args:
        config: An `MM1Config` with an own decoder, or an `MM1TextConfig`.
        num_experts: See `upcycle`.
        every: See `upcycle`.
        num_experts_per_tok: See `upcycle`.

    Raises:
        ValueError: If it is sparse already, or the numbers do not fit it.
    """
    text = _text(config)
    _require_dense(text, name=type(config).__name__)
    if not 1 <= num_experts_per_tok <= num_experts:
        raise ValueError(
            f"num_experts_per_tok is {num_experts_per_tok} and num_experts {num_experts}: a token "
            "needs at least one expert, and no more than there are. MM1 has 2 of 32 or 64."
        )
    if not 1 <= every <= text.num_hidden_layers:
        raise ValueError(
            f"every is {every}, but the decoder has {text.num_hidden_layers} layers: choose 1 "
            f"(all layers sparse) to {text.num_hidden_layers} (the last one). MM1 has 2 or 4."
        )
    if text.mlp_bias:
        raise ValueError(
            "The decoder's feed-forward blocks have biases (mlp_bias is True), and experts have "
            "none. Upcycle a decoder without them."
        )
    fields = {k: value for k, value in text.to_dict().items() if k not in _FIELDS_BEGUN_ANEW}
    fields |= {
        "num_experts": num_experts,
        "num_experts_per_tok": num_experts_per_tok,
        "moe_every_n_layers": every,
    }
    return _with_text(config, type(text).from_dict(fields))


def _text(config: Any) -> Any:
    return config.text_config if config.model_type == "mm1" else config


def _with_text(config: PreTrainedConfig, text: PreTrainedConfig) -> PreTrainedConfig:
    if config.model_type != "mm1":
        return text
    return type(config).from_dict({**config.to_dict(), "text_config": text.to_dict()})


def _require_dense(config: PreTrainedConfig, *, name: str) -> None:
    text = config.get_text_config(decoder=True)
    for field in _SPARSE_FIELDS:
        if count := getattr(text, field, None):
            raise ValueError(
                f"{name} is sparse already: {field} is {count}. Upcycle the dense model it came "
                "from, or train it as it is."
            )


def _require_whole(model: PreTrainedModel) -> None:
    """Refuse models of which weights are elsewhere."""
    if hasattr(model, "peft_config"):
        raise ValueError(
            f"{type(model).__name__} has adapters, which an upcycled model would not fit. Merge "
            "them first: model.merge_and_unload()."
        )
    if any(one.is_meta for one in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has weights on the meta device, so there is nothing to copy. "
            "For the sizes alone take upcycled_config(model.config, …); for a checkpoint that does "
            "not fit in memory upcycle_checkpoint."
        )


def _require_nothing_shared(source: ModelSource) -> None:
    """Refuse weights under several names, other than those that transformers ties."""
    names: dict[tuple[int, torch.Size], str] = {}
    for name in source.checkpoint.tensors:
        tensor = source.checkpoint.read(name)
        first = names.setdefault((tensor.data_ptr(), tensor.shape), name)
        if first != name and tensor.numel():
            raise ValueError(
                f"{name} and {first} of {source.name} are one tensor, which would be parted. Give "
                "each its own: module.weight = nn.Parameter(module.weight.detach().clone())."
            )


def _dense_route(
    source: Source, options: ConversionOptions, *, model_class: type[PreTrainedModel] | None
) -> tuple[Format | None, Route]:
    """The way to the dense model of ours, and the kind where it is a foreign one."""
    config = source.config
    _require_dense(config, name=repr(source.name))
    if config.model_type in ("mm1", "mm1_text"):
        return None, _own_route(source, options, model_class=model_class)
    whole_kinds = [one for one in FORMATS.values() if one.own_type in ("mm1", "mm1_text")]
    for known in whole_kinds:
        if config.model_type in known.model_types:
            return known, known.route(source, options)
    raise ValueError(
        f"{source.name!r} has model_type {config.model_type!r}, which cannot become a sparse "
        "decoder of ours. What can: mm1, mm1_text (dense), "
        f"{', '.join(one.kind for one in whole_kinds)}."
    )


def _own_route(
    source: Source, options: ConversionOptions, *, model_class: type[PreTrainedModel] | None
) -> Route:
    """From a dense model of ours to itself, or to itself with an own decoder."""
    config, tensors = source.config, source.checkpoint.tensors
    if model_class is None:
        has_head = any(name.startswith("model.") for name in tensors)
        heads = ("MM1ForConditionalGeneration", "MM1Model"), ("MM1ForCausalLM", "MM1TextModel")
        name = heads[config.model_type != "mm1"][not has_head]
        model_class, body = _CLASSES[name]
    elif model_class.__name__ in _CLASSES:
        name = model_class.__name__
        body = _CLASSES[name][1]
    else:
        raise ValueError(
            f"{model_class.__name__} is none of {', '.join(_CLASSES)}. Pass the model that it "
            "wraps."
        )
    text = _text(config)
    if text.model_type == "mm1_text":
        if options.max_positions is not None:
            raise ValueError(
                "max_positions is for decoders that are converted; this one is ours and keeps its "
                f"{text.max_position_embeddings:,}."
            )
        own, decoder = text, DECODERS["llama"]  # of which ours has the names
    else:
        decoder = decoder_for(text)
        own = decoder.own_config(text, options)
    rules: list[Rule] = decoder.rules(own, body=body) if body else []
    tops = sorted({name.partition(".")[0] for name in tensors})
    rules += [Rename(top, top) for top in tops]
    target = Side(name, _with_text(config, own), model_class)
    return Route(Side(name), target, RenameTable(rules))


def _sparse_side(route: Route, **numbers: int) -> Side:
    config = upcycled_config(route.target.config, **numbers)
    assert route.target.model_class is not None
    config.architectures = [route.target.model_class.__name__]
    return replace(route.target, config=config)


def _start(side: Side, *, noise: float, seed: int) -> Start:
    if not 0 <= noise < float("inf"):
        raise ValueError(
            f"noise is {noise}, but must be a share of the weights' standard deviation: 0 for "
            "none, 0.01 for a hundredth."
        )
    return Start(noise, seed, _text(side.config).initializer_range)


def _plan(route: Route, source: Source) -> Plan:
    """How the tensors of the dense model of ours are made; checks both of its ends."""
    tensors = {
        name: info for name, info in source.checkpoint.tensors.items() if name not in source.unused
    }
    plan = route.table.plan(tensors, report=ConversionReport(route.source.name, route.target.name))
    expected = route.target.shapes()
    assert expected is not None
    found = {name: step.info.shape for name, step in plan.steps.items()}
    require_exactly(found, expected, name=f"{source.name!r} ({route.source.name})")
    for check in plan.checks:
        check(source.checkpoint.read)
    return plan


def _report(
    plan: Plan, recipes: Mapping[str, Recipe], side: Side, start: Start
) -> ConversionReport:
    """What becomes of each tensor."""
    report = ConversionReport(plan.report.source, f"sparse {side.name}")
    text = _text(side.config)
    report.dropped = plan.report.dropped | plan.report.set_aside
    for name, recipe in recipes.items():
        if recipe.step is None:
            report.filled[name] = (
                f"a fresh router, normal with standard deviation {start.router_std}"
            )
        elif recipe.step.fill is not None:
            report.filled[name] = plan.report.filled[name]
        else:
            report.loaded[name] = recipe.step.sources
        if name in plan.report.reshaped:
            report.reshaped[name] = plan.report.reshaped[name]
        elif name not in plan.steps and recipe.step is not None:
            report.reshaped[name] = f"{text.num_experts} copies to {recipe.info.shape}"
    report.notes.append(
        f"Noise of {start.noise} standard deviations: the output is not the dense model's."
        if start.noise
        else "The output is the dense model's until the first training step."
    )
    return report


def _carry_texts(source: FolderSource, folder: Path) -> None:
    """Copy what belongs to a model of ours besides its weights and its configuration."""
    for path in sorted(source.folder.iterdir()):
        name = path.name
        if path.is_dir() and name in _CARRIED_FOLDERS:
            shutil.copytree(path, folder / name)
        elif path.suffix in _CARRIED_SUFFIXES and path.is_file():
            if name not in _NOT_CARRIED and not name.endswith(".index.json"):
                shutil.copyfile(path, folder / name)
