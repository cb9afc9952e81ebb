"""Checkpoints converted as a whole: found, planned, checked, and written tensor by tensor."""

import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedModel

from mm1_hf.conversion.aimv2 import Aimv2Format
from mm1_hf.conversion.clip import ClipFormat
from mm1_hf.conversion.decoders import DECODERS
from mm1_hf.conversion.formats import ConversionOptions, Format, Route
from mm1_hf.conversion.honeybee import HoneybeeFormat
from mm1_hf.conversion.llava import LlavaFormat
from mm1_hf.conversion.making import make_tensor, write_step
from mm1_hf.conversion.open_clip import OpenClipFormat
from mm1_hf.conversion.renaming import Plan, Step, TensorInfo, require_exactly, whole
from mm1_hf.conversion.report import ConversionReport
from mm1_hf.conversion.siglip import SiglipFormat
from mm1_hf.conversion.sources import (
    UNUSED_FILE,
    FolderSource,
    ModelSource,
    Source,
    common_dtype,
    open_source,
)
from mm1_hf.conversion.writing import (
    MAX_SHARD_BYTES,
    Entry,
    whole_folder,
    write_checkpoint,
    write_file,
)

FORMATS: dict[str, Format] = {
    "clip": ClipFormat(),
    "open_clip": OpenClipFormat(),
    "siglip": SiglipFormat(),
    "aimv2": Aimv2Format(),
    **DECODERS,
    "honeybee": HoneybeeFormat(),
    "llava": LlavaFormat(),
}


class Conversion(NamedTuple):
    """A converted model and the report of its conversion."""

    model: PreTrainedModel
    report: ConversionReport


def convert(
    source: str | Path,
    target: str | Path,
    *,
    kind: str = "auto",
    dtype: torch.dtype | None = None,
    options: ConversionOptions | None = None,
    unused: Literal["keep", "drop"] = "keep",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ConversionReport:
    """Convert a checkpoint of another library into a part of MM1, or into a whole one.

    Names, shapes and dtypes are checked before anything is read; tensors then go from file to file
    one by one. The folder appears when all of it is written, and not at all if anything is wrong.

    Args:
        source: Folder with safetensors files, one such file, or a Hub id (`owner/name@revision`).
        target: Folder to write, which must not exist or be empty.
        kind: A key of `FORMATS`; `"auto"` finds out from configuration and names.
        dtype: Dtype of the result's floating-point tensors; None keeps each tensor's.
        options: What the kind leaves open.
        unused: Whether tensors that MM1 does not use are kept in `unused.safetensors`, for the way
            back.
        max_shard_bytes: Largest file to write (transformers' own default).

    Raises:
        ValueError: If the kind is not known or not this one, a key is unknown or missing, a shape
            differs, or the model has something that MM1 has not. Nothing is written then.
    """
    found = open_source(source)
    options = options or ConversionOptions()
    chosen = _detect(found) if kind == "auto" else _named(kind)
    _require_known(options, chosen)
    found.prefer(chosen.stem)
    return _write(
        chosen,
        chosen.route(found, options),
        found,
        Path(target),
        dtype=dtype,
        keeps_unused=unused == "keep",
        max_shard_bytes=max_shard_bytes,
    )


def convert_back(
    source: str | Path,
    target: str | Path,
    *,
    kind: str = "auto",
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ConversionReport:
    """Convert a part of MM1, or a whole one, into the layout of another library.

    Args:
        source: Folder, safetensors file or Hub id of ours.
        target: Folder to write, which must not exist or be empty.
        kind: A key of `FORMATS`; `"auto"` takes the first that can hold the model.
        dtype: Dtype of the result's floating-point tensors; None keeps each tensor's.
        max_shard_bytes: Largest file to write (transformers' own default).

    Raises:
        ValueError: As `convert`, and if the other library has no such model.
    """
    found = open_source(source)
    chosen, route = _way_back(found, kind)
    return _write(
        chosen,
        route,
        found,
        Path(target),
        dtype=dtype,
        keeps_unused=False,
        max_shard_bytes=max_shard_bytes,
    )


def convert_model(
    model: PreTrainedModel, *, kind: str = "auto", options: ConversionOptions | None = None
) -> Conversion:
    """Convert a model in memory into a part of MM1; the result shares no memory with it.

    Args:
        model: The model.
        kind: A key of `FORMATS`; `"auto"` goes by the model's configuration.
        options: What the kind leaves open.

    Raises:
        ValueError: As `convert`.
    """
    options = options or ConversionOptions()
    model_type = model.config.model_type
    if kind == "auto":
        fitting = [name for name, known in FORMATS.items() if model_type in known.model_types]
        if not fitting:
            raise ValueError(
                f"{type(model).__name__} with model_type {model_type!r} is of no known kind. "
                f"{_known_kinds()}"
            )
        kind = fitting[0]
    chosen = _named(kind)
    _require_known(options, chosen)
    source = ModelSource(model)
    return _build(model, source, chosen.route(source, options))


def convert_model_back(model: PreTrainedModel, *, kind: str = "auto") -> Conversion:
    """Convert a part of MM1 in memory into a model of transformers.

    Args:
        model: A part of MM1, or a whole one, of which nothing was set aside.
        kind: A key of `FORMATS`; `"auto"` takes the first that can hold the model.

    Raises:
        ValueError: As `convert_back`.
    """
    source = ModelSource(model)
    _, route = _way_back(source, kind)
    if route.target.model_class is None:
        raise ValueError(f"{route.target.name} is no class: use convert_back on a saved model.")
    return _build(model, source, route)


def _named(kind: str) -> Format:
    if kind not in FORMATS:
        raise ValueError(f"Unknown kind {kind!r}. {_known_kinds()}")
    return FORMATS[kind]


def _known_kinds() -> str:
    kinds = "; ".join(f"{name} ({known.description})" for name, known in FORMATS.items())
    return f"Known kinds are: {kinds}."


def _require_known(options: ConversionOptions, chosen: Format) -> None:
    unknown = [name for name in options.given if name not in chosen.options]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} has no meaning for kind {chosen.kind!r}, whose options are: "
            f"{', '.join(sorted(chosen.options)) or 'none'}."
        )


def _detect(source: FolderSource) -> Format:
    fitting = [known for known in FORMATS.values() if known.recognises(source)]
    if len(fitting) == 1:
        return fitting[0]
    model_type = (source.json("config.json") or {}).get("model_type")
    found = f"model_type {model_type!r}" if model_type else "no config.json with a model_type"
    if model_type in {known.own_type for known in FORMATS.values() if known.own_type}:
        found += ", which is MM1's own: convert it back (--reverse)"
    raise ValueError(
        f"What {source.name!r} holds cannot be told: it has {found}. Name the kind. "
        f"{_known_kinds()}"
    )


def _way_back(source: Source, kind: str) -> tuple[Format, Route]:
    model_type = source.config.model_type
    fitting = [known for known in FORMATS.values() if known.own_type == model_type]
    if kind != "auto":
        chosen = _named(kind)
        if chosen not in fitting:
            raise ValueError(
                f"{source.name!r} has model_type {model_type!r}, but {kind!r} comes back from "
                f"{chosen.own_type!r}."
            )
        fitting = [chosen]
    reasons = []
    for known in fitting:
        try:
            return known, known.route_back(source)
        except ValueError as error:
            reasons.append(f"{known.kind}: {error}")
    raise ValueError(
        f"{source.name!r} with model_type {model_type!r} cannot be converted back. "
        f"{' '.join(reasons) or 'Only parts of MM1 can, and whole ones.'}"
    )


def _plan(route: Route, source: Source, *, dtype: torch.dtype | None) -> Plan:
    """Plan a conversion and check both of its ends."""
    report = ConversionReport(route.source.name, route.target.name, notes=list(route.notes))
    tensors = {
        name: info for name, info in source.checkpoint.tensors.items() if name not in source.unused
    }
    own = route.source.shapes()
    if own is not None:
        found = {name: info.shape for name, info in tensors.items()}
        require_exactly(found, own, name=f"{source.name!r} ({report.source})")
    plan = route.table.plan(tensors, report=report)
    for name, info in source.unused.items():
        plan.steps[name] = Step((name,), info, (whole(info.shape),))
        report.loaded[name] = (name,)
    expected = route.target.shapes()
    if expected is not None:
        back = route.table.reversed()

        def origin(target: str) -> str:
            known = plan.steps[target].sources if target in plan.steps else (back.rename(target),)
            named = " + ".join(name for name in known if name)
            return target if named in ("", target) else f"{named} (for {target})"

        found = {name: step.info.shape for name, step in plan.steps.items()}
        require_exactly(found, expected, name=f"{source.name!r} ({report.source})", origin=origin)
    for name, step in plan.steps.items():
        if dtype is not None and step.info.dtype.is_floating_point:
            plan.steps[name] = step._replace(info=TensorInfo(step.info.shape, dtype))
    for check in plan.checks:
        check(source.checkpoint.read)
    return plan


def _write(
    chosen: Format,
    route: Route,
    source: FolderSource,
    target: Path,
    *,
    dtype: torch.dtype | None,
    keeps_unused: bool,
    max_shard_bytes: int,
) -> ConversionReport:
    plan = _plan(route, source, dtype=dtype)
    checkpoint = source.checkpoint
    entries = [
        Entry(name, step.info, partial(write_step, step, checkpoint))
        for name, step in plan.steps.items()
    ]
    if route.target.config is not None:
        route.target.config.dtype = common_dtype({entry.name: entry.info for entry in entries})
    if not keeps_unused:
        plan.report.dropped |= plan.report.set_aside
        plan.report.set_aside = {}
    with whole_folder(target) as folder:
        plan.report.notes += chosen.write_texts(source, folder, route)
        write_checkpoint(folder, entries, max_shard_bytes=max_shard_bytes, stem=route.target.stem)
        if keeps_unused and plan.set_aside:
            aside = [
                Entry(
                    name,
                    info,
                    partial(write_step, Step((key,), info, (whole(info.shape),)), checkpoint),
                )
                for name, key in plan.set_aside.items()
                for info in (checkpoint.tensors[key],)
            ]
            write_file(folder / UNUSED_FILE, aside)
    return plan.report


def _build(model: PreTrainedModel, source: ModelSource, route: Route) -> Conversion:
    plan = _plan(route, source, dtype=None)
    model_class: Any = route.target.model_class
    dtype = common_dtype({name: step.info for name, step in plan.steps.items()})
    built = model_class._from_config(route.target.config, dtype=dtype)
    state_dict = {name: make_tensor(step, source.checkpoint) for name, step in plan.steps.items()}
    # Tied weights, which `_plan` knows of, are the only ones that may be missing here.
    built.load_state_dict(state_dict, strict=False)
    built.tie_weights()
    settings = getattr(model, "generation_config", None)
    if settings is not None and built.can_generate():
        built.generation_config = copy.deepcopy(settings)
    return Conversion(built, plan.report)
