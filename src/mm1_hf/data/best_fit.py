"""Two arithmetic questions of packing: where a long document may be cut, and what shares a pack.

Packing has two budgets, tokens and images. Where images are no matter, the largest item goes into
the fullest pack first (`best_fit`); where both run short, packs are filled one after the other so
that both run out together (`paced_fit`).

No arrays, no files: lists of integers in, lists of integers out.
"""

from bisect import bisect_left, bisect_right, insort
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

# Where images need between 0.7 and 2 times the packs that tokens need, both budgets decide; a
# window of captions and pages then takes about 1 % more packs than any packing must. Measured, our
# choice.
_BOTH_SCARCE = (0.7, 2.0)
_GOOD_ENOUGH_IF_SCARCE = 1.02
# Items looked at for one that fits, so that large windows stay affordable. Our choice.
_LOOKED_AT = 64


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
    `sequence_length` fills the fragment it begins in and is cut at token positions. Images stay
    with the text behind them, which is cut if it does not fit: a fragment that ends before it would
    have nothing to predict. `"truncate"` keeps what fits from the beginning, the last text cut at a
    token position. An image that fits into no sequence is left out.

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
    runs = [run for run in zip(run_tokens, run_is_image, strict=True) if run[0]]
    cut = _split if over_budget == "split" else _truncate
    return cut(runs, sequence_length, max_images)


def cut_text(tokens: int, *, room: int, sequence_length: int) -> list[int]:
    """Tokens of the parts of a text, of which the first has `room` and the others a whole fragment.

    A short last part gets half of the part before it: a token alone has nothing to be predicted
    from, and a few tokens hardly more.

    >>> cut_text(9000, room=1000, sequence_length=4096), cut_text(4097, room=4096,
    ...          sequence_length=4096)
    ([1000, 4096, 3904], [2048, 2049])
    """
    sizes = [min(room, tokens)] if room else []
    left = tokens - sum(sizes)
    sizes += [min(sequence_length, left - at) for at in range(0, left, sequence_length)]
    # An eighth is our choice.
    if len(sizes) > 1 and sizes[-1] < min(max(2, sequence_length // 8), sizes[-2]):
        both = sizes[-2] + sizes[-1]
        sizes[-2:] = [both // 2, both - both // 2]
    return sizes


def _split(runs: list[tuple[int, bool]], sequence_length: int, max_images: int) -> Cut:
    fragments: list[Fragment] = []
    start = position = images = dropped = 0
    # Behind the last text of the fragment; its images so far.
    text_end, images_then = 0, 0

    def close(stop: int, next_start: int, images_inside: int) -> None:
        nonlocal start, images
        if stop > start:
            fragments.append(Fragment(start, stop, images_inside))
        start, images = next_start, images - images_inside

    for tokens, is_image in runs:
        if is_image and (tokens > sequence_length or max_images < 1):
            close(position, position + tokens, images)
            position += tokens
            dropped += 1
            continue
        room = sequence_length - (position - start)
        if is_image:
            if tokens > room or images == max_images:
                close(position, position, images)
            position += tokens
            images += 1
            continue
        # The first token of a fragment is no target.
        has_target = text_end > start + 1
        if tokens > room and has_target and text_end < position and tokens <= sequence_length:
            close(text_end, text_end, images_then)
            room, has_target = sequence_length - (position - start), False
        if tokens > room and has_target and tokens <= sequence_length:
            close(position, position, images)
        elif tokens > room:
            *parts, tokens = cut_text(tokens, room=room, sequence_length=sequence_length)
            for part in [0, *parts] if room == 0 else parts:
                position += part
                close(position, position, images)
        position += tokens
        text_end, images_then = position, images
    close(position, position, images)
    return Cut(fragments, dropped)


def _truncate(runs: list[tuple[int, bool]], sequence_length: int, max_images: int) -> Cut:
    start = position = images = dropped = 0
    for tokens, is_image in runs:
        if is_image and (tokens > sequence_length or max_images < 1):
            dropped += 1
            if position > start:
                break
            start = position = position + tokens
            continue
        room = sequence_length - (position - start)
        if is_image and (tokens > room or images == max_images):
            break
        position += min(tokens, room)
        images += is_image
        if tokens > room:
            break
    whole = Fragment(start, position, images)
    return Cut([whole] if position > start else [], dropped)


def pack_window(
    tokens: Sequence[int], images: Sequence[int], *, sequence_length: int, max_images: int
) -> list[int]:
    """Put the items of one window into as few packs as a quick search finds.

    Best-fit decreasing, where "large" counts images too: a caption is short but takes an image, and
    if captions came last they would fill packs up with images long before the slots are used.
    Without the images' weight, 95 % of the slots of such a mix are useful; with it, 99 %. Where the
    items need about as large a share of the images as of the tokens, `paced_fit` comes first.

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
    budgets = {"sequence_length": sequence_length, "max_images": max_images}
    num_images = sum(images)
    least, enough = -(-sum(tokens) // sequence_length), _GOOD_ENOUGH
    best: list[int] = []
    fewest = len(tokens) + 1
    by_tokens, by_images = sum(tokens) * max_images, num_images * sequence_length
    if _BOTH_SCARCE[0] * by_tokens < by_images < _BOTH_SCARCE[1] * by_tokens:
        least, enough = fewest_packs(tokens, images, **budgets), _GOOD_ENOUGH_IF_SCARCE
        best = paced_fit(tokens, images, **budgets)
        fewest = max(best) + 1
    for weight in _IMAGE_WEIGHTS if num_images else (0,):
        if best and fewest <= least * enough:
            break
        keys = [
            -(size * max_images + weight * count * sequence_length)
            for size, count in zip(tokens, images, strict=True)
        ]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        packs = best_fit(
            [tokens[item] for item in order], [images[item] for item in order], **budgets
        )
        if (found := max(packs) + 1) < fewest:
            fewest = found
            best = [0] * len(packs)
            for item, pack in zip(order, packs, strict=True):
                best[item] = pack
    return best


def fewest_packs(
    tokens: Sequence[int], images: Sequence[int], *, sequence_length: int, max_images: int
) -> int:
    """Packs that items need at least, however they are packed; arguments as `pack_window`.

    The larger of two sums. Tokens: of the whole budget. Images: an item of more than half the
    tokens has a pack of its own, in which the tokens that are left bound the images that can join
    it; all others bring their own images. Both are solutions of the dual of the linear program over
    all possible packs, which no packing can undercut.
    """
    by_tokens = -(-sum(tokens) // sequence_length)
    pairs = zip(tokens, images, strict=True)
    with_images = [(size, count) for size, count in pairs if count]
    if not with_images:
        return by_tokens
    # Tokens that come with an image, at the least.
    size_of_one, count_of_one = min(with_images, key=lambda pair: pair[0] / pair[1])
    used = sum(images)
    for size, count in zip(tokens, images, strict=True):
        if 2 * size > sequence_length:
            joining = -(-(sequence_length - size) * count_of_one // size_of_one)
            used += max(0, max_images - count - joining)
    return max(by_tokens, -(-used // max_images))


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


def paced_fit(
    tokens: Sequence[int], images: Sequence[int], *, sequence_length: int, max_images: int
) -> list[int]:
    """Fill one pack after the other so that tokens and images run out together.

    A pack begins with long items, until the images that it has left are few enough for short items
    of one image, such as captions, to use up both budgets. These follow in almost equal parts of
    what is left, which leaves next to no slot over: among hundreds of captions there is one of
    about any length. What is left then goes to the longest of the other items that fits. Arguments
    and result as `pack_window`.

    >>> paced_fit([60, 30, 30, 40, 40], [0, 1, 1, 1, 1], sequence_length=100, max_images=2)
    [0, 2, 1, 1, 0]
    """
    stock = _Stock(tokens, images)
    packs = [0] * len(tokens)
    number = 0
    while stock.short or stock.long:
        free, room = sequence_length, max_images
        found = stock.take_balancing(free, room)
        for item in found:
            free -= tokens[item]
            room -= images[item]
        for item in stock.take_short(free, room):
            found.append(item)
            free -= tokens[item]
            room -= 1
        while (item := stock.take_longest(free, room)) is not None:
            found.append(item)
            free -= tokens[item]
            room -= images[item]
        for item in found:
            packs[item] = number
        number += 1
    return packs


class _Stock:
    """Items that are in no pack yet.

    Attributes:
        short: Items of one image and few tokens, sorted by tokens.
        long: All others, sorted by their surplus: the tokens beyond those that as many images bring
            in short items. Counted in units of 1 / (number of short items), to stay whole numbers.
    """

    def __init__(self, tokens: Sequence[int], images: Sequence[int]):
        self.tokens, self.images = tokens, images
        single = sorted(size for size, count in zip(tokens, images, strict=True) if count == 1)
        # Twice the typical caption: what is longer cannot fill a gap exactly. Our choice.
        limit = 2 * single[len(single) // 2] if single else 0
        short: list[int] = []
        long: list[int] = []
        for item, (size, count) in enumerate(zip(tokens, images, strict=True)):
            (short if count == 1 and size <= limit else long).append(item)
        self.short = sorted(tokens[item] << _PACK_BITS | item for item in short)
        self._short_tokens = rate = sum(tokens[item] for item in short)
        unit = max(1, len(short))
        self.long = sorted(
            (tokens[item] * unit - images[item] * rate) << _PACK_BITS | item for item in long
        )
        self._unit = unit
        self._surplus = sum(entry >> _PACK_BITS for entry in self.long)
        self._tokens_left, self._images_left = sum(tokens), sum(images)

    def take_balancing(self, free: int, room: int) -> list[int]:
        """Long items for an empty pack: the largest surplus, then up to the pack's share of all."""
        # 2 % less, because what is left of the long items fills gaps better than short ones do.
        surplus = self._surplus * 49 // 50
        share = surplus * free // max(1, self._tokens_left)
        if self._images_left:
            share = min(share, surplus * room // self._images_left)
        found: list[int] = []
        at = len(self.long) - 1
        while (place := self._fitting(at, free, room)) is not None:
            item, surplus = self._take(place)
            found.append(item)
            free -= self.tokens[item]
            room -= self.images[item]
            share -= surplus
            if share <= 0:
                break
            at = min(bisect_left(self.long, share << _PACK_BITS), len(self.long) - 1)
        return found

    def take_short(self, free: int, room: int) -> list[int]:
        """Short items for the rest of a pack, one after the other of the size that comes out even.

        As many as there is room for images, unless the tokens do not allow so many.
        """
        short, found = self.short, []
        while short and room:
            shortest = short[0] >> _PACK_BITS
            if shortest > free:
                break
            # A fifth and one more than the typical ones that fit, so that images are used up where
            # there are few in the pack so far; those packs get the shortest captions. Measured.
            wanted = free * len(short) * 6 // (5 * self._short_tokens) + 1
            count = min(wanted, room, free // shortest)
            entry = short.pop(bisect_right(short, (free // count) << _PACK_BITS | _PACK_MASK) - 1)
            size = entry >> _PACK_BITS
            found.append(entry & _PACK_MASK)
            free -= size
            room -= 1
            self._short_tokens -= size
            self._tokens_left -= size
            self._images_left -= 1
        return found

    def take_longest(self, free: int, room: int) -> int | None:
        """The long item with most tokens that fits, of those looked at."""
        most = (free * self._unit) << _PACK_BITS | _PACK_MASK
        at = bisect_right(self.long, most) - 1
        best, size_of_best = None, 0
        for place in range(at, max(-1, at - _LOOKED_AT), -1):
            item = self.long[place] & _PACK_MASK
            if size_of_best < self.tokens[item] <= free and self.images[item] <= room:
                best, size_of_best = place, self.tokens[item]
        return None if best is None else self._take(best)[0]

    def _fitting(self, at: int, free: int, room: int) -> int | None:
        """Place of the item with the largest surplus that fits, from place `at` downwards."""
        for place in range(at, max(-1, at - _LOOKED_AT), -1):
            item = self.long[place] & _PACK_MASK
            if self.tokens[item] <= free and self.images[item] <= room:
                return place
        return None

    def _take(self, place: int) -> tuple[int, int]:
        """An item and its surplus."""
        entry = self.long.pop(place)
        item, surplus = entry & _PACK_MASK, entry >> _PACK_BITS
        self._surplus -= surplus
        self._tokens_left -= self.tokens[item]
        self._images_left -= self.images[item]
        return item, surplus
