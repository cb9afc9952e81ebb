"""How many slots of a batch hold a token when documents are packed, and what does planning cost?

Mix A: 45 % captions, 45 % interleaved documents, 10 % text, by document; lengths are drawn from
distributions whose median is 382 and mean 723 tokens. Ours keeps both budgets, 4096 tokens and 16
images; the peers are transformers' padding collator with random batches, which counts no images.
Planning costs are CPU microseconds of the whole plan, the files included. `limit_...` is what no
packing of the same windows can exceed (`best_fit.fewest_packs`); it falls where captions need all
images of a sequence before its tokens.

`--documents 50000000` plans that many once, from lengths in files, and reports time and memory.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from harness import print_result

from mm1_hf.data.array_files import ArrayFolder
from mm1_hf.data.best_fit import fewest_packs, pack_window
from mm1_hf.data.lengths import LENGTH_DTYPES, DocumentLengths, DocumentRuns, length_arrays
from mm1_hf.data.mixture import UNITS, Mixture
from mm1_hf.data.packing import PackPlan, plan_packs

MIX_A = {"captions": 45, "interleaved": 45, "text": 10}
IMAGE_TOKENS = 144
SEQUENCE_LENGTH = 4096
CHUNK = 1_000_000


def draw_runs(
    kind: str, count: int, random: np.random.Generator
) -> tuple[DocumentRuns, np.ndarray]:
    """Runs of `count` documents of one kind, and their number per document."""

    def words(median: float, spread: float, least: int, most: int) -> np.ndarray:
        return np.clip(random.lognormal(np.log(median), spread, count), least, most)

    if kind == "text":
        tokens = words(1000, 0.9, 20, 60_000).astype(np.int64)
        none = np.zeros(count, dtype=bool)
        return DocumentRuns(tokens, none, none), np.ones(count, dtype=np.int64)
    if kind == "captions":
        images = np.ones(count, dtype=np.int64)
        text = words(34, 0.6, 2, 1000)
    else:
        images = np.minimum(random.geometric(1 / 2.8, count), 40)
        text = words(485, 0.8, 20, 30_000)
    # Image and text take turns.
    is_image = np.tile([True, False], int(images.sum()))
    tokens = np.full(len(is_image), IMAGE_TOKENS)
    tokens[1::2] = np.maximum(1, np.repeat(text / images, images))
    return DocumentRuns(tokens, is_image, is_image), 2 * images


def write_lengths(folder: Path, count: int, seed: int = 0) -> dict[str, DocumentLengths]:
    """Lengths of `count` documents of mix A, drawn and written chunk by chunk."""
    lengths = {}
    for number, (kind, percent) in enumerate(MIX_A.items()):
        random = np.random.default_rng([seed, number])
        names = [name for name in LENGTH_DTYPES if name != "run_counts"]
        left, end = count * percent // 100, 0
        dtypes = {name: LENGTH_DTYPES[name] for name in names} | {"offsets": np.dtype(np.int64)}
        with ArrayFolder(folder / kind, dtypes) as files:
            files.append("offsets", np.zeros(1))
            while left:
                size = min(CHUNK, left)
                runs, counts = draw_runs(kind, size, random)
                arrays = length_arrays(runs, counts)
                for name in names:
                    files.append(name, arrays[name])
                files.append("offsets", end + np.cumsum(counts))
                end += int(counts.sum())
                left -= size
            files.meta = {"fingerprint": f"drawn {kind} {count} {seed}"}
        lengths[kind] = DocumentLengths.open(folder / kind)
    return lengths


def plan_timed(unit: str, lengths: dict[str, DocumentLengths], folder: Path, **size: int):
    """A plan and the CPU microseconds per document it placed."""
    mixture = Mixture(MIX_A, unit=unit)
    start = time.process_time()
    plan = plan_packs(mixture, lengths, folder=folder / f"plan-{unit}", **size)
    seconds = time.process_time() - start
    documents = sum(entry.documents for entry in plan.report.values())
    return plan, 1e6 * seconds / documents


def padded_slots_per_token(tokens: np.ndarray, batch: int) -> float:
    """Slots per useful token where random batches are padded to their longest document."""
    tokens = np.random.default_rng(0).permutation(tokens)
    rows = tokens[: len(tokens) // batch * batch].reshape(-1, batch)
    return float(rows.max(axis=1).sum() * batch / rows.sum())


def image_bound(plan: PackPlan) -> float:
    """Share of the packs that can take no further image."""
    return float((np.asarray(plan.pack_images) == plan.max_images).mean())


def limit(unit: str, lengths: dict[str, DocumentLengths], count: int) -> float:
    """Share of useful slots that no packing of the windows of a plan can exceed."""
    packs = {"used": 0, "needed": 0}

    def watched(tokens: list[int], images: list[int], **budgets: int) -> list[int]:
        packed = pack_window(tokens, images, **budgets)
        packs["used"] += max(packed) + 1
        packs["needed"] += fewest_packs(tokens, images, **budgets)
        return packed

    def of_plan(weights: dict[str, int], **size: int) -> float:
        packs.update(used=0, needed=0)
        plan = plan_packs(Mixture(weights, unit=unit), lengths, **size)
        return plan.efficiency * packs["used"] / packs["needed"]

    with patch("mm1_hf.data.planner.pack_window", watched):
        if unit != "sequence":
            return of_plan(MIX_A, num_packs=count // 12)
        # Sequences are mixed, and each source is packed alone.
        limits = {
            kind: of_plan({kind: 1}, num_documents=min(count // 12, len(lengths[kind])))
            for kind in MIX_A
        }
    return sum(limits[kind] * percent for kind, percent in MIX_A.items()) / sum(MIX_A.values())


def compare(lengths: dict[str, DocumentLengths], folder: Path, count: int) -> dict:
    """Ratios and figures of one run."""
    plans = {}
    for unit in UNITS:
        size = {"num_documents": count} if unit == "document" else {"num_packs": count // 6}
        plans[unit] = plan_timed(unit, lengths, folder, **size)
    plan, microseconds = plans["document"]
    tokens = np.concatenate([np.asarray(own.tokens) for own in lengths.values()])
    # What does not fit into a row is cut off there, at no cost: a gift to the peers.
    clipped = np.minimum(tokens, SEQUENCE_LENGTH).astype(np.int64)
    ours = 1 / plan.efficiency
    return {
        "ratios": {
            "efficiency": round(plan.efficiency, 4),
            "slots_vs_padding_8": round(padded_slots_per_token(clipped, 8) / ours, 2),
            "slots_vs_padding_32": round(padded_slots_per_token(clipped, 32) / ours, 2),
            "microseconds_per_document": round(microseconds, 2),
        },
        "figures": {
            "documents": count,
            "median_tokens": float(np.median(tokens)),
            "mean_tokens": round(float(tokens.mean()), 1),
            **{
                f"efficiency_{unit}": round(made.efficiency, 4) for unit, (made, _) in plans.items()
            },
            **{f"limit_{unit}": round(limit(unit, lengths, count), 4) for unit in UNITS},
            **{
                f"image_bound_{unit}": round(image_bound(made), 3)
                for unit, (made, _) in plans.items()
            },
            **{f"microseconds_{unit}": round(cost, 2) for unit, (_, cost) in plans.items()},
        },
    }


def simulate(folder: Path, count: int, unit: str) -> dict:
    """Plan `count` documents once; memory is the peak of this process, mapped files included."""
    start = time.perf_counter()
    lengths = write_lengths(folder, count)
    drawn = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    size = {"num_documents": count} if unit == "document" else {"num_packs": count * 5 // 32}
    plan, microseconds = plan_timed(unit, lengths, folder, **size)
    seconds = time.perf_counter() - start
    placed = sum(entry.documents for entry in plan.report.values())

    def gigabytes(path: Path) -> float:
        return round(sum(file.stat().st_size for file in path.rglob("*")) / 1e9, 3)

    return {
        "ratios": {
            "efficiency": round(plan.efficiency, 4),
            "microseconds_per_document": round(microseconds, 2),
        },
        "figures": {
            "unit": unit,
            "documents": placed,
            "packs": len(plan),
            "seconds": round(seconds, 1),
            "seconds_to_draw": round(drawn, 1),
            "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
            "peak_gigabytes_before": round(before / 1e6, 3),
            "gigabytes_of_lengths": sum(gigabytes(folder / kind) for kind in MIX_A),
            "gigabytes_of_plan": gigabytes(folder / f"plan-{unit}"),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer documents")
    parser.add_argument("--documents", type=int, help="simulate a plan of so many documents")
    parser.add_argument("--unit", choices=UNITS, default="document", help="unit of the simulation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.documents:
            result = simulate(Path(folder), arguments.documents, arguments.unit)
        else:
            count = 100_000 if arguments.quick else 500_000
            result = compare(write_lengths(Path(folder), count), Path(folder), count)
    print_result("packing", **result, packages=("numpy",))


if __name__ == "__main__":
    main()
