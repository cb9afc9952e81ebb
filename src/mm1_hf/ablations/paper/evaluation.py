"""What a model of the study can do, on writers and prose it has never seen."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mm1_hf.ablations.paper.batches import IGNORED, FeatureCollator
from mm1_hf.ablations.paper.documents import (
    Document,
    caption_tests,
    few_shot_tests,
    question_tests,
    text_tests,
)
from mm1_hf.ablations.paper.models import FeatureReader
from mm1_hf.ablations.paper.pictures import Library
from mm1_hf.demo.documents import THEMES
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration

SHOTS = (0, 4, 8)
_BATCH = 64
_EVALUATION_SEED = 1000


class Asked(NamedTuple):
    """The places of one document that are asked for: the true tokens, the likeliest, the loss."""

    truth: np.ndarray
    likeliest: np.ndarray
    losses: np.ndarray

    @property
    def is_right(self) -> bool:
        """Whether greedy decoding would have given the whole answer."""
        return bool((self.truth == self.likeliest).all())


@torch.inference_mode()
def read(
    model: MM1ForConditionalGeneration, collator: FeatureCollator, documents: Sequence[Document]
) -> Iterator[Asked]:
    """Read prompts with their true answers."""
    reader = FeatureReader(model).eval()
    for start in range(0, len(documents), _BATCH):
        batch = collator(documents[start : start + _BATCH])
        labels = batch.pop("labels")[:, 1:]
        logits = reader(**batch).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels)
        likeliest = logits.argmax(-1)
        for row in range(len(labels)):
            places = labels[row] != IGNORED
            yield Asked(
                labels[row][places].numpy(),
                likeliest[row][places].numpy(),
                losses[row][places].numpy(),
            )


def evaluate_pretrained(
    model: MM1ForConditionalGeneration, collator: FeatureCollator, library: Library, *, seed: int
) -> dict[str, float]:
    """Figures of a pre-trained model.

    - `zero_shot`: share of digits right in captions, with the true caption before each.
    - `caption_exact`: share of captions right in every place and digit.
    - `shots_4`, `shots_8`: share of pictures labelled right behind so many examples, mean over the
      themes. A picture's label depends on the theme, which only the examples show.
    - `score`: mean of `zero_shot`, `shots_4` and `shots_8`, as the paper averages 0, 4 and 8 shots.
    - `text_accuracy`, `text_loss`: share of tokens of held-out prose that are the likeliest, and
      the loss of one, in nats.
    - `balance`: mean of `score`'s three and `text_accuracy`.
    - `loss`: mean of the losses of a token of captions, of labels behind 4 examples, and of prose.
    """
    ids = [
        collator.tokenizer(f" {value}", add_special_tokens=False)["input_ids"][0]
        for value in range(10)
    ]
    captions = list(read(model, collator, caption_tests(library["captioned_test"])))
    digits = [
        truth == likeliest
        for one in captions
        for truth, likeliest in zip(one.truth, one.likeliest, strict=True)
        if truth in ids
    ]
    figures = {
        "zero_shot": float(np.mean(digits)),
        "caption_exact": _share_right(captions),
    }
    losses = [_mean_loss(captions)]
    for num_shots in SHOTS[1:]:
        by_theme = []
        for theme in THEMES:
            tests = few_shot_tests(
                library, num_shots=num_shots, theme=theme, seed=_EVALUATION_SEED + seed
            )
            asked = list(read(model, collator, tests))
            by_theme.append(_share_right(asked))
            if num_shots == SHOTS[1]:
                losses.append(_mean_loss(asked) / len(THEMES))
        figures[f"shots_{num_shots}"] = float(np.mean(by_theme))
    texts = list(read(model, collator, text_tests(number=len(captions))))
    figures["score"] = float(
        np.mean([figures["zero_shot"], figures["shots_4"], figures["shots_8"]])
    )
    figures["text_accuracy"] = float(
        np.concatenate([one.truth == one.likeliest for one in texts]).mean()
    )
    figures["text_loss"] = _mean_loss(texts)
    figures["balance"] = (3 * figures["score"] + figures["text_accuracy"]) / 4
    figures["loss"] = (losses[0] + sum(losses[1:]) + figures["text_loss"]) / 3
    return figures


def evaluate_tuned(
    model: MM1ForConditionalGeneration, collator: FeatureCollator, library: Library, *, seed: int
) -> dict[str, float]:
    """`questions`: share of questions about pages that are answered exactly."""
    tests = question_tests(library["pages_test"], seed=_EVALUATION_SEED + seed)
    return {"questions": _share_right(list(read(model, collator, tests)))}


def _share_right(asked: Sequence[Asked]) -> float:
    return float(np.mean([one.is_right for one in asked]))


def _mean_loss(asked: Sequence[Asked]) -> float:
    return float(np.concatenate([one.losses for one in asked]).mean())
