"""What the images of one sample become: tiles, markers around them, tokens, within a budget.

Pure integers and strings. Whether an image is cut can depend on the other images of its sample, and
a marker says which image of the sample a tile belongs to, so counts are made for samples. The
processor, the packer, the planner and serving engines all take theirs from `plan_sample`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from .tiling_mm1 import MAX_TILES, TilePlan, num_image_tokens, plan_tiles, require_name

Markers = Literal["none", "index", "separators"]

MARKERS: tuple[str, ...] = get_args(Markers)

# MM1.5 writes (k, i, j) before a tile: image k of the sample from 0, row i and column j from 1, and
# (k, 0, 0) before the overview. Here every number is one token of its own, so that the count is the
# same for every tokenizer. How MM1.5 tokenises them is not public; this form and this highest
# number are our choice. Source: MM1.5, arXiv 2409.20566, position indicators.
INDEX_TOKENS: tuple[str, ...] = tuple(f"<index_{number}>" for number in range(32))

# MM1.5's ":", "," and "<n>" as tokens that no text contains by chance.
OVERVIEW_TOKEN = "<overview>"
COLUMN_TOKEN = "<next_column>"
ROW_TOKEN = "<next_row>"

MARKER_TOKENS: dict[str, tuple[str, ...]] = {
    "none": (),
    "index": INDEX_TOKENS,
    "separators": (OVERVIEW_TOKEN, COLUMN_TOKEN, ROW_TOKEN),
}

# Dynamic splitting is for samples of fewer than three images.
# Source: MM1.5, arXiv 2409.20566, dynamic image splitting.
MAX_SPLIT_IMAGES = 2


class Lowered(NamedTuple):
    """An image that got fewer tiles than its settings ask for.

    Attributes:
        image: Which image of the sample, from 0.
        wanted: Tiles without a budget, the overview included.
        given: Tiles within the budget.
    """

    image: int
    wanted: int
    given: int


# Not a NamedTuple: `BatchFeature.to` takes every tuple apart.
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """What the images of one sample become, known without their pixels.

    Attributes:
        tiles: The tiles of each image.
        num_tiles: Number of tiles of each image, the overview included.
        num_tokens: Tokens of each image, markers included.
        lowered: The images that a budget took tiles from.
    """

    tiles: tuple[TilePlan, ...]
    num_tiles: tuple[int, ...]
    num_tokens: tuple[int, ...]
    lowered: tuple[Lowered, ...] = ()

    @property
    def max_tiles(self) -> tuple[int, ...]:
        """Tiles of each image's grid: as `max_tiles` of these images, they make this plan again."""
        return tuple(plan.grid_tiles for plan in self.tiles)


def plan_sample(
    image_sizes: Sequence[tuple[int, int]],
    *,
    tokens_per_tile: int,
    tile_height: int,
    tile_width: int,
    tiling: str = "none",
    markers: str = "none",
    max_tiles: int | Sequence[int] = MAX_TILES,
    max_split_images: int = MAX_SPLIT_IMAGES,
    max_image_tokens: int | None = None,
    name: str = "the sample",
    **tiling_settings: Any,
) -> SamplePlan:
    """Plan the images of one sample.

    If the images together take more than `max_image_tokens`, the largest grid becomes the next
    smaller one that fits its image, the first image going first among equals, until they fit:
    dynamic grids shrink to a single tile, static ones go from five to one. Tokens are never cut.

    >>> size = {"tile_height": 672, "tile_width": 672, "tokens_per_tile": 144}
    >>> plan = plan_sample([(480, 640), (1080, 1920)], tiling="dynamic", **size)
    >>> plan.num_tiles, plan.num_tokens
    ((5, 7), (720, 1008))
    >>> plan = plan_sample(
    ...     [(480, 640), (1080, 1920)], tiling="dynamic", max_image_tokens=1500, **size
    ... )
    >>> plan.num_tokens, plan.lowered
    ((720, 720), (Lowered(image=1, wanted=7, given=5),))

    Args:
        image_sizes: Upright (height, width) in pixels of each image.
        tokens_per_tile: Tokens that a tile becomes.
        tile_height: Height of a tile in pixels.
        tile_width: Width of a tile in pixels.
        tiling: One of `TILINGS`.
        markers: One of `MARKERS`; see `image_layout`.
        max_tiles: Most tiles of a grid, the overview not counted: one number, or one per image.
        max_split_images: With `"dynamic"` and one number as `max_tiles`, samples of more images
            than this leave them all whole. Who gives a number per image has decided already.
        max_image_tokens: Most tokens of all images together, markers included.
        name: What an error calls the sample.
        tiling_settings: Further settings of `plan_tiles`.

    Raises:
        ValueError: If an image cannot be planned, the budget is too small for one tile per image,
            or the markers cannot number the images; names the sample.
    """
    require_name("markers", markers, MARKERS)
    tiling_settings |= {"tile_height": tile_height, "tile_width": tile_width, "tiling": tiling}
    caps = _caps(max_tiles, len(image_sizes), tiling, max_split_images, name)

    counting = {"tokens_per_tile": tokens_per_tile, "markers": markers, "name": name}

    def plan(image: int, cap: int) -> tuple[TilePlan, int]:
        height, width = image_sizes[image]
        try:
            tiles = plan_tiles(height, width, max_tiles=cap, **tiling_settings)
        except ValueError as error:
            raise ValueError(f"{name[:1].upper()}{name[1:]}, image {image}: {error}") from None
        return tiles, count_image_tokens(tiles, image=image, **counting)

    wanted = [plan(image, cap) for image, cap in enumerate(caps)]
    given = list(wanted)
    total = sum(tokens for _, tokens in given)
    if max_image_tokens is not None and total > max_image_tokens:
        _require_possible(len(given), tokens_per_tile, total, max_image_tokens, name)
        while sum(tokens for _, tokens in given) > max_image_tokens:
            largest = max(range(len(given)), key=lambda n: (given[n][0].grid_tiles, -n))
            given[largest] = plan(largest, given[largest][0].grid_tiles - 1)
    num_tiles = [
        (before.num_tiles, after.num_tiles)
        for (before, _), (after, _) in zip(wanted, given, strict=True)
    ]
    return SamplePlan(
        tiles=tuple(tiles for tiles, _ in given),
        num_tiles=tuple(after for _, after in num_tiles),
        num_tokens=tuple(tokens for _, tokens in given),
        lowered=tuple(Lowered(n, *pair) for n, pair in enumerate(num_tiles) if len({*pair}) > 1),
    )


def image_layout(
    plan: TilePlan, *, image: int = 0, markers: str = "none", name: str = "the sample"
) -> tuple[str | None, ...]:
    """The tiles and marker tokens of one image in reading order; a tile is `None`.

    - `"none"`: tiles only.
    - `"index"`: before each tile the number of its image in the sample from 0, its row and its
      column from 1, a token each; before the overview the image's number and two zeros.
    - `"separators"`: `<overview>` before the overview, `<next_column>` between the tiles of a row,
      `<next_row>` between rows.

    An image of one tile has no markers: there is nothing to tell apart (our choice).

    >>> plan = plan_tiles(10, 30, tile_height=10, tile_width=10, tiling="dynamic", min_tiles=3)
    >>> image_layout(plan, markers="separators")
    (None, '<next_column>', None, '<next_column>', None, '<overview>', None)
    >>> image_layout(plan, image=7, markers="index")[-4:]
    ('<index_7>', '<index_0>', '<index_0>', None)

    Raises:
        ValueError: If a number is too large for the index tokens; names the sample.
    """
    require_name("markers", markers, MARKERS)
    if markers == "none" or plan.num_tiles == 1:
        return (None,) * plan.num_tiles
    grid: list[str | None] = []
    overview: list[str | None] = []
    if markers == "index":
        numbers = {
            "its number in the sample": image,
            "its rows": plan.rows,
            "its columns": plan.cols,
        }
        for meaning, number in numbers.items():
            if number >= len(INDEX_TOKENS):
                raise ValueError(
                    f"{name[:1].upper()}{name[1:]}, image {image}: {meaning} is {number}, but "
                    f"markers='index' has numbers up to {len(INDEX_TOKENS) - 1}. Use fewer images "
                    "per sample, a smaller max_tiles, or markers='separators'."
                )
        for row in range(1, plan.rows + 1):
            for col in range(1, plan.cols + 1):
                grid += [INDEX_TOKENS[image], INDEX_TOKENS[row], INDEX_TOKENS[col], None]
        overview = [INDEX_TOKENS[image], INDEX_TOKENS[0], INDEX_TOKENS[0], None]
    else:
        for row in range(plan.rows):
            for col in range(plan.cols):
                between = COLUMN_TOKEN if col else ROW_TOKEN
                grid += [None] if row == col == 0 else [between, None]
        overview = [OVERVIEW_TOKEN, None]
    if plan.overview is None:
        return tuple(grid)
    return tuple(overview + grid if plan.overview_place == "first" else grid + overview)


def count_image_tokens(
    plan: TilePlan,
    *,
    tokens_per_tile: int,
    image: int = 0,
    markers: str = "none",
    name: str = "the sample",
) -> int:
    """Sequence positions that an image takes, markers included.

    >>> plan = plan_tiles(1344, 1344, tile_height=672, tile_width=672, tiling="static")
    >>> tuple(count_image_tokens(plan, tokens_per_tile=144, markers=kind) for kind in MARKERS)
    (720, 735, 724)
    """
    layout = image_layout(plan, image=image, markers=markers, name=name)
    return len(layout) - plan.num_tiles + num_image_tokens(plan.num_tiles, tokens_per_tile)


def image_text(
    plan: TilePlan,
    *,
    image_token: str,
    tokens_per_tile: int,
    image: int = 0,
    markers: str = "none",
    name: str = "the sample",
) -> str:
    """The text of an image: its placeholders and its markers.

    >>> plan = plan_tiles(10, 20, tile_height=10, tile_width=10, tiling="dynamic", min_tiles=2)
    >>> image_text(plan, image_token="#", tokens_per_tile=2, markers="separators")
    '##<next_column>##<overview>##'
    """
    tile = image_token * num_image_tokens(1, tokens_per_tile)
    layout = image_layout(plan, image=image, markers=markers, name=name)
    return "".join(tile if piece is None else piece for piece in layout)


def _caps(
    max_tiles: int | Sequence[int], num_images: int, tiling: str, max_split_images: int, name: str
) -> list[int]:
    if isinstance(max_tiles, Sequence):
        if len(max_tiles) != num_images:
            raise ValueError(
                f"{name[:1].upper()}{name[1:]}: max_tiles gives {len(max_tiles)} numbers for "
                f"{num_images} images. Give one number, or one per image."
            )
        return list(max_tiles)
    is_whole = tiling == "dynamic" and num_images > max_split_images
    return [1 if is_whole else max_tiles] * num_images


def _require_possible(
    num_images: int, tokens_per_tile: int, found: int, max_image_tokens: int, name: str
) -> None:
    fewest = num_image_tokens(num_images, tokens_per_tile)
    if fewest > max_image_tokens:
        raise ValueError(
            f"{name[:1].upper()}{name[1:]}: its {num_images} images take {found} tokens, and at "
            f"least {fewest} as one tile each, but max_image_tokens is {max_image_tokens}. Use "
            "fewer images or raise the budget: images are never cut."
        )
