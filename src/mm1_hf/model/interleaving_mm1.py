"""Text and images in any order become one text with placeholders, and text stays text.

A tokenizer reads a literal `<image>` or `</s>` in a user's message as a control token. *Escaping*
puts the noncharacter U+FDD0 behind the first character of every control token found, so that the
tokenizer's search no longer matches it, and a rule in front of the tokenizer's normalizer removes
the mark again: the user's characters reach the vocabulary unchanged and decode to what was written.
Added tokens are searched before normalisation; that order is what makes this work.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

IMAGE_TOKEN = "<image>"

# A noncharacter: Unicode reserves it for use inside a program, so real text does not contain it.
ESCAPE_MARK = "\ufdd0"

# Of a run of n marks, n // 2 remain: a lone mark goes, a doubled one (the user's own) becomes one,
# and a mark that happens to stand beside doubled ones goes. The pattern deletes every mark that has
# an even number of marks behind it. Python's `re` and the tokenizers' engine read it alike.
ESCAPE_MARKS_TO_REMOVE = f"{ESCAPE_MARK}(?=(?:{ESCAPE_MARK}{ESCAPE_MARK})*(?!{ESCAPE_MARK}))"


# What stands for the pictures and the question of an example in a few-shot prompt.
# Source: MM1, arXiv 2403.09611, evaluation prompts as reported; not re-verified.
CAPTION_PROMPT = "{images} A photo of"
VQA_PROMPT = "{images} Question: {question} Short answer:"


class Interleaved(NamedTuple):
    """One text with a placeholder per image, and the images in the order of their placeholders."""

    text: str
    images: list


class ControlTokens:
    """The strings that a tokenizer reads as control tokens, ready to be escaped in text.

    Args:
        tokens: Tokens that untrusted text must not be able to write.
        unescapable: Those among them which a mark cannot hide, because the tokenizer searches for
            them after normalisation.

    Raises:
        ValueError: If a token contains U+FDD0, which would make the escape ambiguous.
    """

    def __init__(self, tokens: Iterable[str], *, unescapable: Iterable[str] = ()):
        self.tokens = tuple(
            sorted({token for token in tokens if token}, key=lambda t: (-len(t), t))
        )
        for token in self.tokens:
            if ESCAPE_MARK in token:
                raise ValueError(
                    f"The control token {token!r} contains U+FDD0, which marks escaped text. "
                    "Rename the token."
                )
        # A single character has no inside where a mark could stand.
        self.unescapable = frozenset(unescapable) | {t for t in self.tokens if len(t) == 1}
        starts = "|".join(re.escape(token) for token in self.tokens)
        # Looking ahead finds tokens that overlap, such as `<b>` and `b>x` in `<b>x`.
        self._start = re.compile(f"(?=(?:{starts})).", re.DOTALL) if starts else None
        # Text that ends inside a token could be completed by the text that follows it.
        self._prefixes = {
            token[:length]
            for token in self.tokens
            if token not in self.unescapable
            for length in range(1, len(token))
        }
        self._longest_prefix = max(map(len, self._prefixes), default=0)

    def escape(self, text: str) -> str:
        """Return `text` with every control token, or beginning of one at the end, made harmless.

        Raises:
            ValueError: If the text contains a control token that cannot be escaped.
        """
        for token in self.unescapable:
            if token in text:
                raise ValueError(
                    f"The text contains {token!r} at character {text.index(token)}, which this "
                    "tokenizer reads as a control token even when it is escaped (it is a single "
                    "character, or was added with normalized=True). Remove it from the text, or "
                    "add the token to the tokenizer with normalized=False."
                )
        text = text.replace(ESCAPE_MARK, ESCAPE_MARK * 2)
        if self._start is None:
            return text
        starts = [match.start() for match in self._start.finditer(text)]
        for length in range(min(self._longest_prefix, len(text)), 0, -1):
            if text[-length:] in self._prefixes:
                starts.append(len(text) - length)
        if not starts:
            return text
        pieces, last = [], 0
        for start in sorted(set(starts)):
            pieces += [text[last : start + 1], ESCAPE_MARK]
            last = start + 1
        return "".join([*pieces, text[last:]])


def unescape(text: str) -> str:
    """Undo `ControlTokens.escape`: what the tokenizer's normalizer does to escaped text."""
    return re.sub(ESCAPE_MARKS_TO_REMOVE, "", text)


def interleave(
    segments: Sequence, *, image_token: str, escape: Callable[[str], str]
) -> Interleaved:
    """Join text and images into one text with a placeholder per image.

    Args:
        segments: Strings, which are always text (never paths), and images, which are anything else;
            a path must come as `pathlib.Path`.
        image_token: The placeholder.
        escape: Makes text harmless before it is joined.

    Raises:
        ValueError: If `segments` is a single string or contains `None`.

    >>> interleave(["Left: ", 1, " right: ", 2], image_token="<image>", escape=str)
    Interleaved(text='Left: <image> right: <image>', images=[1, 2])
    """
    if isinstance(segments, (str, bytes)):
        raise ValueError(
            f"segments is a single {type(segments).__name__}, but a list of texts and images is "
            "expected: write [text, image, ...]."
        )
    pieces, images = [], []
    for index, segment in enumerate(segments):
        if segment is None:
            raise ValueError(f"Segment {index} is None, but a text or an image is expected.")
        if isinstance(segment, str):
            pieces.append(escape(segment))
        else:
            pieces.append(image_token)
            images.append(segment)
    return Interleaved("".join(pieces), images)


def require_matching_images(
    text: Sequence,
    *,
    image_token: str,
    num_images: int,
    images_per_sample: Sequence[int] | None,
) -> None:
    """Check that every text has as many placeholders as images.

    Args:
        text: One text per sample.
        image_token: The placeholder.
        num_images: Images of all samples together.
        images_per_sample: Images of each sample, or `None` where they came as one flat list.

    Raises:
        ValueError: If not; names the sample, what was found and what was expected.
    """
    for sample, entry in enumerate(text):
        if not isinstance(entry, str):
            raise ValueError(
                f"Sample {sample} of text is of type {type(entry).__name__}, but a string is "
                "expected."
            )
    found = [entry.count(image_token) for entry in text]
    if images_per_sample is None:
        if sum(found) == num_images:
            return
        sample = _first_disagreeing_sample(found, num_images)
        raise ValueError(
            f"Sample {sample}: the text has {found[sample]} placeholders {image_token!r}. All "
            f"{len(text)} samples together have {sum(found)}, but {num_images} images were given. "
            "Pass one image per placeholder, in reading order, or one list of images per sample; "
            "write a literal placeholder as processor.escape(text)."
        )
    if len(found) != len(images_per_sample):
        raise ValueError(
            f"images has lists for {len(images_per_sample)} samples, but text has {len(found)} "
            "samples. Pass one list of images per sample, an empty one for text alone."
        )
    for sample, (placeholders, given) in enumerate(zip(found, images_per_sample, strict=True)):
        if placeholders != given:
            raise ValueError(
                f"Sample {sample}: the text has {placeholders} placeholders {image_token!r}, but "
                f"{given} images were given for it. Pass one image per placeholder; write a "
                "literal placeholder as processor.escape(text)."
            )


def _first_disagreeing_sample(found: list[int], num_images: int) -> int:
    """The sample whose placeholders exhaust the images, or the last one if images are left."""
    for sample, placeholders in enumerate(found):
        num_images -= placeholders
        if num_images < 0:
            return sample
    return len(found) - 1


class FewShotPrompt(NamedTuple):
    """Worked examples and a query as one text.

    Attributes:
        text: One placeholder per image; ends where the model is to answer.
        images: In the order of their placeholders.
        max_tiles: Most tiles of each image's grid.
    """

    text: str
    images: list
    max_tiles: list[int]


def few_shot_prompt(
    examples: Sequence,
    query: Any,
    *,
    image_token: str,
    escape: Callable[[str], str],
    max_tiles: int,
    high_resolution_last: int = 3,
    prompt: str = VQA_PROMPT,
    separator: str = "\n",
) -> FewShotPrompt:
    """Join worked examples and a query, the earlier examples at low resolution.

    >>> examples = [{"images": 1, "question": "What?", "answer": "a cat"}] * 2
    >>> made = few_shot_prompt(
    ...     examples, {"images": 2, "question": "And this?"},
    ...     image_token="<image>", escape=str, max_tiles=9, high_resolution_last=1,
    ... )
    >>> print(made.text)
    <image> Question: What? Short answer: a cat
    <image> Question: What? Short answer: a cat
    <image> Question: And this? Short answer:
    >>> made.max_tiles
    [1, 9, 9]

    Args:
        examples: Each a mapping with `images` (one or a list), `question` where the prompt has one,
            and `answer`, which may be a whole chain of thought; or a list of texts and images that
            is taken as it stands.
        query: The same without `answer`.
        image_token: The placeholder.
        escape: Makes text harmless.
        max_tiles: Most tiles of a grid at high resolution.
        high_resolution_last: How many examples before the query keep high resolution.
        prompt: A text with `{images}` and, where examples have questions, `{question}`; an answer
            follows it after a space.
        separator: Between examples. A line break, at which answers are cut (our choice).

    Raises:
        ValueError: If an example lacks something or the query has an answer; names the example.

    Source: MM1, arXiv 2403.09611, section 4 (mixed resolution few-shot).
    """
    if high_resolution_last < 0:
        raise ValueError(
            f"high_resolution_last is {high_resolution_last}, but a number of examples, 0 or more, "
            "is expected."
        )
    text, images, caps = "", [], []
    first_high = len(examples) - high_resolution_last
    for index, example in enumerate([*examples, query]):
        is_query = index == len(examples)
        name = "The query" if is_query else f"Example {index}"
        if isinstance(example, Mapping):
            made = _fill_prompt(example, prompt, image_token, escape, name, is_query=is_query)
        else:
            made = interleave(example, image_token=image_token, escape=escape)
        text += made.text if is_query else made.text + escape(separator)
        images += made.images
        caps += [max_tiles if index >= first_high else 1] * len(made.images)
    return FewShotPrompt(text, images, caps)


def read_example(example: Mapping, *, name: str, is_query: bool) -> tuple[list, str, str]:
    """Images, question and answer of a worked example, or of a query, whose answer is empty.

    Raises:
        ValueError: If a field is unknown or missing, or the query has an answer.
    """
    unknown = set(example) - {"images", "question", "answer"}
    if unknown:
        raise ValueError(
            f"{name} has {', '.join(map(repr, sorted(unknown)))}, but 'images', 'question' and "
            "'answer' are expected."
        )
    answer = example.get("answer")
    if is_query and answer is not None:
        raise ValueError(f"{name} has an answer, but the model is to give it. Remove 'answer'.")
    if not is_query and not isinstance(answer, str):
        raise ValueError(f"{name} has answer {answer!r}, but a text is expected.")
    images = example.get("images")
    images = [] if images is None else images
    images = list(images) if isinstance(images, (list, tuple)) else [images]
    return images, example.get("question") or "", answer or ""


def _fill_prompt(
    example: Mapping,
    prompt: str,
    image_token: str,
    escape: Callable[[str], str],
    name: str,
    *,
    is_query: bool,
) -> Interleaved:
    images, question, answer = read_example(example, name=name, is_query=is_query)
    before, found, after = prompt.partition("{images}")
    if not found or "{images}" in after:
        raise ValueError(f"The prompt {prompt!r} must contain '{{images}}' once.")
    if question and "{question}" not in prompt:
        raise ValueError(f"{name} has a question, but the prompt {prompt!r} has no '{{question}}'.")
    if not images:
        before, after = before.rstrip(), after.lstrip()
    # Not str.format: a question may contain braces.
    before, after = (part.replace("{question}", question) for part in (before, after))
    if answer:
        after += f" {answer}"
    return Interleaved(escape(before) + image_token * len(images) + escape(after), images)


def add_image_token(tokenizer: Any) -> str:
    """Give a tokenizer a named `image_token` that survives saving, if it has none; return it."""
    existing = getattr(tokenizer, "image_token", None)
    if existing is not None:
        return existing
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False
    )
    tokenizer._set_model_specific_special_tokens({"image_token": IMAGE_TOKEN})
    return IMAGE_TOKEN
