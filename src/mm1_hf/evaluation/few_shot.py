"""Worked examples before a question: drawn by seed and question alone, and never the question."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mm1_hf.evaluation.contract import Example, Task
from mm1_hf.evaluation.images import Pictures
from mm1_hf.model.decoding_mm1 import ImageError


class ShownExample(NamedTuple):
    """An example whose pictures are decoded.

    Attributes:
        example: The example, with PIL images.
        hashes: Of all its pictures.
    """

    example: Example
    hashes: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The demonstrations of one question.

    Attributes:
        indices: Their places in the split, in the order in which they are shown.
        examples: The same, with decoded pictures.
        equal: How many were drawn and put back because they are the question.
        unreadable: How many were drawn and put back because a picture cannot be read.
    """

    indices: tuple[int, ...] = ()
    examples: tuple[Example, ...] = ()
    equal: int = 0
    unreadable: int = 0


def draw_order(population: int, *, seed: int, key: str) -> Iterator[int]:
    """All numbers below `population` in an order that only `seed` and `key` decide.

    Every number of demonstrations is the beginning of the same order, so eight shots are the four
    shots and four more. It is the same on every machine and under every Python.

    >>> list(draw_order(5, seed=0, key="question 1"))
    [2, 0, 4, 1, 3]
    """
    moved: dict[int, int] = {}  # Fisher and Yates's shuffle; holds only what is not in its place
    for place in range(population):
        name = f"{seed}\0{place}\0{key}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.sha256(name).digest(), "big")
        chosen = place + number % (population - place)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.pop(place, place)


def show_example(example: Example, pictures: Pictures) -> ShownExample:
    """Decode the pictures of an example.

    Raises:
        ValueError: (`ImageError`) If one cannot be read or decoded; names the example and the
            picture.
    """
    shown = []
    for place in range(len(example.images)):
        name = f"picture {place} of example {example.key!r}"
        try:
            image = example.images[place]  # pictures of tables are read here
        except (OSError, ValueError) as error:
            raise ImageError(
                f"{name[0].upper()}{name[1:]} cannot be read: {error} Repair the table."
            ) from None
        shown.append(pictures.show(image, name=name))
    hashes = frozenset().union(*(one.hashes for one in shown))
    return ShownExample(replace(example, images=tuple(one.picture for one in shown)), hashes)


class Demonstrations:
    """A split from which demonstrations are drawn.

    What is drawn is a pure function of the split, the seed and the question: neither batch nor
    order of questions matters. A demonstration is the question, and is not shown, if they share a
    picture by its hash (see `images.Pictures`), or have the same key, or ask the same without any
    picture.

    Args:
        examples: The split; may repeat pictures.
        task: Gives the answers to show.
        pictures: Decodes.
        skip_unreadable: Whether the next one is drawn for one whose pictures cannot be read;
            otherwise that is an error.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        task: Task,
        pictures: Pictures,
        skip_unreadable: bool = False,
    ):
        self.examples = examples
        self._task = task
        self._pictures = pictures
        self._skip_unreadable = skip_unreadable

    def draw(self, query: ShownExample, *, number: int, seed: int) -> Drawn:
        """The demonstrations of a question.

        Args:
            query: The question.
            number: How many.
            seed: Other seeds give other demonstrations.

        Raises:
            ValueError: If there are too few, one has no answer to show, or a picture cannot be
                read.
        """
        indices, examples, equal, unreadable = [], [], 0, 0
        order = draw_order(len(self.examples), seed=seed, key=query.example.key)
        while len(examples) < number:
            if (index := next(order, None)) is None:
                raise ValueError(
                    f"Only {len(examples)} of {len(self.examples)} demonstrations can be shown "
                    f"before example {query.example.key!r} ({equal} are the example itself, "
                    f"{unreadable} cannot be read), but num_shots is {number}. Give a larger "
                    "train split, or fewer shots."
                )
            try:
                shown = show_example(self.examples[index], self._pictures)
            except ImageError:
                if not self._skip_unreadable:
                    raise
                unreadable += 1
                continue
            if _is_same(shown, query):
                equal += 1
                continue
            has_answer = bool(shown.example.answers)
            if not has_answer or not self._task.answer(shown.example).strip():
                raise ValueError(
                    f"Demonstration {shown.example.key!r} has no answer to show. Draw from a split "
                    "that has answers, such as 'train'."
                )
            indices.append(index)
            examples.append(shown.example)
        return Drawn(
            indices=tuple(indices), examples=tuple(examples), equal=equal, unreadable=unreadable
        )


def _is_same(shown: ShownExample, query: ShownExample) -> bool:
    one, other = shown.example, query.example
    if one.key == other.key or shown.hashes & query.hashes:
        return True
    has_pictures = bool(one.images or other.images)
    return not has_pictures and (one.question, one.choices) == (other.question, other.choices)
