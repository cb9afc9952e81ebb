"""Cleaning of interleaved web documents by the paper's rules, each with a name and a count.

Source: MM1, arXiv 2403.09611, appendix on interleaved image-text data: all rules and thresholds, as
reported; not re-verified. In which order they apply is not known; here images go first, and
documents are judged by what is left of them (our choice).
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pictures

from mm1_hf.data.documents import Document, Image, ImageSource, Segment, Text, open_image_file
from mm1_hf.data.rows import join_texts

# In the order in which they apply: an image or document counts under the first that it breaks.
IMAGE_RULES: Mapping[str, str] = {
    "url_words": "the URL holds a word such as logo or icon",
    "repeated_on_page": "the same image stood earlier in the document",
    "frequent_url": "the URL occurs too often in the corpus",
    "frequent_bytes": "the bytes occur too often in the corpus",
    "unreadable": "the bytes are missing or no picture",
    "side": "a side is too short or too long",
    "aspect_ratio": "the picture is too wide or too tall",
    "undecodable": "the pixels cannot be decoded, though the header can",
}
DOCUMENT_RULES: Mapping[str, str] = {
    "no_images": "no image is left",
    "too_many_images": "too many images are left",
}
RULES = (*IMAGE_RULES, *DOCUMENT_RULES)
_CORPUS_RULES = ("frequent_url", "frequent_bytes")
_CONTENT_RULES = ("unreadable", "frequent_bytes", "side", "aspect_ratio", "undecodable")

_COUNTS = np.dtype([("hash", np.uint64), ("count", np.int64)])


@dataclass(frozen=True, kw_only=True)
class CleaningLimits:
    """Thresholds of the rules; the defaults are the paper's.

    Attributes:
        most_images: Images that a document may have.
        shortest_side: Pixels.
        longest_side: Pixels.
        widest_aspect: Longer side divided by the shorter.
        most_occurrences: How often a URL or the same bytes may occur in the corpus.
        url_words: What the URL of a picture of a page's own furniture holds.
    """

    most_images: int = 30
    shortest_side: int = 100
    longest_side: int = 10_000
    widest_aspect: float = 2.0
    most_occurrences: int = 10
    url_words: tuple[str, ...] = ("logo", "button", "icon", "plugin", "widget")


class Cleaned(NamedTuple):
    """What cleaning made of a document.

    Attributes:
        document: The cleaned document, or None if it was dropped.
        dropped_images: Images dropped by each rule.
        rule: The rule that dropped the document, if one did.
    """

    document: Document | None
    dropped_images: Mapping[str, int]
    rule: str | None


@dataclass
class CleaningReport:
    """Counts of a cleaning, per source; reports of several processes add up.

    Attributes:
        documents: Documents seen, by source.
        kept_documents: Documents kept, by source.
        images: Images seen, by source.
        kept_images: Images in documents that were kept, by source.
        dropped_images: Images dropped, by (source, rule); images of a document that was dropped as
            a whole are not among them.
        dropped_documents: Documents dropped, by (source, rule).
    """

    documents: Counter[str] = field(default_factory=Counter)
    kept_documents: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    kept_images: Counter[str] = field(default_factory=Counter)
    dropped_images: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped_documents: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, document: Document, cleaned: Cleaned) -> None:
        """Count what became of a document."""
        source = document.source
        self.documents[source] += 1
        self.images[source] += len(document.images)
        for rule, number in cleaned.dropped_images.items():
            self.dropped_images[source, rule] += number
        if cleaned.rule is not None:
            self.dropped_documents[source, cleaned.rule] += 1
        if cleaned.document is not None:
            self.kept_documents[source] += 1
            self.kept_images[source] += len(cleaned.document.images)

    def __add__(self, other: "CleaningReport") -> "CleaningReport":
        return CleaningReport(**{n: getattr(self, n) + getattr(other, n) for n in vars(self)})

    def __str__(self) -> str:
        lines = []
        for source in sorted(self.documents):
            lines.append(
                f"{source}: kept {self.kept_documents[source]:,} of {self.documents[source]:,} "
                f"documents and {self.kept_images[source]:,} of {self.images[source]:,} images"
            )
            for thing, dropped in (
                ("images", self.dropped_images),
                ("documents", self.dropped_documents),
            ):
                lines += [
                    f"  {rule}: {dropped[source, rule]:,} {thing}"
                    for rule in RULES
                    if dropped[source, rule]
                ]
        return "\n".join(lines)


class ImageCounts:
    """How often each image URL and each image's bytes occur: the first of two passes.

    Counts of shards are made apart, kept in files, and merged. What is counted is named by 64 bits
    of its hash: among a billion images a wrong count is a matter of a few hundredths of one image.
    """

    def __init__(self) -> None:
        self._counted = {name: np.empty(0, _COUNTS) for name in ("urls", "contents")}
        self._waiting: dict[str, list[int]] = {name: [] for name in self._counted}

    def add(self, document: Document) -> None:
        """Count the images of a document; those without bytes at hand by their URL only."""
        for image in document.images:
            url = _url(image)
            if url is not None:
                self._waiting["urls"].append(_hash_text(url))
            content = _read(image)
            if content:
                self._waiting["contents"].append(_hash_content(content))
        if len(self._waiting["urls"]) + len(self._waiting["contents"]) > 1 << 20:
            self._settle()

    def merge(self, other: "ImageCounts") -> None:
        """Add the counts of other documents."""
        self._settle()
        other._settle()
        for name, mine in self._counted.items():
            theirs = other._counted[name]
            self._counted[name] = _sum_counts(
                np.concatenate([mine["hash"], theirs["hash"]]),
                np.concatenate([mine["count"], theirs["count"]]),
            )

    def save(self, path: str | Path) -> None:
        """Write the counts into a file that ends in `.npz`."""
        self._settle()
        np.savez(path, **self._counted)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: str | Path) -> "ImageCounts":
        """Read what `save` wrote."""
        counts = cls()
        with np.load(path, allow_pickle=False) as kept:
            counts._counted = {name: kept[name] for name in counts._counted}
        return counts

    def frequent(self, most_occurrences: int) -> dict[str, frozenset[int]]:
        """Hashes of `urls` and `contents` that occur more than `most_occurrences` times."""
        self._settle()
        return {
            name: frozenset(counted["hash"][counted["count"] > most_occurrences].tolist())
            for name, counted in self._counted.items()
        }

    def _settle(self) -> None:
        for name, waiting in self._waiting.items():
            counted = self._counted[name]
            hashes = np.array(waiting, np.uint64)
            self._counted[name] = _sum_counts(
                np.concatenate([counted["hash"], hashes]),
                np.concatenate([counted["count"], np.ones(len(hashes), np.int64)]),
            )
            waiting.clear()


class WebDocumentCleaner:
    """Drops images and documents that break rules; everything else keeps its place.

    Where an image between two texts goes, `separator` takes its place, unless white space is there
    already: two sentences must not become one word.

    Args:
        rules: Names of the rules to apply. By default all that can be: without `counts` those over
            the corpus are left out.
        limits: Thresholds.
        counts: Occurrences in the whole corpus, needed by `frequent_url` and `frequent_bytes`.
        separator: What stands where an image stood between two texts (our choice).

    Raises:
        ValueError: If a rule is unknown, or one over the corpus is asked for without `counts`.
    """

    def __init__(
        self,
        *,
        rules: Collection[str] | None = None,
        limits: CleaningLimits | None = None,
        counts: ImageCounts | None = None,
        separator: str = "\n\n",
    ):
        if rules is None:
            rules = [r for r in RULES if counts is not None or r not in _CORPUS_RULES]
        unknown = [rule for rule in rules if rule not in RULES]
        if unknown:
            raise ValueError(
                f"Unknown cleaning rules {', '.join(map(repr, unknown))}: expected names among "
                f"{', '.join(RULES)}."
            )
        needing = [rule for rule in rules if rule in _CORPUS_RULES]
        if needing and counts is None:
            raise ValueError(
                f"The rules {', '.join(needing)} need occurrences in the whole corpus. Pass "
                "counts=, an ImageCounts to which every document was added, or leave the rules out."
            )
        self.rules = tuple(rule for rule in RULES if rule in rules)
        self.limits = limits or CleaningLimits()
        counts = counts or ImageCounts()
        self._frequent = counts.frequent(self.limits.most_occurrences)
        self._separator = separator

    def clean(self, document: Document) -> Cleaned:
        """Apply the rules to one document.

        Raises:
            ValueError: If a rule needs the bytes of an image that is known by its URL only, or the
                document is a conversation, which is no web page.
        """
        if document.kind == "conversation":
            raise ValueError(
                f"Document {document.key!r} of source {document.source!r} is a conversation, but "
                "these rules are for web documents. Clean it otherwise."
            )
        seen: set[tuple[str, Any]] = set()
        dropped: Counter[str] = Counter()
        kept: list[Segment] = []
        is_gap = False
        for index, segment in enumerate(document.segments):
            if isinstance(segment, Text):
                kept.append(self._spaced(kept, segment) if is_gap else segment)
                is_gap = False
                continue
            name = f"image {index} of document {document.key!r} of source {document.source!r}"
            rule = self._broken_rule(segment.image, seen=seen, name=name)
            if rule is None:
                kept.append(segment)
                is_gap = False
            else:
                dropped[rule] += 1
                is_gap = True
        images = sum(isinstance(segment, Image) for segment in kept)
        broken = {
            "no_images": images == 0,
            "too_many_images": images > self.limits.most_images,
        }
        rule = next((rule for rule in self.rules if broken.get(rule)), None)
        if rule is not None:
            return Cleaned(None, dropped, rule)
        segments = join_texts(kept, separator="")
        cleaned = Document(
            segments=segments, key=document.key, source=document.source, kind=document.kind
        )
        return Cleaned(cleaned, dropped, None)

    def clean_all(
        self, documents: Iterable[Document], *, report: CleaningReport
    ) -> Iterator[Document]:
        """Yield what is left of each document that is kept, and count into `report`."""
        for document in documents:
            cleaned = self.clean(document)
            report.add(document, cleaned)
            if cleaned.document is not None:
                yield cleaned.document

    def _spaced(self, kept: list[Segment], text: Text) -> Text:
        before = kept[-1] if kept else None
        if not isinstance(before, Text) or before.text[-1:].isspace() or text.text[:1].isspace():
            return text
        return Text(self._separator + text.text)

    def _broken_rule(
        self, image: ImageSource, *, seen: set[tuple[str, Any]], name: str
    ) -> str | None:
        """The first rule that an image breaks; `seen` collects what stood on the page."""
        content = self._content(image, name)
        marks: set[tuple[str, Any]] = {("path", image["path"])} if image["path"] else set()
        if content:
            marks.add(("content", _hash_content(content)))
        is_repeated = not seen.isdisjoint(marks)
        seen |= marks
        broken = self._broken_rules(image, content, is_repeated=is_repeated)
        return next((rule for rule in broken if rule in self.rules), None)

    def _broken_rules(
        self, image: ImageSource, content: bytes | None, *, is_repeated: bool
    ) -> Iterator[str]:
        """Names of broken rules in their order; what is costly is looked at last."""
        url = _url(image)
        if url is not None and any(word in url.lower() for word in self.limits.url_words):
            yield "url_words"
        if is_repeated:
            yield "repeated_on_page"
        if url is not None and _hash_text(url) in self._frequent["urls"]:
            yield "frequent_url"
        if not set(self.rules).isdisjoint(_CONTENT_RULES):
            if content and _hash_content(content) in self._frequent["contents"]:
                yield "frequent_bytes"
            yield from _broken_picture_rules(
                content, self.limits, decode="undecodable" in self.rules
            )

    def _content(self, image: ImageSource, name: str) -> bytes | None:
        needed = [rule for rule in self.rules if rule in _CONTENT_RULES]
        if needed and image["bytes"] is None and _url(image) is not None:
            raise ValueError(
                f"The {name} is known by its URL {image['path']!r} only, but the rules "
                f"{', '.join(needed)} look at its bytes. Fetch the images first "
                "(img2dataset does), or leave these rules out."
            )
        return _read(image)


def _broken_picture_rules(
    content: bytes | None, limits: CleaningLimits, *, decode: bool
) -> Iterator[str]:
    with warnings.catch_warnings():
        # Pillow warns of odd files, and of large ones below what it refuses; rules judge both here.
        warnings.simplefilter("ignore")
        try:
            picture = Pictures.open(BytesIO(content or b""))
        except Pictures.DecompressionBombError:
            yield "side"  # more than 179 million pixels have a side above 13,000
            return
        except Exception:  # damaged headers raise whatever the format's reader stumbles over
            yield "unreadable"
            return
        shorter, longer = sorted(picture.size)
        if shorter < limits.shortest_side or longer > limits.longest_side:
            yield "side"
        if longer > limits.widest_aspect * shorter:
            yield "aspect_ratio"
        if decode:
            try:
                picture.load()
            except Exception:  # as above
                yield "undecodable"


def _url(image: ImageSource) -> str | None:
    path = image["path"]
    return path if path is not None and "://" in path else None


def _read(image: ImageSource) -> bytes | None:
    """Bytes that are held or lie on this machine; None where there are none."""
    if image["bytes"] is None and _url(image) is not None:
        return None
    try:
        with open_image_file(image) as file:
            return file.read()
    except OSError:
        return None


def _hash_text(text: str) -> int:
    return _hash_content(text.encode("utf-8", "surrogatepass"))


def _hash_content(content: bytes) -> int:
    """The first 64 bits of the MD5."""
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "little")


def _sum_counts(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """One entry per hash with the sum of its counts, sorted by hash."""
    order = np.argsort(hashes, kind="stable")
    hashes, counts = hashes[order], counts[order]
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]
    starts = np.flatnonzero(is_first)
    summed = np.empty(len(starts), _COUNTS)
    summed["hash"] = hashes[starts]
    summed["count"] = np.add.reduceat(counts, starts) if len(starts) else 0
    return summed
