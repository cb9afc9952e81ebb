"""How a task is put to a model, apart from the task and the model."""

from dataclasses import dataclass
from typing import Literal, get_args

from mm1_hf.evaluation.prompts import STYLES, Style

OnTrouble = Literal["error", "count"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a task is put to a model.

    Attributes:
        num_shots: Demonstrations before each question. MM1 reports 0, 4, 8 and 16.
        seeds: Of the demonstrations: the whole task is asked once for each. Without demonstrations
            all seeds ask the same, so only the first is used.
        batch_size: Questions per batch. In float32 it changes no answer, except where two tokens
            are equally likely to the last digits.
        style: `"chat"`, for a tuned model: turns of its chat template; the answer ends where the
            model ends it. `"continuation"`, for a pre-trained one: running text; the answer is also
            cut at the task's stops.
        high_resolution_last: So many demonstrations before the question are tiled as the question
            is; earlier ones are one tile per picture.
        max_new_tokens: Tokens of an answer at most; the task's number by default.
        on_bad_image: What happens at a picture that cannot be decoded. `"error"`: the run stops.
            `"count"`: the question is not asked, counts as wrong, and is reported; of a
            demonstration, another one is drawn.
        on_long_prompt: The same for a prompt that, with `max_new_tokens`, exceeds the context.
        on_unlabelled: What happens at examples without answers to compare with. `"error"`: nothing
            is asked. `"count"`: they are not asked and are not in the figures, but are reported.
            Demonstrations without answers are never shown.

    Raises:
        ValueError: If a value is unknown or out of range.

    Source: MM1, arXiv 2403.09611, section 4: 3 examples at high resolution, as reported.
    """

    num_shots: int = 0
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 8
    style: Style = "chat"
    high_resolution_last: int = 3
    max_new_tokens: int | None = None
    on_bad_image: OnTrouble = "error"
    on_long_prompt: OnTrouble = "error"
    on_unlabelled: OnTrouble = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        for name, least in {"num_shots": 0, "batch_size": 1, "high_resolution_last": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but a number of at least {least} is "
                    "expected."
                )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, but answers have tokens.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}, but at least one, each once, is expected.")
        for name, known in {
            "style": STYLES,
            "on_bad_image": get_args(OnTrouble),
            "on_long_prompt": get_args(OnTrouble),
            "on_unlabelled": get_args(OnTrouble),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but it must be one of: "
                    f"{', '.join(map(repr, known))}."
                )

    @property
    def asked_seeds(self) -> tuple[int, ...]:
        """The seeds that make a difference."""
        return self.seeds if self.num_shots else self.seeds[:1]
