"""Two arithmetic questions of packing: where a long document may be cut, and what shares a pack.

No arrays, no files: lists of integers in, lists of integers out.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

OverBudget = Literal["split", "truncate", "drop"]
OVER_BUDGET: tuple[str, ...] = get_args(OverBudget)

# Free slots and the number of a pack share one integer, so that one sorted list holds both.
_PACK_BITS = 24
_PACK_MASK = (1 << _PACK_BITS) - 1

# What an image counts when items are sorted: a pack's worth of images as this many packs' worth of
# tokens. Six is best for mixes of captions, web pages and text, none where images are no matter;
# measured, our choice.
_IMAGE_WEIGHTS = (6, 0)
_GOOD_ENOUGH = 1.008


class Fragment(NamedTuple):
    """Tokens of a document from `start` to `stop`, exclusive, and the images among them."""

    start: int
    stop: int
    images: int


class Cut(NamedTuple):
    """What becomes of a document over the budget."""

    fragments: list[Fragment]
    dropped_images: int


def cut_document(
    run_tokens: Sequence[int],
    run_is_image: Sequence[bool],
    *,
    sequence_length: int,
    max_images: int,
    over_budget: Literal["split", "truncate"],
) -> Cut:
    """Cut a document into fragments within the budgets, never inside an image.

    `"split"` cuts between runs and puts as many of them into a fragment as fit; a text longer than
    `sequence_length` fills the fragment it begins in and is cut at token positions. `"truncate"`
    keeps what fits from the beginning, the last text cut at a token position. An image that fits
    into no sequence is left out.

    >>> cut_document([144, 5000], [True, False], sequence_length=4096, max_images=16,
    ...              over_budget="split").fragments
    [Fragment(start=0, stop=4096, images=1), Fragment(start=4096, stop=5144, images=0)]

    Args:
        run_tokens: Tokens of the runs.
        run_is_image: Whether a run is an image.
        sequence_length: Tokens that a fragment may have.
        max_images: Images that a fragment may have.
        over_budget: What to do.
    """
    fragments: list[Fragment] = []
    start = position = images = dropped = 0

    def close(next_start: int) -> None:
        nonlocal start, images
        if position > start:
            fragments.append(Fragment(start, position, images))
        start, images = next_start, 0

    for tokens, is_image in zip(run_tokens, run_is_image, strict=True):
        if tokens == 0:
            continue
        if over_budget == "truncate" and fragments:
            break
        if is_image and (tokens > sequence_length or max_images < 1):
            close(position + tokens)
            position += tokens
            dropped += 1
            continue
        fits = position - start + tokens <= sequence_length
        may_cut = not is_image and (tokens > sequence_length or over_budget == "truncate")
        if fits and images + is_image <= max_images:
            pass
        elif may_cut:
            end = position + tokens
            while end - start > sequence_length:
                position = start + sequence_length
                close(position)
            tokens = end - position
        else:
            close(position)
        position += tokens
        images += is_image
    close(position)
    return Cut(fragments[:1] if over_budget == "truncate" else fragments, dropped)


def pack_window(
    tokens: Sequence[int], images: Sequence[int], *, sequence_length: int, max_images: int
) -> list[int]:
    """Put the items of one window into as few packs as a quick search finds.

    Best-fit decreasing, where "large" counts images too: a caption is short but takes an image, and
    if captions came last they would fill packs up with images long before the slots are used.
    Without the images' weight, 95 % of the slots of such a mix are useful; with it, 99 %.

    >>> pack_window([60, 30, 70, 40], [0, 0, 1, 0], sequence_length=100, max_images=1)
    [1, 0, 0, 1]

    Args:
        tokens: Tokens of each item, none above `sequence_length`.
        images: Images of each item, none above `max_images`.
        sequence_length: Tokens of a pack.
        max_images: Images of a pack.

    Returns:
        The pack of each item; packs are counted from 0.
    """
    least = -(-sum(tokens) // sequence_length)
    with_images = any(images)
    if with_images:
        least = max(least, -(-sum(images) // max_images))
    best: list[int] = []
    fewest = len(tokens) + 1
    for weight in _IMAGE_WEIGHTS if with_images else (0,):
        keys = [
            -(size * max_images + weight * count * sequence_length)
            for size, count in zip(tokens, images, strict=True)
        ]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        packs = best_fit(
            [tokens[item] for item in order],
            [images[item] for item in order],
            sequence_length=sequence_length,
            max_images=max_images,
        )
        if (found := max(packs) + 1) < fewest:
            fewest = found
            best = [0] * len(packs)
            for item, pack in zip(order, packs, strict=True):
                best[item] = pack
        if fewest <= least * _GOOD_ENOUGH:
            break
    return best


def best_fit(
    tokens: Sequence[int], images: Sequence[int], *, sequence_length: int, max_images: int
) -> list[int]:
    """Put items one after the other into the fullest pack that still has room.

    Args:
        tokens: Tokens of each item; the largest should come first.
        images: Images of each item.
        sequence_length: Tokens of a pack.
        max_images: Images of a pack.

    Returns:
        The pack of each item, in the order given; packs are counted from 0.
    """
    packs: list[int] = []
    images_left: list[int] = []
    # Packs that can take images, and packs that are full of them; each sorted by free slots. Kept
    # apart, because a search for an image must not pass all the packs that have no room for one.
    with_room: list[int] = []
    without_room: list[int] = []
    for size, count in zip(tokens, images, strict=True):
        wanted = size << _PACK_BITS
        place, at = with_room, bisect_left(with_room, wanted)
        if count:
            while at < len(place) and images_left[place[at] & _PACK_MASK] < count:
                at += 1
        else:
            other = bisect_left(without_room, wanted)
            if other < len(without_room) and (at == len(place) or without_room[other] < place[at]):
                place, at = without_room, other
        if at < len(place):
            entry = place.pop(at)
            pack = entry & _PACK_MASK
            free = (entry >> _PACK_BITS) - size
            images_left[pack] -= count
        else:
            pack = len(images_left)
            free = sequence_length - size
            images_left.append(max_images - count)
        packs.append(pack)
        if free:
            insort(with_room if images_left[pack] else without_room, free << _PACK_BITS | pack)
    return packs
