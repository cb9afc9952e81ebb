"""Text and images in any order become one text with placeholders, and text stays text.

A tokenizer reads a literal `<image>` or `</s>` in a user's message as a control token. *Escaping*
puts the noncharacter U+FDD0 behind the first character of every control token found, so that the
tokenizer's search no longer matches it, and a rule in front of the tokenizer's normalizer removes
the mark again: the user's characters reach the vocabulary unchanged and decode to what was written.
Added tokens are searched before normalisation; that order is what makes this work.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

IMAGE_TOKEN = "<image>"

# A noncharacter: Unicode reserves it for use inside a program, so real text does not contain it.
ESCAPE_MARK = "\ufdd0"

# Of a run of n marks, n // 2 remain: a lone mark goes, a doubled one (the user's own) becomes one,
# and a mark that happens to stand beside doubled ones goes. The pattern deletes every mark that has
# an even number of marks behind it. Python's `re` and the tokenizers' engine read it alike.
ESCAPE_MARKS_TO_REMOVE = f"{ESCAPE_MARK}(?=(?:{ESCAPE_MARK}{ESCAPE_MARK})*(?!{ESCAPE_MARK}))"


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
