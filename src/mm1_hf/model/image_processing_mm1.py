"""Pixels: any picture becomes tiles of one size, as uint8 or as normalised floats.

One torch-only back end. transformers knows two (torchvision and PIL) whose pixels differ; ours is
registered under both names, needs no torchvision, and stays within one step of 255 of Pillow.
"""

from typing import Any, ClassVar

import torch
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .configuration_mm1 import CLIP_MEAN, CLIP_STD
from .decoding_mm1 import ImageError, flatten_images, is_nested, open_image, to_rgb
from .tiling_mm1 import (
    PAD_PLACES,
    RESIZE_POLICIES,
    TILINGS,
    Placement,
    TilePlan,
    plan_tiles,
    require_name,
)


class MM1ImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of `MM1ImageProcessor` beyond transformers' own.

    tiling (`str`, *optional*, defaults to `"none"`):
        `"none"` (one tile) or `"static"` (MM1's overview and 2x2 quarters).
    resize_policy (`str`, *optional*, defaults to `"stretch"`):
        `"stretch"`, `"crop"` or `"pad"`; see `place_image`.
    pad_place (`str`, *optional*, defaults to `"center"`):
        Where `"pad"` puts the image: `"center"` or `"top_left"`.
    pad_color (`tuple[int, int, int]`, *optional*):
        RGB of the padding, 0 to 255. By default the image mean, which is zero after normalisation.
    """

    tiling: str | None
    resize_policy: str | None
    pad_place: str | None
    pad_color: list[int] | tuple[int, ...] | None


class MM1ImageProcessor(BaseImageProcessor):
    """Turns images into tiles.

    Accepts one image, a list of images, or one list per sample. An image is a PIL image of any
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
    width), float32 or, with `do_rescale=False, do_normalize=False`, uint8; and `num_tiles`, a list
    with the tiles of each image.

    Args:
        size: Height and width of a tile in pixels; an integer means a square.
        tiling, resize_policy, pad_place, pad_color: See `MM1ImageProcessorKwargs`.
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
        """Tiles of an upright image of `height` x `width` pixels, without its pixels."""
        return self.plan(height, width, images_kwargs).num_tiles

    def plan(self, height: int, width: int, images_kwargs: dict | None = None) -> TilePlan:
        """Plan the tiles of an upright image; `images_kwargs` override the settings."""
        settings = {
            name: getattr(self, name)
            for name in ("size", "do_resize", "tiling", "resize_policy", "pad_place")
        }
        overrides = {
            k: v for k, v in (images_kwargs or {}).items() if k in settings and v is not None
        }
        settings |= overrides
        settings["size"] = self._standardize_kwargs(size=settings["size"], default_to_square=True)[
            "size"
        ]
        return _plan(height, width, **settings)

    def _preprocess_image_like_inputs(self, images: Any, *args, **kwargs) -> BatchFeature:
        # One image at a time, so that only one is ever held decoded at full size.
        tiles, num_tiles = [], []
        for name, image in flatten_images(self.fetch_images(images)):
            pixels = to_rgb(
                image,
                name=name,
                do_convert_rgb=kwargs["do_convert_rgb"] is not False,
                input_data_format=kwargs.get("input_data_format"),
            )
            image_tiles = self._make_tiles(pixels, name, **kwargs)
            tiles += image_tiles
            num_tiles.append(len(image_tiles))
        if not tiles:
            raise ValueError(
                "The list of images is empty. For text without images, pass images=None."
            )
        return self._preprocess(tiles, num_tiles=num_tiles, **kwargs)

    def _make_tiles(self, pixels: torch.Tensor, name: str, **kwargs) -> list[torch.Tensor]:
        height, width = pixels.shape[-2:]
        names = ("size", "do_resize", "tiling", "resize_policy", "pad_place")
        try:
            plan = _plan(height, width, **{key: kwargs[key] for key in names})
        except ValueError as error:
            raise ImageError(f"{name.capitalize()}: {error}") from None
        color = kwargs.get("pad_color") or [round(255 * value) for value in kwargs["image_mean"]]

        def paint(placement: Placement, canvas_height: int, canvas_width: int) -> torch.Tensor:
            return _paint(pixels, placement, (canvas_height, canvas_width), color)

        canvas = paint(plan.canvas, plan.canvas_height, plan.canvas_width)
        tiles = [canvas[:, top:bottom, left:right] for top, left, bottom, right in plan.tile_boxes]
        if plan.overview is not None:
            overview = paint(plan.overview, plan.tile_height, plan.tile_width)
            tiles = [overview, *tiles] if plan.overview_place == "first" else [*tiles, overview]
        return tiles

    def _preprocess(
        self, images: list[torch.Tensor], *, num_tiles: list[int], **kwargs
    ) -> BatchFeature:
        """Stack the uint8 tiles; rescale and normalise them in one pass."""
        # shape: (tiles, 3, height, width). Copying tile by tile turns channels-last into contiguous
        # five times faster than converting the stack.
        pixel_values = torch.empty((len(images), *images[0].shape), dtype=torch.uint8)
        for target, tile in zip(pixel_values, images, strict=True):
            target.copy_(tile)
        factor = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1.0
        if kwargs["do_normalize"]:
            std = torch.tensor(kwargs["image_std"], dtype=torch.float64)[:, None, None]
            mean = torch.tensor(kwargs["image_mean"], dtype=torch.float64)[:, None, None]
            scale, shift = (factor / std).float(), (-mean / std).float()
            pixel_values = pixel_values.to(torch.float32).mul_(scale).add_(shift)
        elif kwargs["do_rescale"]:
            pixel_values = pixel_values.to(torch.float32).mul_(factor)
        if kwargs.get("device") is not None:
            pixel_values = pixel_values.to(kwargs["device"])
        return_tensors = str(getattr(kwargs["return_tensors"], "value", kwargs["return_tensors"]))
        if return_tensors == "np":
            pixel_values = pixel_values.numpy(force=True)
        elif return_tensors not in ("None", "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r}, but it must be 'pt' or 'np'.")
        return BatchFeature(data={"pixel_values": pixel_values, "num_tiles": num_tiles})

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        size = kwargs["size"]
        if not (isinstance(size, SizeDict) and size.height and size.width):
            raise ValueError(
                f"size is {size}, but it must give the 'height' and 'width' of a tile in pixels."
            )
        require_name("tiling", kwargs["tiling"], TILINGS)
        require_name("resize_policy", kwargs["resize_policy"], RESIZE_POLICIES)
        require_name("pad_place", kwargs["pad_place"], PAD_PLACES)
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


def _plan(
    height: int, width: int, *, size: SizeDict, do_resize: bool, tiling: str, **places
) -> TilePlan:
    plan = plan_tiles(
        height, width, tile_height=size.height, tile_width=size.width, tiling=tiling, **places
    )
    if not do_resize and (tiling != "none" or (height, width) != (size.height, size.width)):
        raise ValueError(
            f"do_resize is false, but the image has {height} x {width} pixels and tiling is "
            f"{tiling!r}. Without resizing, tiling='none' and images of {size.height} x "
            f"{size.width} pixels are expected. Set do_resize=True."
        )
    return plan


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
