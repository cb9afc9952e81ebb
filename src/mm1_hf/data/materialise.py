"""The planned pieces of a pack become token ids, labels, positions and pixels.

Everything here is a pure function of the documents, the processor and the plan. What cannot be used
is reported to the caller, who decides; an image that is left out takes its placeholders with it.

Letters: L tokens of a piece with all placeholders, I images and N tiles of a pack.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from mm1_hf.data.collators import IGNORED
from mm1_hf.data.documents import Document, ImageSource, open_image_file
from mm1_hf.data.encoding import EncodedDocument, encode_many, expand, make_image_ids
from mm1_hf.data.errors import BadData, Reason
from mm1_hf.data.lengths import DocumentRuns
from mm1_hf.model.decoding_mm1 import ImageError

if TYPE_CHECKING:
    from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor
    from mm1_hf.model.processing_mm1 import MM1Processor
    from mm1_hf.model.tiling_mm1 import TilePlan

Pixels = Literal["uint8", "float"]

PIXELS: tuple[str, ...] = get_args(Pixels)

# Larger files are not read at all. Our choice: ten times a camera's raw picture.
MAX_FILE_BYTES = 256 * 2**20

_AS_STORED = {"do_rescale": False, "do_normalize": False}


class PieceRequest(NamedTuple):
    """A piece of a document that a plan asks for.

    Attributes:
        document: The whole document.
        planned: The runs of the whole document, as they were measured.
        start: First token of the piece, counted in the document with all its placeholders.
        stop: Token behind the last one.
    """

    document: Document
    planned: DocumentRuns
    start: int
    stop: int


class PieceArrays(NamedTuple):
    """The tokens of one piece, ready to stand in a pack.

    Attributes:
        input_ids: int64, shape (L,).
        labels: int64, shape (L,): `IGNORED` at the first token, at images and their markers, and
            where no loss is wanted; not shifted.
        position_ids: int64, shape (L,), from 0.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray


class PackArrays(NamedTuple):
    """A pack.

    Attributes:
        pieces: The pieces by number.
        tiles: The tiles of all, shape (N, 3, height, width), or None where there are none.
        tiles_per_image: How many of the tiles each image has, int64, shape (I,).
    """

    pieces: dict[int, PieceArrays]
    tiles: np.ndarray | None
    tiles_per_image: np.ndarray


class WantedImage(NamedTuple):
    """An image to load: its number in the document, its file, and the tiles it was planned with."""

    number: int
    file: ImageSource
    num_tiles: int


class LoadedImages(NamedTuple):
    """Images by their place in the list that was asked for.

    Attributes:
        tiles: Tiles of those that could be loaded, in order, or None without any.
        plans: Where these tiles lie in each image.
        bad: Why each other image could not be loaded.
    """

    tiles: np.ndarray | None
    plans: "dict[int, TilePlan]"
    bad: dict[int, BadData]


class _Piece(NamedTuple):
    """A piece whose document still has the length that was planned, and the images to load."""

    request: PieceRequest
    encoded: EncodedDocument
    images: list[WantedImage]


def materialise_pack(
    requests: Mapping[int, PieceRequest],
    processor: "MM1Processor",
    *,
    pixels: Pixels,
    report: Callable[[BadData, int, int], None],
) -> PackArrays:
    """Read the pieces of one pack.

    Args:
        requests: The pieces, by their number in the pack.
        processor: What the lengths were measured with.
        pixels: `"uint8"`: pixels as stored. `"float"`: rescaled and normalised.
        report: Called with what cannot be used, the number of the piece, and the number of the
            image in its document (-1: the whole piece). If it returns, that is left out.
    """
    pieces: dict[int, _Piece] = {}
    for number, encoded in _encode_all(requests, processor).items():
        try:
            if isinstance(encoded, BadData):
                raise encoded
            pieces[number] = _find_images(encoded, requests[number])
        except BadData as bad:
            report(bad, number, -1)
    wanted = [(number, image) for number, piece in pieces.items() for image in piece.images]
    loaded = load_images([image for _, image in wanted], processor.image_processor, pixels=pixels)
    plans: dict[int, dict[int, TilePlan]] = {number: {} for number in pieces}
    for place, plan in loaded.plans.items():
        number, image = wanted[place]
        plans[number][image.number] = plan
    for place, bad in sorted(loaded.bad.items()):
        number, image = wanted[place]
        report(bad, number, image.number)
    finished = {n: _finish(piece, plans[n], processor) for n, piece in pieces.items()}
    tiles_per_image = [
        image.num_tiles for n, (_, image) in enumerate(wanted) if n not in loaded.bad
    ]
    return PackArrays(finished, loaded.tiles, np.array(tiles_per_image, dtype=np.int64))


def load_images(
    images: Sequence[WantedImage], image_processor: "MM1ImageProcessor", *, pixels: Pixels
) -> LoadedImages:
    """Read and decode images, all in one call of the image processor where nothing is wrong.

    The tiles are those that were planned for each image within its document, whatever images stand
    beside it here.
    """
    contents: dict[int, bytes] = {}
    bad: dict[int, BadData] = {}
    for place, image in enumerate(images):
        try:
            contents[place] = read_file(image.file)
        except BadData as error:
            bad[place] = error
    if not contents:
        return LoadedImages(None, {}, bad)
    planned = [images[place].num_tiles for place in contents]
    try:
        made = _process(list(contents.values()), image_processor, pixels, planned)
        if list(made["num_tiles"]) == planned:
            plans = dict(zip(contents, made["tile_plans"], strict=True))
            return LoadedImages(made["pixel_values"], plans, bad)
    except Exception:
        pass  # one by one below, which tells the bad from the good
    tiles, plans = [], {}
    for place, content in contents.items():
        try:
            made = _decode(content, image_processor, pixels, images[place].num_tiles)
        except BadData as error:
            bad[place] = error
            continue
        tiles.append(made["pixel_values"])
        (plans[place],) = made["tile_plans"]
    return LoadedImages(np.concatenate(tiles) if tiles else None, plans, bad)


def read_file(image: ImageSource) -> bytes:
    """The bytes of an image's file.

    Raises:
        BadData: If it is missing, unreadable, empty, or larger than `MAX_FILE_BYTES`.
    """
    place = image["path"] or f"{len(image['bytes'] or b'')} bytes"
    try:
        with open_image_file(image) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise BadData("missing", f"The file {place} does not exist.") from error
    except (OSError, ValueError, ImportError) as error:
        raise BadData("unreadable", f"The file {place} cannot be read: {error}.") from error
    if not content:
        raise BadData("empty", f"The file {place} has 0 bytes.")
    if len(content) > MAX_FILE_BYTES:
        raise BadData("too_large", f"The file {place} has more than {MAX_FILE_BYTES:,} bytes.")
    return content


# Any: transformers' type of an image leaves out the bytes that ours takes.
def _process(
    contents: list[bytes], image_processor: Any, pixels: Pixels, num_tiles: list[int]
) -> Mapping[str, Any]:
    settings = _AS_STORED if pixels == "uint8" else {}
    # As a cap, the tiles of a grid make the same grid again; the overview is not counted.
    max_tiles = [max(1, number - 1) for number in num_tiles]
    return image_processor(contents, return_tensors="np", max_tiles=max_tiles, **settings)


def _decode(
    content: bytes, image_processor: "MM1ImageProcessor", pixels: Pixels, num_tiles: int
) -> Mapping[str, Any]:
    """What the image processor makes of one image."""
    try:
        made = _process([content], image_processor, pixels, [num_tiles])
    except ImageError as error:
        raise BadData(_reason(error), str(error)) from error
    # Pillow's readers raise whatever a damaged file leads them to: IndexError, struct.error …
    except Exception as error:
        raise BadData("corrupt", f"Decoding it raised {error!r}.") from error
    if (found := len(made["pixel_values"])) != num_tiles:
        raise BadData(
            "changed",
            f"It makes {found} tiles, but {num_tiles} were measured"
            f"{' (its header could not be read then)' if num_tiles == 0 else ''}. Measure the "
            "lengths again after changing files or tiling.",
        )
    return made


def _encode_all(
    requests: Mapping[int, PieceRequest], processor: "MM1Processor"
) -> dict[int, EncodedDocument | BadData]:
    """Encode documents together; if one cannot be, each on its own."""
    documents = [request.document for request in requests.values()]
    try:
        return dict(zip(requests, encode_many(documents, processor), strict=True))
    except ValueError:
        pass
    encoded: dict[int, EncodedDocument | BadData] = {}
    for number, request in requests.items():
        try:
            encoded[number] = encode_many([request.document], processor)[0]
        except ValueError as error:
            encoded[number] = BadData("unreadable", str(error))
    return encoded


def _find_images(encoded: EncodedDocument, request: PieceRequest) -> _Piece:
    """The images of a piece of an encoded document.

    Images that had no tokens when they were measured stand in no piece; the first one takes them,
    so that they are counted.

    Raises:
        BadData: If the document no longer has the length that was planned.
    """
    planned = request.planned
    is_image = np.asarray(planned.is_image)
    found = (len(encoded.images), len(encoded.input_ids) - len(encoded.images))
    expected = (int(is_image.sum()), int(planned.tokens[~is_image].sum()))
    if found != expected:
        raise BadData(
            "changed",
            f"It has {found[0]} images and {found[1]} text tokens, but {expected[0]} and "
            f"{expected[1]} were measured. Measure the lengths again after changing a source.",
        )
    tokens = planned.image_tokens
    starts = (np.cumsum(planned.tokens, dtype=np.int64) - planned.tokens)[is_image]
    inside = (tokens > 0) & (starts >= request.start) & (starts < request.stop)
    if request.start == 0:
        inside |= tokens == 0
    num_tiles = planned.tiles[is_image].tolist()
    numbers = np.flatnonzero(inside).tolist()
    wanted = [WantedImage(n, encoded.images[n], num_tiles[n]) for n in numbers]
    return _Piece(request, encoded, wanted)


def _finish(piece: _Piece, plans: "dict[int, TilePlan]", processor: "MM1Processor") -> PieceArrays:
    """The tokens of a piece; images without a plan are left out."""
    tokens = piece.request.planned.image_tokens
    image_ids = {}
    if processor.markers != "none":
        # The sample is what could be measured: other images have no number in it.
        numbers = (np.cumsum(tokens > 0) - 1).tolist()
        image_ids = {
            n: make_image_ids(plan, processor, image=numbers[n]) for n, plan in plans.items()
        }
    expanded = expand(piece.encoded, tokens.tolist(), image_ids=image_ids)
    part = slice(piece.request.start, piece.request.stop)
    input_ids, supervised, image = (column[part] for column in expanded)
    lost = [image.number for image in piece.images if image.number not in plans]
    if lost:
        keep = ~np.isin(image, lost)
        input_ids, supervised = input_ids[keep], supervised[keep]
    input_ids = input_ids.astype(np.int64)
    labels = np.where(supervised, input_ids, IGNORED)
    # What stands before it in the pack is another document, which must not predict it.
    labels[:1] = IGNORED
    return PieceArrays(input_ids, labels, np.arange(len(input_ids)))


def _reason(error: ImageError) -> Reason:
    """What the image processor, or Pillow behind it, found."""
    cause = error.__context__
    if isinstance(cause, UnidentifiedImageError):
        return "not_an_image"
    bombs = (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning)
    if isinstance(cause, bombs) or "is too large" in str(error):
        return "too_large"
    return "truncated" if "truncated" in str(cause).lower() else "corrupt"
