"""Packs become a batch; the one place of this floor that builds batch tensors.

A batch never carries an attention mask: transformers finds the documents of a pack in its
restarting positions, and only where no mask is given. So padding is one more document at the end of
a row.

Where its tokens come from travels beside the tensors and not among them (`PackedBatch.origins`), so
that a stock `Trainer` passes to the model what the model takes, and nothing else.

Letters: B packs of a batch, L tokens of its rows, N tiles of the batch, S documents (with padding).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch

if TYPE_CHECKING:
    from mm1_hf.data.dataset import PackItem
    from mm1_hf.model.processing_mm1 import MM1Processor

PadTo = Literal["longest", "sequence_length"]

PAD_TOS: tuple[str, ...] = get_args(PadTo)

# The label that transformers' losses leave out.
IGNORED = -100


class PieceOrigin(NamedTuple):
    """Where a document, or a piece of one, in a pack comes from, and what it counts.

    Attributes:
        source: Name of its source.
        key: Its key in the source.
        tokens: Its tokens, images included.
        targets: Its tokens that carry a loss.
    """

    source: str
    key: str
    tokens: int
    targets: int


@dataclass(frozen=True)
class PackOrigin:
    """Where a pack comes from.

    Attributes:
        pieces: Its documents and pieces of documents, in order.
        tokens: Its tokens, without padding.
        index: Its index in the dataset, where that says so.
        images: Its images, where the dataset says so.
    """

    pieces: tuple[PieceOrigin, ...]
    tokens: int
    index: int | None = None
    images: int | None = None


class PackedBatch(dict[str, Any]):
    """The arguments of a model's forward, with `origins` beside them.

    `origins` has an entry for each pack, in the order of the rows. It survives worker processes,
    pinning and accelerate's transfer to a device; what a `Trainer` makes of the batch afterwards
    has none.
    """

    def __init__(self, entries: Any = (), *, origins: tuple[PackOrigin, ...] = ()):
        super().__init__(entries)
        self.origins = origins

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> "PackedBatch":
        """The batch with its tensors on a device; accelerate calls this."""
        moved = {
            name: entry.to(device, non_blocking=non_blocking)
            if isinstance(entry, torch.Tensor)
            else entry
            for name, entry in self.items()
        }
        return PackedBatch(moved, origins=self.origins)

    def source_ids(self, names: Sequence[str]) -> torch.Tensor:
        """The source of every token, as its place in `names`; -1 for padding and other sources.

        Returns:
            int64 of the shape of `input_ids`, on the CPU.
        """
        shape = self["input_ids"].shape
        joined = shape.numel() == sum(origin.tokens for origin in self.origins)
        length = 0 if joined else shape.numel() // len(self.origins)
        place = {name: number for number, name in enumerate(names)}
        rows = []
        for origin in self.origins:
            ids = torch.tensor([place.get(piece.source, -1) for piece in origin.pieces])
            counts = torch.tensor([piece.tokens for piece in origin.pieces])
            row = torch.full((max(length, origin.tokens),), -1, dtype=torch.int64)
            if origin.pieces:
                row[: origin.tokens] = ids.repeat_interleave(counts)
            rows.append(row)
        return torch.cat(rows).reshape(shape)


class MM1Collator:
    """Joins packs of a `PackedDataset` into a batch for a stock `Trainer`.

    The batch holds `input_ids`, `labels` and `position_ids` of shape (B, L), int64, and
    `pixel_values` of shape (N, 3, height, width) in reading order, of the packs' dtype; a batch
    without images has no `pixel_values` (in training the model then sees a dummy tile). Its
    `origins` say, pack by pack, which documents of which sources it holds.

    Args:
        processor: Gives the token that pads.
        pad_to: `"longest"`: rows are as long as the longest pack of the batch.
            `"sequence_length"`: always `sequence_length`, so that shapes never change.
        sequence_length: Tokens of a row; only for `pad_to="sequence_length"`.
        varlen: For flash and varlen back ends: the packs stand behind each other in one row,
            (1, all tokens), with `cu_seq_lens_q` and `cu_seq_lens_k` of shape (S + 1,), int32, and
            `max_length_q` and `max_length_k`, numbers, so that no layer has to ask the device where
            documents end. Padding then happens only with `pad_to="sequence_length"`.

    Raises:
        ValueError: If the arguments contradict each other, or the tokenizer has no token to pad
            with.
    """

    def __init__(
        self,
        processor: "MM1Processor",
        *,
        pad_to: PadTo = "longest",
        sequence_length: int | None = None,
        varlen: bool = False,
    ):
        if pad_to not in PAD_TOS:
            raise ValueError(f"pad_to is {pad_to!r}, but it must be one of {', '.join(PAD_TOS)}.")
        if (pad_to == "sequence_length") != (sequence_length is not None):
            raise ValueError(
                f"pad_to is {pad_to!r} and sequence_length is {sequence_length}. Give a length for "
                "pad_to='sequence_length', and only for that."
            )
        pad_token_id = processor.tokenizer.pad_token_id
        if pad_token_id is None or pad_token_id == processor.image_token_id:
            raise ValueError(
                f"The tokenizer's pad token has id {pad_token_id}, but a token other than the "
                "image token is needed. Set tokenizer.pad_token, for example to its end of "
                "sequence."
            )
        self.pad_token_id: int = pad_token_id
        self.sequence_length = sequence_length
        self.varlen = varlen

    def __call__(self, packs: Sequence["PackItem"]) -> PackedBatch:
        """Join packs.

        Raises:
            ValueError: If a pack is longer than `sequence_length`, or the packs' pixels differ in
                dtype or size.
        """
        length = self._row_length(packs)
        tensors = {
            "input_ids": self._join(packs, "input_ids", fill=self.pad_token_id, length=length),
            "labels": self._join(packs, "labels", fill=IGNORED, length=length),
            "position_ids": self._join(packs, "position_ids", fill=None, length=length),
        }
        batch = PackedBatch(tensors, origins=tuple(_origin(pack) for pack in packs))
        if self.varlen:
            batch.update(_lengths_of_documents(batch["position_ids"]))
        tiles = [pack["pixel_values"] for pack in packs if len(pack["pixel_values"])]
        if tiles:
            batch["pixel_values"] = _join_tiles(tiles)
        return batch

    def _row_length(self, packs: Sequence["PackItem"]) -> int | None:
        """Tokens of a row, or None where nothing is padded."""
        longest = max(range(len(packs)), key=lambda row: len(packs[row]["input_ids"]))
        found = len(packs[longest]["input_ids"])
        if self.sequence_length is None:
            # A pack can be empty when nothing in it could be read; a row of a batch cannot.
            return None if self.varlen and found > 0 else max(found, 1)
        if found > self.sequence_length:
            keys = ", ".join(map(repr, packs[longest]["document_keys"][:3]))
            raise ValueError(
                f"Pack {longest} of the batch (documents {keys} …) has {found} tokens, but rows "
                f"have {self.sequence_length}. Give the collator the sequence_length of the "
                "PackedDataset."
            )
        return self.sequence_length

    def _join(
        self, packs: Sequence["PackItem"], name: str, *, fill: int | None, length: int | None
    ) -> torch.Tensor:
        """One entry of all packs, padded with `fill`, or counting from 0 where that is None."""
        rows = [torch.as_tensor(pack[name], dtype=torch.int64) for pack in packs]
        if length is None:
            return torch.cat(rows)[None]  # shape: (1, all tokens)
        joined = torch.empty(len(rows), length, dtype=torch.int64)
        for target, row in zip(joined, rows, strict=True):
            padding = target[len(row) :]
            target[: len(row)] = row
            if fill is None:
                torch.arange(len(padding), out=padding)
            else:
                padding.fill_(fill)
        return joined.reshape(1, -1) if self.varlen else joined


def _origin(pack: "PackItem") -> PackOrigin:
    """What the pack says about itself; a document begins where positions restart at 0."""
    labels = np.asarray(pack["labels"])
    if "sources" not in pack:  # a Trainer with remove_unused_columns=True takes it away
        return PackOrigin(pieces=(), tokens=len(labels))
    starts = np.flatnonzero(np.asarray(pack["position_ids"]) == 0)
    tokens = np.diff(starts, append=len(labels))
    targets = np.add.reduceat(labels != IGNORED, starts, dtype=np.int64) if len(starts) else starts
    rows = zip(
        pack["sources"], pack["document_keys"], tokens.tolist(), targets.tolist(), strict=True
    )
    tiles_per_image = pack.get("tiles_per_image")
    return PackOrigin(
        pieces=tuple(PieceOrigin(*row) for row in rows),
        tokens=len(labels),
        index=pack.get("index"),
        images=None if tiles_per_image is None else len(tiles_per_image),
    )


def _lengths_of_documents(position_ids: torch.Tensor) -> dict[str, Any]:
    """Where documents end, from positions of shape (1, L)."""
    starts = (position_ids[0] == 0).nonzero().flatten()
    cumulative = torch.cat([starts, starts.new_tensor([position_ids.shape[1]])]).to(torch.int32)
    longest = int(cumulative.diff().max())
    return {
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _join_tiles(tiles: list) -> torch.Tensor:
    """Tiles of all packs, (N, 3, height, width)."""
    tensors = [torch.as_tensor(pack) for pack in tiles]
    kinds = {(tensor.dtype, *tensor.shape[1:]) for tensor in tensors}
    if len(kinds) > 1:
        raise ValueError(
            f"The packs' pixels are of {len(kinds)} kinds ({kinds}), but a batch has one. Make all "
            "packs with one PackedDataset."
        )
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]
