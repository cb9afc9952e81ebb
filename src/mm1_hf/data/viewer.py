"""Packs as one static page: what a model is given, to be looked at before a run and after a doubt.

The page is made from what the dataset gives to training, not from the documents: a wrong tile,
label or boundary shows. It holds no script, loads nothing, and forbids both to the browser, so that
text of the web stays text.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image as PILImage

from mm1_hf.data.collators import IGNORED
from mm1_hf.data.dataset import PackedDataset, PackItem
from mm1_hf.data.html_page import html_page, html_picture, html_text
from mm1_hf.data.pack_plan import Pack, PackPlan, Piece
from mm1_hf.data.viewer_style import STYLE

if TYPE_CHECKING:
    from mm1_hf.model.processing_mm1 import MM1Processor

_LEGEND = """<ul class="legend">
<li><i class="key loss"></i><mark>text with loss</mark>: the model has to predict it</li>
<li><i class="key free"></i><span class="free">text without loss</span></li>
<li><i class="key image"></i>image tokens; every image is shown with its tiles</li>
<li><i class="key unused"></i>unused slots</li>
<li><span class="chip">⟨s⟩</span> special token, underlined if it carries loss</li>
</ul>"""

RunKind = Literal["text", "special", "image", "marker"]


_IMAGE_KINDS: tuple[RunKind, ...] = ("image", "marker")


class Run(NamedTuple):
    """Neighbouring tokens of a document that are shown alike.

    Attributes:
        kind: Text, one special token (perhaps repeated), placeholders of images, or one marker
            beside them (perhaps repeated).
        loss: Whether they are predicted.
        start: Position of the first one.
        stop: Position behind the last one.
        text: What they decode to; of a special token its name, once. Empty if no character ends
            in this run.
    """

    kind: RunKind
    loss: bool
    start: int
    stop: int
    text: str


class _Document(NamedTuple):
    """One document, or piece of one, in a pack; its runs count from its `start`."""

    source: str
    key: str
    origin: Piece | None
    start: int
    runs: list[Run]

    def tokens_of(self, kind: RunKind) -> int:
        """Tokens of a kind."""
        return sum(run.stop - run.start for run in self.runs if run.kind == kind)


class PackView(NamedTuple):
    """One pack as it is trained on, as it was planned, and what was left out of it."""

    number: int
    item: PackItem
    planned: Pack
    skipped: list[dict[str, Any]]


def render_page(dataset: PackedDataset, packs: Iterable[int], *, title: str = "Packs") -> str:
    """A page of HTML with some packs of a dataset: text, tiles, boundaries, loss and budgets.

    Args:
        dataset: The packs. Under the error policy `"skip"`, what was left out is listed.
        packs: Indices of the packs to show.
        title: Title of the page.

    Raises:
        IndexError: If there is no such pack.
        ValueError: If placeholders and tiles of a pack disagree.
    """
    indices = [range(len(dataset))[index] for index in packs]
    items = [dataset[index] for index in indices]
    records = dataset.errors.records()
    views = [
        PackView(index, item, dataset.plan[index], [r for r in records if r["place"][0] == index])
        for index, item in zip(indices, items, strict=True)
    ]
    parts = [_render_pack(view, dataset.plan, dataset.processor) for view in views]
    return html_page(title, [_LEGEND, _render_sources(dataset.plan), *parts], style=STYLE)


def read_runs(
    input_ids: np.ndarray, labels: np.ndarray, processor: "MM1Processor"
) -> Iterator[Run]:
    """Split the tokens of a document, or of a piece of one, into runs.

    Args:
        input_ids: Shape (L,).
        labels: Shape (L,), not shifted.
        processor: Knows the special tokens and decodes.
    """
    tokenizer, image = processor.tokenizer, processor.image_token_id
    markers = {*processor.image_token_ids} - {image}
    added = tokenizer.added_tokens_decoder.items()
    special = {image, *markers, *tokenizer.all_special_ids}
    special |= {number for number, token in added if token.special}
    loss = labels != IGNORED
    names = np.where(np.isin(input_ids, list(special)), input_ids, -1)
    changes = np.flatnonzero((np.diff(names) != 0) | (loss[1:] != loss[:-1])) + 1
    edges = [0, *changes.tolist(), len(input_ids)] if len(input_ids) else []
    # Decoded behind a token that is always written: many decoders drop a space at the beginning.
    anchor = _decode(tokenizer, [image])
    stretch, shown = 0, 0
    for start, stop in pairwise(edges):
        kind: RunKind = "text"
        if names[start] >= 0:
            kind = "marker" if int(names[start]) in markers else "special"
            kind = "image" if names[start] == image else kind
            text = "" if kind == "image" else _decode(tokenizer, [int(names[start])])
            stretch, shown = stop, 0
        else:
            # Together with the runs before: a character may begin in one and end in the next.
            so_far = _decode(tokenizer, [image, *input_ids[stretch:stop].tolist()])[len(anchor) :]
            if stop < len(input_ids) and names[stop] < 0:
                so_far = so_far.rstrip("\ufffd")
            text, shown = so_far[shown:], len(so_far)
        yield Run(kind, bool(loss[start]), start, stop, text)


def tile_pictures(pixel_values: np.ndarray, image_processor: Any) -> list[str]:
    """The tiles of a pack as data URIs.

    Args:
        pixel_values: Shape (N, 3, height, width): uint8, or floats as `image_processor` makes them,
            whose normalisation is undone.
        image_processor: Has the mean, standard deviation and scale.
    """
    tiles = pixel_values
    if tiles.dtype != np.uint8:
        tiles = tiles.astype(np.float64)
        if image_processor.do_normalize:
            mean, std = (
                np.asarray(values).reshape(3, 1, 1)
                for values in (image_processor.image_mean, image_processor.image_std)
            )
            tiles = tiles * std + mean
        if image_processor.do_rescale:
            tiles = tiles / image_processor.rescale_factor
        tiles = tiles.round().clip(0, 255).astype(np.uint8)
    return [html_picture(PILImage.fromarray(tile)) for tile in tiles.transpose(0, 2, 3, 1)]


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _render_pack(view: PackView, plan: PackPlan, processor: "MM1Processor") -> str:
    item = view.item
    documents = _documents(view, processor)
    tiles = tile_pictures(item["pixel_values"], processor.image_processor)
    per_tile = processor.num_image_tokens
    placeholders = sum(document.tokens_of("image") for document in documents)
    markers = sum(document.tokens_of("marker") for document in documents)
    if placeholders != len(tiles) * per_tile or item["tiles_per_image"].sum() != len(tiles):
        raise ValueError(
            f"Pack {view.number} has {placeholders} image placeholders and {len(tiles)} tiles, "
            f"{item['tiles_per_image'].sum()} of them in images, but {per_tile} placeholders per "
            "tile and all tiles in images are expected. View it with the processor it was made "
            "with."
        )
    size, budget = len(item["input_ids"]), plan.sequence_length
    num_loss = int((item["labels"] != IGNORED).sum())
    facts = [
        f"<b>{size:,}</b> of {budget:,} tokens ({size / budget:.1%})",
        f"<b>{view.planned.images}</b> of {plan.max_images} images planned",
        _number(len(tiles), "tile"),
        _number(placeholders, "image token"),
        *([_number(markers, "marker")] if markers else []),
        f"{_number(num_loss, 'token')} with loss",
        _number(budget - size, "unused slot"),
    ]
    left = iter(tiles)
    images = iter([list(islice(left, count)) for count in item["tiles_per_image"]])
    cards = [_render_document(document, images, per_tile) for document in documents]
    if not documents:
        cards = ['<p class="note">Nothing is left of this pack.</p>']
    return "\n".join(
        [
            f'<section id="pack-{view.number}">',
            f"<h2>Pack {view.number}</h2>",
            f'<p class="facts">{" · ".join(facts)}</p>',
            _render_strip(documents, size, budget),
            _render_skipped(view),
            *cards,
            "</section>",
        ]
    )


def _documents(view: PackView, processor: "MM1Processor") -> list[_Document]:
    item = view.item
    starts = np.flatnonzero(item["position_ids"] == 0).tolist()
    spans = pairwise([*starts, len(item["input_ids"])])
    rows = zip(spans, item["sources"], item["document_keys"], _origins(view), strict=True)
    return [
        _Document(
            *(source, key, origin, start),
            list(read_runs(item["input_ids"][start:stop], item["labels"][start:stop], processor)),
        )
        for (start, stop), source, key, origin in rows
    ]


def _origins(view: PackView) -> list[Piece | None]:
    """Where the documents come from, as planned, as far as what was skipped lets it be told."""
    lost = {record["place"][1] for record in view.skipped if record["place"][2] < 0}
    kept = [piece for number, piece in enumerate(view.planned.pieces) if number not in lost]
    documents = len(view.item["document_keys"])
    return [*kept] if len(kept) == documents else [None] * documents


def _render_strip(documents: Sequence[_Document], size: int, budget: int) -> str:
    """The pack at a glance: slots from left to right, a line where a document begins."""
    bars = "".join(
        f'<rect class="{_colour(run)}" x="{document.start + run.start}" '
        f'width="{run.stop - run.start}" height="1"/>'
        for document in documents
        for run in document.runs
    )
    lines = "".join(f"M{document.start} 0V1" for document in documents[1:])
    return (
        f'<svg class="strip" viewBox="0 0 {budget} 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{size} of {budget} slots used by {len(documents)} documents">{bars}'
        f'<path d="{lines}"/></svg>'
    )


def _colour(run: Run) -> str:
    if run.kind in _IMAGE_KINDS:
        return "image"
    return "loss" if run.loss else "free"


def _render_document(document: _Document, images: Iterator[list[str]], per_tile: int) -> str:
    stop = document.start + document.runs[-1].stop
    with_loss = sum(run.stop - run.start for run in document.runs if run.loss)
    num_tiles = document.tokens_of("image") // per_tile
    facts = [
        f"slots {document.start:,} to {stop:,}",
        _number(stop - document.start, "token"),
        f"{with_loss:,} with loss",
        _number(num_tiles, "tile"),
    ]
    if (origin := document.origin) is not None:
        facts.append(f"document {origin.document:,} of its source, from its token {origin.start:,}")
    return "\n".join(
        [
            f'<article><header><h3><span class="source">{html_text(document.source)}</span> '
            f"<code>{html_text(document.key)}</code></h3>"
            f'<p class="facts">{" · ".join(facts)}</p></header>',
            *_render_runs(document.runs, images, per_tile),
            "</article>",
        ]
    )


def _render_runs(runs: Iterable[Run], images: Iterator[list[str]], per_tile: int) -> Iterator[str]:
    """Runs of a document; takes its images, as lists of tiles, from those of the pack."""
    number = 0
    for is_image, group in groupby(runs, key=lambda run: run.kind in _IMAGE_KINDS):
        if is_image:
            parts = _split_tiles(group, per_tile)
            for part in parts:
                tiles = next(images)
                number += 1
                # An image ends with its last tile: a marker behind it belongs to the next image.
                left = len(tiles) - (part is None)
                own = [part]
                while left > 0:
                    own.append(next(parts))
                    left -= own[-1] is None
                yield _render_image(own, tiles, number, per_tile)
        else:
            # dir: the text's own direction, as its first letter says.
            yield f'<p class="text" dir="auto">{"".join(map(_render_text, group))}</p>'


def _split_tiles(runs: Iterable[Run], per_tile: int) -> Iterator[Run | None]:
    """Runs of images as single tiles (`None`) and the markers between them."""
    for run in runs:
        if run.kind == "marker":
            yield run
        else:
            yield from [None] * ((run.stop - run.start) // per_tile)


def _render_image(
    parts: Sequence[Run | None], tiles: Sequence[str], number: int, per_tile: int
) -> str:
    """An image: its tiles (`None` in `parts`) and, in between, its markers."""
    name = f"image {number}"
    figures = (
        f'<img src="{picture}" tabindex="0" alt="tile {nth} of {len(tiles)} of {name}">'
        for nth, picture in enumerate(tiles, start=1)
    )
    shown = "".join(next(figures) if part is None else _render_text(part) for part in parts)
    tokens = _number(len(tiles) * per_tile, "image token")
    num_markers = sum(part.stop - part.start for part in parts if part is not None)
    markers = f" and {_number(num_markers, 'marker')}" if num_markers else ""
    return (
        f'<figure><div class="tiles">{shown}</div><figcaption>{name}: '
        f"{_number(len(tiles), 'tile')}, ⟨{tokens}{markers}⟩</figcaption></figure>"
    )


def _render_text(run: Run) -> str:
    tag = "mark" if run.loss else "span"
    if run.kind in ("special", "marker"):
        count = run.stop - run.start
        times = f" ×{count}" if count > 1 else ""
        return f'<{tag} class="chip" dir="ltr">{html_text(run.text)}{times}</{tag}>'
    if not run.text:
        return f'<{tag} class="chip" dir="ltr">⟨part of a character⟩</{tag}>'
    return f'<{tag} class="{_colour(run)}">{html_text(run.text)}</{tag}>'


def _render_skipped(view: PackView) -> str:
    if not view.skipped:
        return ""
    entries = []
    for record in view.skipped:
        image = record["place"][2]
        what = f"image {image} of document" if image >= 0 else "document"
        named = f"<code>{html_text(record['key'])}</code> of {html_text(record['source'])}"
        why = f"{html_text(record['reason'])}: {html_text(record['message'])}"
        entries.append(f"<li>{what} {named}, {why}</li>")
    return f'<div class="note"><b>Left out</b><ul>{"".join(entries)}</ul></div>'


def _render_sources(plan: PackPlan) -> str:
    """What the whole plan takes from every source."""
    counts = ("documents", "sequences", "tokens", "images")
    rows = []
    for name, entry in plan.report.items():
        cells = "".join(f"<td>{getattr(entry, count):,}</td>" for count in counts)
        share = f"<td>{plan.shares('tokens')[name]:.1%}</td>"
        rows.append(f'<tr><th scope="row">{html_text(name)}</th>{cells}{share}</tr>')
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("source", *counts, "of tokens"))
    caption = f"The plan: {_number(len(plan), 'pack')}, {plan.efficiency:.1%} of all slots used"
    return (
        f'<div class="wide"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
