"""Packs by index: planned before the run, read and decoded where they are asked for.

Because pack k is a function of the inputs and k alone, a stock `Trainer` resumes exactly by
skipping indices, whatever the number of workers and ranks.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import quote

import numpy as np
from filelock import FileLock
from torch.utils.data import Dataset

from mm1_hf.data.errors import BadData, BadDataError, ErrorLog, ErrorPolicy, Place
from mm1_hf.data.lengths import DocumentLengths
from mm1_hf.data.materialise import PIXELS, PieceRequest, Pixels, materialise_pack
from mm1_hf.data.measuring import measure_lengths
from mm1_hf.data.mixture import Mixture
from mm1_hf.data.pack_plan import PackPlan
from mm1_hf.data.packing import plan_packs

if TYPE_CHECKING:
    from mm1_hf.data.best_fit import OverBudget
    from mm1_hf.model.processing_mm1 import MM1Processor

_DTYPES = {"uint8": np.uint8, "float": np.float32}


class PackItem(TypedDict):
    """One pack of L tokens, I images of N tiles together, and P pieces of documents.

    `input_ids`, `labels` and `position_ids` are int64 of shape (L,); `pixel_values` is uint8 or
    float32 of shape (N, 3, height, width), and `tiles_per_image`, int64 of shape (I,), says how
    many of the tiles each image has. `document_keys` and `sources` say, for each piece, where it
    comes from; a piece begins where `position_ids` is 0. `index` is the pack's place in the
    dataset.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    pixel_values: np.ndarray
    tiles_per_image: np.ndarray
    document_keys: list[str]
    sources: list[str]
    index: int


class PackedDataset(Dataset):
    """The packs of a mixture, map-style.

    Measures what is not measured yet, plans what is not planned yet, both into `cache_folder`, and
    opens it otherwise; ranks that share the folder wait for the first of them. Train with
    `train_sampling_strategy="sequential"`, because the plan is shuffled already, and
    `remove_unused_columns=False`.

    Args:
        mixture: Sources and their weights; its seed decides every order.
        processor: Makes tokens and pixels.
        num_sequences: Packs of the whole run: optimizer steps times sequences per step.
        cache_folder: Keeps lengths, plans and what was skipped. Local or shared by all ranks.
        sequence_length: Tokens a pack may have.
        max_images: Images a pack may have.
        over_budget: What happens to documents larger than a pack: `"split"`, `"truncate"`,
            `"drop"`.
        window: Documents that are packed together.
        pixels: `"uint8"`: pixels travel as bytes, and the model normalises them on its device.
            `"float"`: the worker normalises them, at four times the memory and traffic.
        errors: What happens to files that cannot be used.
        num_processes: Processes that measure lengths; 0 measures in this one.
        max_image_tokens: Most tokens of all images of one document, markers included: images get
            fewer tiles until they fit. How many is logged, and counted in `plan.report`. `None`: no
            image is lowered.

    Attributes:
        plan: The pack plan; `plan.report` has the counts per source, `plan.shares` what the weights
            became.
        errors: What was skipped so far, by this run and those before it: `errors.counts()`.

    Raises:
        ValueError: If a source of the mixture is a name only, lengths or plan do not fit the
            arguments, or something cannot be measured and `errors` does not let it pass. A
            conversation without any token to learn, in the source or after truncation, is such.

    Source: MM1, arXiv 2403.09611, section 4 and appendix (4096 positions, at most 16 images).
    """

    def __init__(
        self,
        mixture: Mixture,
        processor: "MM1Processor",
        *,
        num_sequences: int,
        cache_folder: str | os.PathLike,
        sequence_length: int = 4096,
        max_images: int = 16,
        over_budget: "OverBudget" = "split",
        window: int = 1024,
        pixels: Pixels = "uint8",
        errors: ErrorPolicy | None = None,
        num_processes: int = 0,
        max_image_tokens: int | None = None,
    ):
        if pixels not in PIXELS:
            raise ValueError(f"pixels is {pixels!r}, but it must be one of: {', '.join(PIXELS)}.")
        names_only = [leaf.name for leaf in mixture.leaves if leaf.source is None]
        if names_only:
            raise ValueError(
                f"The mixture names {', '.join(map(repr, names_only))} without a source to read "
                "from. Make the mixture of sources."
            )
        policy = errors or ErrorPolicy()
        self.processor = processor
        self.pixels: Pixels = pixels
        self._sources = {leaf.name: leaf.source for leaf in mixture.leaves}
        folder = Path(cache_folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._length_folders = {
            name: str(folder / "lengths" / quote(name, safe="")) for name in self._sources
        }
        # Two ranks that measure at once would clear away each other's shards. The lock of a killed
        # process is free.
        with FileLock(folder / "lock"):
            self._lengths = {
                name: measure_lengths(
                    source,
                    processor,
                    self._length_folders[name],
                    num_processes=num_processes,
                    on_error=policy.mode,
                    max_image_tokens=max_image_tokens,
                )
                for name, source in self._sources.items()
            }
            self._fingerprints = {name: own.fingerprint for name, own in self._lengths.items()}
            settings = (num_sequences, sequence_length, max_images, window, over_budget)
            self.plan: PackPlan = plan_packs(
                mixture,
                self._lengths,
                num_packs=num_sequences,
                sequence_length=sequence_length,
                max_images=max_images,
                window=window,
                over_budget=over_budget,
                folder=folder / "plans" / _name_plan(mixture, self._lengths, settings),
            )
        report = self.plan.report
        if policy.mode == "raise":
            self._require_answers()
        self.errors = ErrorLog(
            folder=folder / "errors" / self.plan.fingerprint,
            policy=policy,
            planned={name: entry.attempted for name, entry in report.items()},
            unmeasured={name: entry.unusable for name, entry in report.items()},
            unanswered={name: entry.unanswered for name, entry in report.items()},
        )

    def __getstate__(self) -> dict:
        # Memory-mapped arrays would be copied as a whole; a worker maps the files itself.
        return {**self.__dict__, "_lengths": {}}

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> PackItem:
        """Read pack `index`.

        Raises:
            BadDataError: If something in it cannot be used, and the policy does not let it pass.
        """
        index = range(len(self))[index]
        pieces = self.plan[index].pieces
        keys = [f"{piece.source}#{piece.document}" for piece in pieces]

        def report(bad: BadData, piece: int, image: int) -> None:
            place = Place(index, piece, image)
            self.errors.handle(bad, source=pieces[piece].source, key=keys[piece], place=place)

        requests: dict[int, PieceRequest] = {}
        for number, piece in enumerate(pieces):
            try:
                document = self._sources[piece.source][piece.document]
            except (OSError, ValueError, EOFError) as error:
                report(BadData("unreadable", f"Reading it raised {error!r}."), number, -1)
                continue
            keys[number] = document.key
            runs = self._lengths_of(piece.source).runs(piece.document)
            requests[number] = PieceRequest(document, runs, piece.start, piece.stop)
        pack = materialise_pack(requests, self.processor, pixels=self.pixels, report=report)
        kept = {number: part for number, part in pack.pieces.items() if len(part.input_ids)}
        return {
            "input_ids": _join([part.input_ids for part in kept.values()]),
            "labels": _join([part.labels for part in kept.values()]),
            "position_ids": _join([part.position_ids for part in kept.values()]),
            "pixel_values": self._no_tiles() if pack.tiles is None else pack.tiles,
            "tiles_per_image": pack.tiles_per_image,
            "document_keys": [keys[number] for number in kept],
            "sources": [pieces[number].source for number in kept],
            "index": index,
        }

    def _require_answers(self) -> None:
        for name, entry in self.plan.report.items():
            if entry.first_unanswered is not None:
                document = self._sources[name][entry.first_unanswered]
                raise BadDataError(
                    f"Document {document.key!r} of source {name!r} is a conversation of "
                    f"{self._lengths[name].tokens[entry.first_unanswered]:,} tokens, and of its "
                    f"answers nothing is left in {self.plan.sequence_length:,} tokens and "
                    f"{self.plan.max_images} images ({entry.unanswered:,} such). Raise these "
                    "budgets, lower the tiles with max_image_tokens, choose over_budget='split' or "
                    "'drop', or pass errors=ErrorPolicy(mode='skip') to leave out such rows and "
                    "count them."
                )

    def _lengths_of(self, name: str) -> DocumentLengths:
        if name not in self._lengths:
            self._lengths[name] = DocumentLengths.open(
                self._length_folders[name], fingerprint=self._fingerprints[name]
            )
        return self._lengths[name]

    def _no_tiles(self) -> np.ndarray:
        size = self.processor.image_processor.size
        return np.empty((0, 3, size["height"], size["width"]), dtype=_DTYPES[self.pixels])


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)


def _name_plan(mixture: Mixture, lengths: dict[str, DocumentLengths], settings: tuple) -> str:
    """A folder for each set of arguments; `plan_packs` itself checks that the plan in it fits."""
    leaves = [(leaf.name, leaf.share, lengths[leaf.name].fingerprint) for leaf in mixture.leaves]
    text = repr((leaves, mixture.unit, mixture.seed, settings))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
