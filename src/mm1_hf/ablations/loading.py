"""Studies by name: the paper's, or one of a user's own file."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from mm1_hf.ablations.fingerprints import fingerprint
from mm1_hf.ablations.study import Study

PAPER = "paper"
_MODULE = "mm1_hf_studies_of_"


def load_studies(name: str, *, quick: bool = False) -> tuple[Study, ...]:
    """The studies of a name.

    Args:
        name: `"paper"`, or a Python file and the name of a `Study`, or of a sequence of them, in
            it: `path/to/file.py:NAME`.
        quick: The small version of the paper's; no other study has one.

    Raises:
        ValueError: If there is no such study, or no small version of it.
    """
    if name == PAPER:
        from mm1_hf.ablations.paper.studies import paper

        return paper("quick" if quick else "full")
    if quick:
        raise ValueError(
            f"--quick is the small version of {PAPER!r}, but the study is {name!r}. Give your own "
            "study fewer steps, or choose fewer --axes or --seeds."
        )
    path, colon, attribute = name.rpartition(":")
    if not colon or not Path(path).is_file():
        raise ValueError(
            f"{name!r} is no study. Expected {PAPER!r}, or an existing Python file and a name in "
            "it, such as my_study.py:STUDY."
        )
    found = _attribute(Path(path), attribute)
    studies = (found,) if isinstance(found, Study) else found
    if not isinstance(studies, Sequence) or not all(isinstance(one, Study) for one in studies):
        raise ValueError(
            f"{attribute} in {path} is a {type(found).__name__}, but a Study or a sequence of "
            "them is expected."
        )
    return tuple(studies)


def select(
    studies: Sequence[Study], *, axes: Sequence[str] | None, num_seeds: int | None
) -> tuple[Study, ...]:
    """The studies that have one of the axes, with these and no others, and so many seeds.

    Raises:
        ValueError: If no study has an axis, or there are no seeds.
    """
    if num_seeds is not None and num_seeds < 1:
        raise ValueError(f"{num_seeds} seeds were asked for, but at least one is needed.")
    seeds = None if num_seeds is None else tuple(range(num_seeds))
    if axes is None:
        return tuple(study.select(seeds=seeds) for study in studies)
    known = {axis.name for study in studies for axis in study.axes}
    unknown = sorted(set(axes) - known)
    if unknown:
        raise ValueError(f"There is no axis {unknown[0]!r}; axes are: {', '.join(sorted(known))}.")
    chosen = []
    for study in studies:
        mine = [axis.name for axis in study.axes if axis.name in axes]
        if mine:
            chosen.append(study.select(axes=mine, seeds=seeds))
    return tuple(chosen)


def outline(studies: Sequence[Study]) -> str:
    """Studies, their axes and values, and how many runs they are, as text."""
    lines: list[str] = []
    for study in studies:
        cells = study.cells()
        lines.append(
            f"{study.name}: {len(cells)} runs, {len(study.seeds)} seeds of "
            f"{len({cell.key for cell in cells})} settings"
        )
        baseline = fingerprint(study.baseline)
        for axis in study.axes:
            labels = [
                f"[{point.label}]" if fingerprint(point.settings) == baseline else point.label
                for point in study.points()
                if point.axis == axis.name
            ]
            lines.append(f"  {axis.name:<12} {axis.field:<18} {', '.join(labels)}")
    lines.append("In brackets: the baseline's own value.")
    return "\n".join(lines)


def _attribute(path: Path, name: str) -> object:
    # Under its own name in sys.modules, as dataclasses of the file look their module up there.
    module_name = f"{_MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"The file {path} has no name {name!r}. Name a Study that it makes.")
    return getattr(module, name)
