"""The pack plan of a run, as a pure function of mixture, lengths and budgets."""

import hashlib
import os
from collections.abc import Mapping

import numpy as np

from mm1_hf.data.array_files import read_meta
from mm1_hf.data.best_fit import OVER_BUDGET, OverBudget
from mm1_hf.data.lengths import DocumentLengths
from mm1_hf.data.mixture import Mixture
from mm1_hf.data.pack_plan import Pack, PackPlan, Piece, SourceReport, collect_plan, write_plan
from mm1_hf.data.planner import Budgets, Planner, is_placeable

__all__ = ["Pack", "PackPlan", "Piece", "SourceReport", "plan_packs"]

# Goes up when the same inputs would give another plan.
_FORMAT = 3
_LARGEST_SOURCE = 2**32 - 1


def plan_packs(
    mixture: Mixture,
    lengths: Mapping[str, DocumentLengths],
    *,
    num_packs: int | None = None,
    num_documents: int | None = None,
    sequence_length: int = 4096,
    max_images: int = 16,
    window: int = 1024,
    over_budget: OverBudget = "split",
    folder: str | os.PathLike | None = None,
) -> PackPlan:
    """Plan which documents make up which sequence.

    With the unit "sequence" every pack is filled from one source, and packs are mixed; windows end
    with the epochs of a source, so an epoch is a whole number of packs. With "document" and "token"
    documents are mixed, and packs hold what comes together. Inside a window the order of the packs
    is shuffled. Two plans of the same arguments are equal, and a longer one begins with a shorter.

    Args:
        mixture: Sources and weights.
        lengths: Lengths of every leaf source, by name.
        num_packs: Packs to plan: optimizer steps times sequences per step.
        num_documents: Documents to plan instead; with the unit "sequence" of a single source only.
            `num_documents=len(lengths["a"])` is one epoch of it.
        sequence_length: Tokens of a pack, images included.
        max_images: Images of a pack.
        window: Documents that are packed together; more fill the packs better and come further
            from the mixed order.
        over_budget: What happens to documents larger than a pack: `"split"` at images and text
            boundaries, `"truncate"`, or `"drop"`; see `best_fit.cut_document`. Pieces of a
            conversation in which no token of an answer is left are left out. Counted per source.
        folder: Where to keep the plan. A plan of the same arguments that is there is opened.

    Raises:
        ValueError: If an argument is out of range, the lengths of a source are missing or nothing
            of it fits into a pack, or the folder holds another plan.

    Source: MM1, arXiv 2403.09611, section 4 and appendix (4096 positions, at most 16 images). The
    window and the policy are our choice.
    """
    budgets = Budgets(sequence_length, max_images, over_budget)
    _check(budgets, window, num_packs, num_documents, mixture)
    ordered = [_lengths_of(leaf.name, lengths) for leaf in mixture.leaves]
    meta = {
        "sources": [leaf.name for leaf in mixture.leaves],
        "sequence_length": sequence_length,
        "max_images": max_images,
        "fingerprint": _fingerprint(mixture, ordered, budgets, window, num_packs, num_documents),
    }
    if folder is not None and (found := read_meta(folder)) is not None:
        if found.get("fingerprint") != meta["fingerprint"]:
            raise ValueError(
                f"The plan in {folder} was made from another mixture, other lengths or other "
                f"budgets (fingerprint {found.get('fingerprint')}, expected "
                f"{meta['fingerprint']}). Choose another folder, or delete it."
            )
        return PackPlan.open(folder)
    for name, own in zip(meta["sources"], ordered, strict=True):
        _require_usable(name, own, budgets)
    planner = Planner(mixture, ordered, budgets, window)
    batches = planner.packs(num_packs, num_documents)
    if folder is None:
        return collect_plan(batches, report=planner.report, meta=meta)
    write_plan(folder, batches, report=planner.report, meta=meta)
    return PackPlan.open(folder)


def _check(
    budgets: Budgets,
    window: int,
    num_packs: int | None,
    num_documents: int | None,
    mixture: Mixture,
) -> None:
    if budgets.over_budget not in OVER_BUDGET:
        known = ", ".join(map(repr, OVER_BUDGET))
        raise ValueError(f"over_budget is {budgets.over_budget!r}, but it must be one of: {known}.")
    if budgets.sequence_length < 1 or budgets.max_images < 0 or window < 1:
        raise ValueError(
            f"sequence_length is {budgets.sequence_length}, max_images {budgets.max_images} and "
            f"window {window}; at least 1, 0 and 1 are expected."
        )
    if (num_packs is None) == (num_documents is None):
        raise ValueError(
            f"num_packs is {num_packs} and num_documents {num_documents}, but exactly one of them "
            "says how much to plan: packs are optimizer steps times sequences per step."
        )
    if min(num_packs or 0, num_documents or 0) < 0:
        raise ValueError(
            f"A plan of {num_packs or num_documents} was asked for; it cannot be made."
        )
    if num_documents is not None and mixture.unit == "sequence" and len(mixture.leaves) > 1:
        raise ValueError(
            "num_documents needs a single source or unit='document', because documents of several "
            "sources have no common order where sequences are mixed. Give num_packs."
        )


def _lengths_of(name: str, lengths: Mapping[str, DocumentLengths]) -> DocumentLengths:
    if name not in lengths:
        raise ValueError(
            f"There are no lengths for source {name!r}; there are some for {sorted(lengths)}. "
            "Make them with measure_lengths."
        )
    if len(lengths[name]) > _LARGEST_SOURCE:
        raise ValueError(
            f"Source {name!r} has {len(lengths[name]):,} documents, but a plan counts at most "
            f"{_LARGEST_SOURCE:,} per source. Make two sources of it."
        )
    return lengths[name]


def _require_usable(name: str, lengths: DocumentLengths, budgets: Budgets) -> None:
    """Raise where an endless series of documents would never fill a pack."""
    step = 1 << 20
    for first in range(0, len(lengths), step):
        tokens = lengths.tokens[first : first + step]
        fits = (tokens > 0) & (tokens <= budgets.sequence_length)
        fits &= lengths.images[first : first + step] <= budgets.max_images
        if fits.any():
            return
        if budgets.over_budget != "drop":
            over = (first + np.flatnonzero(tokens)).tolist()
            if any(is_placeable(lengths.runs(document), budgets) for document in over):
                return
    raise ValueError(
        f"Of the {len(lengths):,} documents of source {name!r} none fits into a pack of "
        f"{budgets.sequence_length} tokens and {budgets.max_images} images, or no answer of a "
        "conversation does. Leave the source out, raise the budgets, or choose over_budget='split'."
    )


def _fingerprint(
    mixture: Mixture, lengths: list[DocumentLengths], budgets: Budgets, *rest: object
) -> str:
    digest = hashlib.sha256(repr((_FORMAT, mixture.unit, mixture.seed, budgets, rest)).encode())
    for leaf, own in zip(mixture.leaves, lengths, strict=True):
        digest.update(repr((leaf.name, leaf.share, len(own), own.fingerprint)).encode())
        if not own.fingerprint:
            digest.update(np.ascontiguousarray(own.tokens).data)
            digest.update(np.ascontiguousarray(own.images).data)
    return digest.hexdigest()[:32]
