"""From documents to batches: tokens, labels, and the features of the pictures among them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from mm1_hf.ablations.paper.documents import Document, Picture
from mm1_hf.ablations.paper.features import Features

IGNORED = -100


class FeatureCollator:
    """Batches documents for a `FeatureReader`.

    Args:
        tokenizer: Knows `<image>`, of which every visual token takes one.
        features: Where pictures are read from.
        tokens_per_tile: Visual tokens of a tile.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, features: Features, *, tokens_per_tile: int
    ):
        self.tokenizer: Any = tokenizer  # ids are typed as anything they may be elsewhere
        self.features = features
        self.tokens_per_tile = tokens_per_tile
        self.image_id: int = self.tokenizer.convert_tokens_to_ids("<image>")
        self._ids = lru_cache(maxsize=4096)(self._tokenize)

    def __call__(self, documents: Sequence[Document]) -> dict[str, Any]:
        """`input_ids`, `attention_mask` and `labels` `(documents, longest)`, and `features`.

        Every document begins with `<bos>`, and ends with `<eos>`, which is learned if the last text
        is. Features are None where no document has a picture.
        """
        rows = [self.encode(document) for document in documents]
        longest = max(len(ids) for ids, _ in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self.tokenizer.pad_token_id)
        labels = torch.full(shape, IGNORED)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for row, (ids, targets) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(ids)] = torch.tensor(targets)
            attention_mask[row, : len(ids)] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "features": self.read_features(documents),
        }

    def read_features(self, documents: Sequence[Document]) -> torch.Tensor | None:
        """Patches of all pictures of these documents, or None where there are none."""
        pictures = [one for document in documents for one in document if isinstance(one, Picture)]
        return self.features.read(pictures) if pictures else None

    def encode(self, document: Document) -> tuple[list[int], list[int]]:
        """Tokens of one document, and the labels of each."""
        ids: list[int] = [self.tokenizer.bos_token_id]
        labels = [IGNORED]
        learned = False
        for segment in document:
            if isinstance(segment, Picture):
                number = self.tokens_per_tile * self.features.num_tiles(segment.album)
                new, learned = [self.image_id] * number, False
            else:
                new, learned = self._ids(segment.text), segment.learned
            ids += new
            labels += new if learned else [IGNORED] * len(new)
        ids.append(self.tokenizer.eos_token_id)
        labels.append(self.tokenizer.eos_token_id if learned else IGNORED)
        return ids, labels

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class PackedCollator(FeatureCollator):
    """The same batches without padding: all documents of a step in one row, apart from each other.

    Captions have a fifth of the tokens of the longest interleaved documents, so padded rows would
    be half empty. The loss is that of `FeatureCollator`, as documents do not see each other.
    """

    def __call__(self, documents: Sequence[Document]) -> dict[str, Any]:
        """`input_ids`, `position_ids`, `labels` `(1, tokens of all documents)`, and `features`.

        Positions restart at 0 with each document; its first token, `<bos>`, is not learned.
        """
        rows = [self.encode(document) for document in documents]
        return {
            "input_ids": torch.tensor([[token for ids, _ in rows for token in ids]]),
            "position_ids": torch.cat([torch.arange(len(ids)) for ids, _ in rows])[None],
            "labels": torch.tensor([[label for _, labels in rows for label in labels]]),
            "features": self.read_features(documents),
        }
