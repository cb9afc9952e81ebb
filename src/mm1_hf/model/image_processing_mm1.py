"""Pixels: any picture becomes tiles of one size, as uint8 or as normalised floats.

One torch-only back end. transformers knows two (torchvision and PIL) whose pixels differ; ours is
registered under both names, needs no torchvision, and stays within one step of 255 of Pillow.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .configuration_mm1 import CLIP_MEAN, CLIP_STD
from .decoding_mm1 import (
    ImageError,
    flatten_images,
    images_per_sample,
    is_nested,
    open_image,
    read_image_size,
    to_rgb,
)
from .sample_plan_mm1 import MAX_SPLIT_IMAGES, SamplePlan, plan_sample
from .tiling_mm1 import (
    MAX_TILES,
    MIN_TILES,
    PAD_PLACES,
    RESIZE_POLICIES,
    TILING_SETTINGS,
    TILINGS,
    Placement,
    TilePlan,
    require_name,
)


class MM1ImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of `MM1ImageProcessor` beyond transformers' own.

    tiling (`str`, *optional*, defaults to `"none"`):
        `"none"` (one tile), `"static"` (MM1's overview and 2x2 quarters) or `"dynamic"` (MM1.5's
        grid that fits the image, and an overview).
    resize_policy (`str`, *optional*, defaults to `"stretch"`):
        `"stretch"`, `"crop"` or `"pad"`; see `place_image`. Dynamic tiling always pads.
    pad_place (`str`, *optional*, defaults to `"center"`):
        Where padding leaves the image: `"center"` or `"top_left"`.
    pad_color (`tuple[int, int, int]`, *optional*):
        RGB of the padding, 0 to 255. By default the image mean, which is zero after normalisation.
    min_tiles (`int`, *optional*, defaults to 4):
        Fewest tiles of a dynamic grid, the overview not counted.
    max_tiles (`int`, *optional*, defaults to 9):
        Most tiles of a grid, the overview not counted. In a call also a list with a number for
        each image, flat or one list per sample; 1 leaves an image whole.
    max_split_images (`int`, *optional*, defaults to 2):
        Dynamic tiling leaves all images whole in a sample that has more of them, unless `max_tiles`
        is a list.
    """

    tiling: str | None
    resize_policy: str | None
    pad_place: str | None
    pad_color: list[int] | tuple[int, ...] | None
    min_tiles: int | None
    max_tiles: int | list | tuple | None
    max_split_images: int | None


class NamedImage(NamedTuple):
    """An opened image, what errors call it, and its number in its sample."""

    name: str
    image: Any
    number: int


class SampleImages(NamedTuple):
    """The images of each sample, and the `max_tiles` of each: one number, or one per image."""

    samples: list[list[NamedImage]]
    max_tiles: list[Any]


class MM1ImageProcessor(BaseImageProcessor):
    """Turns images into tiles.

    Accepts one image, a list of images, or one list per sample; the images of a flat list are each
    a sample of their own. An image is a PIL image of any
    mode, a numpy array or torch tensor (height x width, height x width x channels, or channels x
    height x width; uint8, bool, uint16, other whole numbers from 0 to 255, or floats), a path, the
    bytes of a file, a data URI, a URL, or base64 text.

    What happens to a picture that is not plain 8-bit RGB (our choices): the EXIF orientation is
    applied; transparent pixels are put on white; 16 bits become 8 by division; of an animated file
    the first frame is taken (of an opened PIL image the frame it shows); floats are read as 0 to 1
    if none exceeds 1, else as 0 to 255. An array whose first and last axis could both be channels
    is read as channels-last from numpy and as channels-first from torch; `input_data_format`
    overrides.

    Returns a `BatchFeature` with `pixel_values` of shape (tiles of all images, 3, tile height, tile
    width), float32 or, with `do_rescale=False, do_normalize=False`, uint8; and three lists with an
    entry per image: `num_tiles`, `tile_plans`, and `image_numbers`, its number in its sample.

    Args:
        size: Height and width of a tile in pixels; an integer means a square.
        tiling, resize_policy, pad_place, pad_color, min_tiles, max_tiles, max_split_images: See
            `MM1ImageProcessorKwargs`.
        image_mean, image_std: Per channel, on the scale of 0 to 1; OpenAI CLIP's by default.
        do_resize: If false, every image must already have the size of a tile.
        do_rescale, rescale_factor: Multiply by 1/255.
        do_normalize: Subtract the mean, divide by the standard deviation.
        do_convert_rgb: If false, an image that is not RGB is an error.
    """

    valid_kwargs = MM1ImageProcessorKwargs
    model_input_names: ClassVar = ["pixel_values"]

    size: ClassVar = {"height": 378, "width": 378}
    resample = PILImageResampling.BICUBIC
    image_mean = CLIP_MEAN
    image_std = CLIP_STD
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    tiling = "none"
    resize_policy = "stretch"
    pad_place = "center"
    pad_color = None
    min_tiles = MIN_TILES
    max_tiles = MAX_TILES
    max_split_images = MAX_SPLIT_IMAGES

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)
        self._validate_preprocess_kwargs(
            **{name: getattr(self, name) for name in self._valid_kwargs_names}
        )

    @property
    def backend(self) -> str:
        """Name of the back end; the same code runs with and without torchvision."""
        return "torch"

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths, bytes, data URIs and URLs, without decoding pixels, keeping the nesting.

        Raises:
            ImageError: If an entry is missing or cannot be opened; names the sample and the image.
        """
        images = image_url_or_urls
        if not isinstance(images, (list, tuple)):
            return open_image(images, "image 0")
        if is_nested(images):
            return [
                [open_image(image, f"sample {sample}, image {index}") for index, image in named]
                for sample, named in enumerate(map(enumerate, images))
            ]
        return [open_image(image, f"image {index}") for index, image in enumerate(images)]

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: dict | None = None
    ) -> int:
        """Tiles of an upright image that is alone in its sample, without its pixels."""
        return self.plan(height, width, images_kwargs).num_tiles

    def plan(self, height: int, width: int, images_kwargs: dict | None = None) -> TilePlan:
        """Plan an upright image that is alone in its sample; `images_kwargs` override settings."""
        plan = self.plan_sample([(height, width)], tokens_per_tile=1, images_kwargs=images_kwargs)
        return plan.tiles[0]

    def plan_sample(
        self,
        image_sizes: Sequence[tuple[int, int]],
        *,
        tokens_per_tile: int,
        markers: str = "none",
        max_image_tokens: int | None = None,
        images_kwargs: dict | None = None,
        name: str = "the sample",
        image_names: Sequence[str] | None = None,
    ) -> SamplePlan:
        """Plan the images of one sample with the settings of this processor.

        Args:
            image_sizes: Upright (height, width) in pixels of each image.
            tokens_per_tile: Tokens that a tile becomes.
            markers: See `mm1_hf.model.sample_plan_mm1.plan_sample`.
            max_image_tokens: Most tokens of all images together, or `None`.
            images_kwargs: Settings that override those of the processor, as in a call.
            name: What an error calls the sample.
            image_names: What an error calls its images.

        Raises:
            ValueError: If the sample cannot be planned; names it.
        """
        overrides = {k: v for k, v in (images_kwargs or {}).items() if v is not None}
        settings = {key: overrides.get(key, getattr(self, key)) for key in TILING_SETTINGS}
        size = self._standardize_kwargs(size=settings.pop("size"), default_to_square=True)["size"]
        _require_tile_size(size)
        plan = plan_sample(
            image_sizes,
            tokens_per_tile=tokens_per_tile,
            tile_height=size.height,
            tile_width=size.width,
            markers=markers,
            max_image_tokens=max_image_tokens,
            name=name,
            **{key: value for key, value in settings.items() if key != "do_resize"},
        )
        if not settings["do_resize"]:
            names = image_names or [f"{name}, image {image}" for image in range(len(plan.tiles))]
            for image_name, tiles in zip(names, plan.tiles, strict=True):
                _require_ready_tile(tiles, settings["tiling"], image_name)
        return plan

    def group_by_sample(self, images: Any, *, max_tiles: Any = None) -> SampleImages:
        """Images by sample, each image of a flat list as a sample, and `max_tiles` of each sample.

        Args:
            images: As in a call.
            max_tiles: One number, or one per image, flat or as one list per sample; the setting of
                the processor if `None`.

        Raises:
            ValueError: If there are not as many numbers as images.
        """
        samples = _group_by_sample(self.fetch_images(images))
        caps = self.max_tiles if max_tiles is None else max_tiles
        return SampleImages(samples, _caps_per_sample(caps, [len(sample) for sample in samples]))

    def _preprocess_image_like_inputs(self, images: Any, *args, **kwargs) -> BatchFeature:
        samples, max_tiles = self.group_by_sample(images, max_tiles=kwargs["max_tiles"])
        layout = kwargs.get("input_data_format")
        plans: list[TilePlan] = []
        for number, (sample, caps) in enumerate(zip(samples, max_tiles, strict=True)):
            sizes = [
                read_image_size(i.image, name=i.name, input_data_format=layout) for i in sample
            ]
            try:
                plan = self.plan_sample(
                    sizes,
                    tokens_per_tile=1,
                    images_kwargs=kwargs | {"max_tiles": caps},
                    name=f"sample {number}",
                    image_names=[image.name for image in sample],
                )
            except ValueError as error:
                raise ImageError(str(error)) from None
            plans += plan.tiles
        named = [image for sample in samples for image in sample]
        if not named:
            raise ValueError(
                "The list of images is empty. For text without images, pass images=None."
            )
        tiles: list[torch.Tensor] = []
        # One image at a time, so that only one is ever held decoded at full size.
        for (name, image, _), plan in zip(named, plans, strict=True):
            pixels = to_rgb(
                image,
                name=name,
                do_convert_rgb=kwargs["do_convert_rgb"] is not False,
                input_data_format=layout,
            )
            tiles += _make_tiles(pixels, plan, name, **kwargs)
        output = self._preprocess(tiles, **kwargs)
        output["num_tiles"] = [plan.num_tiles for plan in plans]
        output["tile_plans"] = plans
        output["image_numbers"] = [image.number for image in named]
        return output

    def _preprocess(self, images: list[torch.Tensor], **kwargs) -> BatchFeature:
        """Stack the uint8 tiles, rescaled and normalised in one pass."""
        factor = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1.0
        scale, shift = torch.tensor(factor), None
        if kwargs["do_normalize"]:
            std = torch.tensor(kwargs["image_std"], dtype=torch.float64)[:, None, None]
            mean = torch.tensor(kwargs["image_mean"], dtype=torch.float64)[:, None, None]
            scale, shift = (factor / std).float(), (-mean / std).float()
        is_float = kwargs["do_rescale"] or kwargs["do_normalize"]
        # Tile by tile, because each step then finds its tile in the processor's cache, and turns
        # channels-last into contiguous five times faster than on the stack.
        pixel_values = torch.empty(  # shape: (tiles, 3, height, width)
            (len(images), *images[0].shape), dtype=torch.float32 if is_float else torch.uint8
        )
        contiguous = torch.empty(images[0].shape, dtype=torch.uint8)
        for target, tile in zip(pixel_values, images, strict=True):
            if not is_float:
                target.copy_(tile)
                continue
            target.copy_(contiguous.copy_(tile)).mul_(scale)
            if shift is not None:
                target.add_(shift)
        if kwargs.get("device") is not None:
            pixel_values = pixel_values.to(kwargs["device"])
        return_tensors = str(getattr(kwargs["return_tensors"], "value", kwargs["return_tensors"]))
        if return_tensors == "np":
            pixel_values = pixel_values.numpy(force=True)
        elif return_tensors not in ("None", "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r}, but it must be 'pt' or 'np'.")
        return BatchFeature(data={"pixel_values": pixel_values})

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        _require_tile_size(kwargs["size"])
        require_name("tiling", kwargs["tiling"], TILINGS)
        require_name("resize_policy", kwargs["resize_policy"], RESIZE_POLICIES)
        require_name("pad_place", kwargs["pad_place"], PAD_PLACES)
        for name in ("min_tiles", "max_split_images"):
            if kwargs[name] < 1:
                raise ValueError(f"{name} is {kwargs[name]}, but it must be at least 1.")
        caps = kwargs["max_tiles"]
        if not isinstance(caps, (list, tuple)) and caps < 1:
            raise ValueError(f"max_tiles is {caps}, but it must be at least 1.")
        if kwargs["resample"] != PILImageResampling.BICUBIC:
            raise ValueError(
                f"resample is {kwargs['resample']}, but only bicubic (3) is available."
            )
        for name in ("do_center_crop", "do_pad", "crop_size", "pad_size"):
            if kwargs.get(name):
                raise ValueError(f"{name} is not used: choose resize_policy='crop' or 'pad'.")
        if kwargs.get("data_format") not in (None, "channels_first", ChannelDimension.FIRST):
            raise ValueError(f"data_format is {kwargs['data_format']}: only channels_first exists.")
        if kwargs["do_rescale"] and not kwargs["rescale_factor"]:
            raise ValueError("do_rescale needs a rescale_factor, such as 1/255.")
        for name in ("image_mean", "image_std"):
            values = kwargs[name]
            if not isinstance(values, (tuple, list)) or len(values) != 3:
                raise ValueError(f"{name} is {values}, but three numbers (RGB) are expected.")
        color = kwargs["pad_color"]
        if color is not None and (len(color) != 3 or not all(0 <= value <= 255 for value in color)):
            raise ValueError(f"pad_color is {color}, but three numbers from 0 to 255 are expected.")

    def to_dict(self) -> dict[str, Any]:
        """Settings as saved; the type is `MM1ImageProcessor` under either back-end name."""
        return super().to_dict() | {"image_processor_type": "MM1ImageProcessor"}


class MM1ImageProcessorPil(MM1ImageProcessor):
    """`MM1ImageProcessor` under the name transformers expects of the PIL back end."""


def _require_tile_size(size: Any) -> None:
    if not (isinstance(size, SizeDict) and size.height and size.width):
        raise ValueError(
            f"size is {size}, but it must give the 'height' and 'width' of a tile in pixels."
        )


def _require_ready_tile(plan: TilePlan, tiling: str, name: str) -> None:
    tile = (plan.tile_height, plan.tile_width)
    if tiling != "none" or (plan.height, plan.width) != tile:
        raise ValueError(
            f"{name[:1].upper()}{name[1:]}: do_resize is false, but the image has {plan.height} x "
            f"{plan.width} pixels and tiling is {tiling!r}. Without resizing, tiling='none' and "
            f"images of {tile[0]} x {tile[1]} pixels are expected. Set do_resize=True."
        )


def _group_by_sample(images: Any) -> list[list[NamedImage]]:
    """Opened images by sample; each image of a flat list is a sample."""
    named: Iterator[tuple[str, Any]] = flatten_images(images)
    counts = images_per_sample(images)
    if counts is None:
        return [[NamedImage(name, image, 0)] for name, image in named]
    return [[NamedImage(*next(named), number) for number in range(count)] for count in counts]


def _caps_per_sample(max_tiles: Any, counts: list[int]) -> list[Any]:
    """`max_tiles` of each sample: one number, or one per image."""
    if not isinstance(max_tiles, (list, tuple)):
        return [max_tiles] * len(counts)
    if any(isinstance(caps, (list, tuple)) for caps in max_tiles):
        found = [len(caps) if isinstance(caps, (list, tuple)) else None for caps in max_tiles]
        if found != counts:
            raise ValueError(
                f"max_tiles has lists of {found} numbers, but the samples have {counts} images. "
                "Give one list per sample with a number for each of its images."
            )
        return list(max_tiles)
    if len(max_tiles) != sum(counts):
        raise ValueError(
            f"max_tiles has {len(max_tiles)} numbers, but there are {sum(counts)} images. Give one "
            "number for all, or one for each image."
        )
    numbers = iter(max_tiles)
    return [[next(numbers) for _ in range(count)] for count in counts]


def _make_tiles(pixels: torch.Tensor, plan: TilePlan, name: str, **kwargs) -> list[torch.Tensor]:
    """The planned tiles of one image, uint8 of shape (3, tile height, tile width) each.

    The image is resized once for all tiles of the grid and once for the overview, each time from
    its own pixels: resizing the canvas again would lead away from what one resize makes.
    """
    if tuple(pixels.shape[-2:]) != (plan.height, plan.width):
        raise ImageError(
            f"{name[:1].upper()}{name[1:]} decodes to {pixels.shape[-2]} x {pixels.shape[-1]} "
            f"pixels, but its header says {plan.height} x {plan.width}. Save it in another format."
        )
    color = kwargs.get("pad_color") or [round(255 * value) for value in kwargs["image_mean"]]

    def paint(placement: Placement, canvas_height: int, canvas_width: int) -> torch.Tensor:
        return _paint(pixels, placement, (canvas_height, canvas_width), color)

    canvas = paint(plan.canvas, plan.canvas_height, plan.canvas_width)
    tiles = [canvas[:, top:bottom, left:right] for top, left, bottom, right in plan.tile_boxes]
    if plan.overview is not None:
        overview = paint(plan.overview, plan.tile_height, plan.tile_width)
        tiles = [overview, *tiles] if plan.overview_place == "first" else [*tiles, overview]
    return tiles


def _paint(
    pixels: torch.Tensor, placement: Placement, canvas_size: tuple[int, int], color: list[int]
) -> torch.Tensor:
    """Resize an image onto a canvas; shape (3, canvas height, canvas width), uint8."""
    height, width = canvas_size
    resized_height, resized_width, top, left = placement
    if resized_height >= height and resized_width >= width:
        is_thin = resized_height * resized_width > 4 * height * width
        if is_thin:  # a sliver of an image: cut between the passes, or the rest would fill memory
            return _crop_and_resize(pixels, placement, canvas_size)
        resized = _resize(pixels, resized_height, resized_width)
        return resized[:, -top : height - top, -left : width - left]
    canvas = torch.empty((height, width, 3), dtype=torch.uint8)
    canvas[:] = torch.tensor([int(value) for value in color], dtype=torch.uint8)
    canvas = canvas.permute(2, 0, 1)
    resized = _resize(pixels, resized_height, resized_width)
    canvas[:, top : top + resized_height, left : left + resized_width] = resized
    return canvas


def _crop_and_resize(
    pixels: torch.Tensor, placement: Placement, canvas_size: tuple[int, int]
) -> torch.Tensor:
    height, width = canvas_size
    if placement.width > width:
        strip = _interpolate(pixels, pixels.shape[1], placement.width)
        strip = strip[:, :, -placement.left : width - placement.left]
    else:
        strip = _interpolate(pixels, placement.height, pixels.shape[2])
        strip = strip[:, -placement.top : height - placement.top]
    return _interpolate(strip, height, width)


def _resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Antialiased bicubic, in the order of passes that Pillow takes.

    Each pass rounds and clips to uint8, so the order shows where the filter overshoots.
    Source: Pillow 13.0.0, `src/libImaging/Resample.c`, `horizontal_first`.
    """
    less_height, less_width = pixels.shape[1] - height, pixels.shape[2] - width
    if less_height > 0 and less_height > 2 * less_width and less_width != 0:
        pixels = _interpolate(pixels, height, pixels.shape[2])
    return _interpolate(pixels, height, width)


def _interpolate(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if pixels.shape[1:] == (height, width):
        return pixels
    # A batch of one keeps channels last in memory, on which torch's uint8 kernel is fastest.
    resized = F.interpolate(
        pixels[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0]
