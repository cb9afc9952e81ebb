"""The mixture of a recipe, made of sources that you have."""

from collections.abc import Mapping, Sequence
from typing import Any

from mm1_hf.data.mixture import Mixture
from mm1_hf.data.sources import Source
from mm1_hf.training.data_files import NamedData
from mm1_hf.training.names import require_known
from mm1_hf.training.recipe import Recipe


def build_mixture(
    recipe: Recipe,
    sources: Mapping[str, Source | Mapping[Source, float]],
    *,
    seed: int = 0,
) -> Mixture:
    """The recipe's mixture of your sources.

    Args:
        recipe: Its `weights` name the parts.
        sources: For each part a source, or sources with their weights inside the part.
        seed: Decides the order.

    Raises:
        ValueError: If a part has no source, or there is no such part.
    """
    where = f"The data for recipe {recipe.name!r}"
    require_known(sources, recipe.weights, where=where)
    missing = [part for part in recipe.weights if part not in sources]
    if missing:
        raise ValueError(
            f"{where} has no source for {', '.join(map(repr, missing))}. Give one for each part, "
            "or change the recipe's weights to the parts there are."
        )
    parts: dict[Any, float] = {}
    for part, weight in recipe.weights.items():
        source = sources[part]
        parts[Mixture(source) if isinstance(source, Mapping) else source] = weight
    return Mixture(parts, unit=recipe.unit, seed=seed)


def mix(recipe: Recipe, sources: Sequence[NamedData], *, seed: int = 0) -> Mixture:
    """The recipe's mixture of the sources of a data file.

    Sources that name a part share its weight. Where none names a part, the sources are mixed
    directly. Sources without weights count by their numbers of documents, so that documents are
    drawn at random from all.

    Args:
        recipe: Its `weights` name the parts.
        sources: What `data_files.load_data` opened.
        seed: Decides the order.

    Raises:
        ValueError: If some sources name a part and others do not, some of one part have weights and
            others do not, or the parts are not those of the recipe.
    """
    placed = [entry for entry in sources if entry.part is not None]
    if not placed:
        return Mixture(_weigh(sources, where="the data"), unit=recipe.unit, seed=seed)
    if len(placed) < len(sources):
        names = ", ".join(repr(entry.source.name) for entry in sources if entry.part is None)
        raise ValueError(
            f"The sources {names} name no part of the mixture, but others do. Give each one of: "
            f"{', '.join(recipe.weights)}; or remove all parts to mix by the sources' own weights."
        )
    parts: dict[str, list[NamedData]] = {}
    for entry in placed:
        parts.setdefault(str(entry.part), []).append(entry)
    weighed = {part: _weigh(entries, where=f"part {part!r}") for part, entries in parts.items()}
    return build_mixture(recipe, weighed, seed=seed)


def _weigh(entries: Sequence[NamedData], *, where: str) -> dict[Source, float]:
    without = [entry.source.name for entry in entries if entry.weight is None]
    if without and len(without) < len(entries):
        raise ValueError(
            f"Of the sources of {where}, {', '.join(map(repr, without))} have no weight, but "
            "others have. Give all of them one, or none: then their documents count."
        )
    return {
        entry.source: len(entry.source) if entry.weight is None else entry.weight
        for entry in entries
    }
