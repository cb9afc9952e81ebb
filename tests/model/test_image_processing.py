"""Laws of pixels: what goes in, in which form, makes which tiles."""

import base64
import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mm1_hf.model import decoding_mm1, image_processing_mm1
from mm1_hf.model.decoding_mm1 import ImageError, open_image, read_image_size, to_rgb
from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor, MM1ImageProcessorPil
from mm1_hf.model.tiling_mm1 import RESIZE_POLICIES, TILINGS

EXACT = {"do_rescale": False, "do_normalize": False}


def make_processor(**kwargs) -> MM1ImageProcessor:
    return MM1ImageProcessor(**({"size": {"height": 28, "width": 28}} | kwargs))


def make_photo(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """Smooth colours with grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = rng.integers(-20, 21, smooth.shape)
    return Image.fromarray(np.clip(smooth.astype(int) + grain, 0, 255).astype(np.uint8))


def make_drawing(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """Saturated lines and letters on white, where filters overshoot most."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        ends = [int(v) for v in rng.integers(0, (width, height, width, height))]
        draw.line(ends, fill=tuple(int(v) for v in rng.choice([0, 255], 3)), width=3)
        draw.text(ends[:2], "MM1 seven", fill="black")
    return image


def encode(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


def pixels(images, **kwargs) -> torch.Tensor:
    return make_processor(**EXACT, **kwargs)(images)["pixel_values"]


# Geometry and counts


@settings(max_examples=15)
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from(TILINGS),
    st.sampled_from(RESIZE_POLICIES),
)
def test_tiles_made_are_the_tiles_planned(height, width, tiling, policy):
    processor = make_processor(tiling=tiling, resize_policy=policy, **EXACT)
    output = processor(Image.new("RGB", (width, height), (10, 200, 30)))
    planned = processor.get_number_of_image_patches(height, width)
    assert output["num_tiles"] == [planned]
    assert output["pixel_values"].shape == (planned, 3, 28, 28)


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (20_000, 100), (1, 1), (3000, 2)])
def test_extreme_shapes_stay_small_in_memory_and_keep_their_colour(monkeypatch, height, width):
    areas = []

    def interpolate(pixels, new_height, new_width):
        areas.append(new_height * new_width)
        return resize_once(pixels, new_height, new_width)

    resize_once = image_processing_mm1._interpolate
    monkeypatch.setattr(image_processing_mm1, "_interpolate", interpolate)
    image = Image.new("RGB", (width, height), (10, 200, 30))
    for tiling, policy in (("static", "stretch"), ("static", "crop"), ("dynamic", "pad")):
        tiles = pixels(image, tiling=tiling, resize_policy=policy, pad_color=(10, 200, 30))
        assert (tiles == torch.tensor([10, 200, 30])[:, None, None]).all()
    # 28 pixels along the short side of a dynamic grid, which may be nine tiles long
    assert max(areas) <= 9 * 28 * max(height, width) + 9 * 28 * 28


def test_static_tiling_is_the_overview_then_the_quarters():
    image = make_photo(56, 56)
    tiles = pixels(image, tiling="static")
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    quarters = [whole[:, t : t + 28, left : left + 28] for t in (0, 28) for left in (0, 28)]
    assert torch.equal(tiles[1:], torch.stack(quarters))
    assert torch.equal(tiles[:1], pixels(image))


def test_dynamic_tiling_is_the_grid_then_the_overview():
    image = make_photo(56, 84)  # on a grid of 2 x 3 tiles without resizing
    tiles = pixels(image, tiling="dynamic")
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    cut = [whole[:, t : t + 28, left : left + 28] for t in (0, 28) for left in (0, 28, 56)]
    assert torch.equal(tiles[:-1], torch.stack(cut))
    assert torch.equal(tiles[-1:], pixels(image, resize_policy="pad"))


def test_an_image_without_tiles_is_its_overview():
    image = make_photo(50, 90)
    for tiling, place in (("static", 0), ("dynamic", -1)):
        tiles = pixels(image, tiling=tiling)
        assert torch.equal(pixels(image, tiling=tiling, max_tiles=1)[0], tiles[place])


def test_dynamic_tiling_leaves_samples_of_three_images_whole():
    image = make_photo(50, 90)
    processor = make_processor(tiling="dynamic")
    pair, three = [image] * 2, [image] * 3
    assert processor([pair, three, [], [image]])["num_tiles"] == [7, 7, 1, 1, 1, 7]
    assert processor([three], max_split_images=3)["num_tiles"] == [7] * 3
    assert processor([three], max_tiles=[[9, 1, 4]])["num_tiles"] == [7, 1, 5]
    assert processor(three)["num_tiles"] == [7] * 3  # a flat list: each is alone
    assert processor(three, max_tiles=[1, 4, 9])["num_tiles"] == [1, 5, 7]
    assert processor([pair, [image]])["image_numbers"] == [0, 1, 0]
    with pytest.raises(ValueError, match="max_tiles has 2 numbers, but there are 3 images"):
        processor(three, max_tiles=[1, 4])
    with pytest.raises(
        ValueError, match=r"lists of \[1, 2\] numbers, but the samples have \[2, 1\]"
    ):
        processor([pair, [image]], max_tiles=[[1], [1, 1]])


def test_size_need_not_be_square():
    tiles = pixels(make_photo(40, 90), size={"height": 14, "width": 42}, tiling="static")
    assert tiles.shape == (5, 3, 14, 42)


@pytest.mark.parametrize(("place", "row"), [("center", 7), ("top_left", 0)])
def test_padding_has_its_colour_and_place(place, row):
    image = Image.new("RGB", (100, 50), (255, 0, 0))
    tile = pixels(image, resize_policy="pad", pad_place=place, pad_color=(1, 2, 3))[0]
    is_image = (tile == torch.tensor([255, 0, 0])[:, None, None]).all(dim=0)
    assert is_image[row : row + 14].all() and is_image.sum() == 14 * 28
    assert (tile[:, ~is_image] == torch.tensor([1, 2, 3])[:, None]).all()


def test_padding_is_zero_after_normalisation_by_default():
    tile = make_processor(resize_policy="pad")(Image.new("RGB", (100, 50)))["pixel_values"][0]
    assert tile[:, 0].abs().max() < 0.5 / 255 / 0.26


# Values


@pytest.mark.parametrize("make", [make_photo, make_drawing])
@pytest.mark.parametrize(
    "shape", [(480, 640), (1200, 300), (300, 1200), (900, 800), (100, 60), (1000, 378), (30, 700)]
)
def test_pixels_are_within_one_step_of_pillow(make, shape):
    image = make(*shape)
    expected = np.array(image.resize((112, 112), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    made = pixels(image, size={"height": 112, "width": 112})[0].numpy()
    distance = np.abs(made.astype(int) - expected)
    assert (distance <= 1).mean() >= 0.99


def test_crop_makes_the_pixels_of_transformers_clip():
    image = make_photo(123, 200)
    size = {"height": 56, "width": 56}
    clip = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size)
    expected = clip(image, return_tensors="pt")["pixel_values"]
    made = make_processor(size=size, resize_policy="crop")(image)["pixel_values"]
    assert ((made - expected).abs() <= 1.01 / 255 / 0.26).float().mean() >= 0.99


def test_thin_crops_agree_with_whole_ones():
    image = make_photo(20, 400)
    whole = image.resize((560, 28), Image.Resampling.BICUBIC).crop((266, 0, 294, 28))
    made = pixels(image, resize_policy="crop")[0].permute(1, 2, 0).numpy()
    assert (np.abs(made.astype(int) - np.array(whole)) <= 1).mean() >= 0.99


def test_floats_are_the_normalised_bytes():
    image = make_photo(50, 60)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    floats = make_processor(image_mean=mean, image_std=std)(image)["pixel_values"]
    byte_values = pixels(image).double() / 255
    expected = (byte_values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert floats.dtype == torch.float32 and floats.is_contiguous()
    torch.testing.assert_close(floats.double(), expected, atol=1e-5, rtol=0)
    rescaled = make_processor(do_normalize=False)(image)["pixel_values"]
    torch.testing.assert_close(rescaled.double(), byte_values, atol=1e-6, rtol=0)


def test_one_image_is_the_same_alone_and_in_a_batch():
    images = [make_photo(60, 40), make_drawing(33, 90), make_photo(10, 10, seed=1)]
    processor = make_processor(tiling="static")
    together = processor(images)
    alone = [processor(image)["pixel_values"] for image in images]
    assert together["num_tiles"] == [5, 5, 5]
    assert torch.equal(together["pixel_values"], torch.cat(alone))
    nested = processor([images[:1], [], images[1:]])
    assert torch.equal(nested["pixel_values"], together["pixel_values"])


# Kinds of input


def test_every_kind_of_input_makes_the_same_pixels(tmp_path):
    image = make_photo(40, 60)
    array = np.array(image)
    data = encode(image)
    path = tmp_path / "image.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    kinds = {
        "numpy height width channels": array,
        "numpy channels first": array.transpose(2, 0, 1),
        "torch channels first": torch.from_numpy(array).permute(2, 0, 1),
        "torch channels last": torch.from_numpy(array),
        "int64": array.astype(np.int64),
        "big-endian uint16": array.astype(">u2") * 257,
        "mirrored twice": array[::-1, ::-1].copy()[::-1, ::-1],
        "float 0 to 1": array / 255,
        "float 0 to 255": array.astype(np.float32),
        "float16 tensor": torch.from_numpy(array / 255).half(),
        "path": path,
        "path as text": str(path),
        "bytes": data,
        "memoryview": memoryview(data),
        "data URI": f"data:image/png;base64,{text}",
        "base64": text,
        "RGBA, opaque": image.convert("RGBA"),
    }
    expected = pixels(image)
    for kind, value in kinds.items():
        assert torch.equal(pixels(value), expected), kind
        assert read_image_size(value) == (40, 60), kind


def test_grey_is_the_same_in_every_form():
    grey = make_photo(40, 60).convert("L")
    array = np.array(grey)
    expected = pixels(grey)
    for value in (array, array[None], array[:, :, None], torch.from_numpy(array)):
        assert torch.equal(pixels(value), expected)
    assert torch.equal(expected[:, 0], expected[:, 2])


def test_sixteen_bits_become_eight():
    grey = np.array(make_photo(40, 60).convert("L"))
    sixteen = grey.astype(np.uint16) * 257
    image = Image.fromarray(sixteen)
    assert image.mode == "I;16"
    assert torch.equal(pixels(image), pixels(grey))
    assert torch.equal(pixels(encode(image)), pixels(grey))
    assert torch.equal(pixels(Image.fromarray(grey.astype(np.int32) * 257)), pixels(grey))
    assert torch.equal(pixels(Image.fromarray(grey.astype(np.float32))), pixels(grey))


def test_one_bit_is_black_and_white():
    bits = np.array(make_photo(28, 28).convert("L")) > 128
    expected = torch.from_numpy(bits * np.uint8(255)).expand(3, -1, -1)
    assert torch.equal(pixels(bits)[0], expected)
    assert torch.equal(pixels(Image.fromarray(bits))[0], expected)
    assert torch.equal(pixels(encode(Image.fromarray(bits)))[0], expected)


def test_transparent_pixels_lie_on_white_in_every_form():
    colours = np.array(make_photo(28, 28))
    alpha = np.linspace(0, 255, 28 * 28).astype(np.uint8).reshape(28, 28, 1)
    rgba = Image.fromarray(np.concatenate([colours, alpha], axis=2))
    exact = (colours * (alpha / 255.0) + 255 * (1 - alpha / 255.0)).transpose(2, 0, 1)
    made = pixels(rgba)[0]
    assert np.abs(made.numpy() - exact).max() <= 0.51
    for value in (np.array(rgba), torch.from_numpy(np.array(rgba)).permute(2, 0, 1), encode(rgba)):
        assert torch.equal(pixels(value)[0], made)
    clear = Image.new("P", (28, 28), 3)
    clear.info["transparency"] = 3
    assert (pixels(clear) == 255).all()
    assert (pixels(Image.new("LA", (28, 28), (0, 0))) == 255).all()


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colour_modes_are_converted_as_pillow_does(mode):
    image = make_photo(28, 28)
    if mode == "LAB":
        image = Image.new("LAB", (28, 28), (100, 120, 130))
    image = image.convert(mode)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(pixels(image)[0], expected)


def test_a_jpeg_in_cmyk_can_be_read():
    data = encode(make_photo(28, 28).convert("CMYK"), format="JPEG")
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(pixels(data)[0].numpy(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = make_photo(28, 56)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, exif=exif.tobytes())
    assert torch.equal(pixels(data), pixels(upright))
    opened = Image.open(io.BytesIO(data))
    assert torch.equal(pixels(opened), pixels(upright))
    assert opened.size == stored.size  # the caller's image is left as it was
    assert read_image_size(data) == (28, 56)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("fast", [True, False])
def test_a_jpeg_is_the_same_from_every_decoder(monkeypatch, tmp_path, orientation, fast):
    image = make_photo(61, 90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image, format="JPEG", quality=85, exif=exif.tobytes())
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    if not fast:
        monkeypatch.setattr(decoding_mm1, "simplejpeg", None)
    elif decoding_mm1.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    opened = Image.open(path)
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    for form in (data, path, opened, loaded):
        made = to_rgb(open_image(form, "it"), name="it").permute(1, 2, 0).numpy()
        assert np.abs(made.astype(int) - expected).max() <= 1


def test_a_changed_picture_is_not_read_from_its_file_again():
    opened = Image.open(io.BytesIO(encode(make_photo(28, 28), format="JPEG")))
    opened.paste((1, 2, 3), (0, 0, 28, 28))
    assert (pixels(opened)[0] == torch.tensor([1, 2, 3])[:, None, None]).all()


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(file_format):
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], format=file_format, save_all=True, append_images=frames[1:], **options)
    assert torch.equal(pixels(data), pixels(frames[0]))


# Bad input

_array = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "is None of type NoneType, but a PIL image"),
        (7, "is 7 of type int"),
        ({}, "is {} of type dict"),
        ("no/such/file.png", "'no/such/file.png', but an existing file"),
        ("data:image/png,abc", "a base64 data URI is expected"),
        (b"not a picture", "is no readable picture"),
        (b"", "is no readable picture"),
        (_array[:0], r"has shape \(0, 8, 3\), but at least one pixel is expected"),
        (Image.new("RGB", (0, 5)), r"has size \(0, 5\), but at least one pixel"),
        (np.full((8, 8, 3), np.nan), "contains NaN or infinite values"),
        (np.full((8, 8, 3), np.inf, np.float32), "contains NaN or infinite values"),
        (torch.full((3, 8, 8), -0.5), "has values from -0.5 to -0.5, but values from 0 to 255"),
        (_array.astype(np.int64) + 256, "has values from 256 to 256"),
        (_array.astype(np.complex64), "has dtype complex64"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "has dtype torch.complex64"),
        (_array.astype(object), "has dtype object"),
        (np.zeros((8, 8, 2), np.uint8), r"has shape \(8, 8, 2\), but height x width"),
        (np.zeros(8, np.uint8), r"has shape \(8,\)"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), r"has shape \(1, 1, 8, 8, 3\)"),
    ],
)
def test_a_bad_image_is_named_with_what_was_found_and_expected(image, message):
    good = make_photo(8, 8)
    with pytest.raises(ImageError, match=f"^Image 1 .*{message}"):
        make_processor()([good, image])
    with pytest.raises(ImageError, match=f"^Sample 2, image 1 .*{message}"):
        make_processor()([[good], [], [good, image]])


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_truncated_file_is_named(file_format):
    data = encode(make_photo(200, 200), format=file_format)
    with pytest.raises(ImageError, match=r"^Image 1 cannot be decoded .*a whole file is expected"):
        make_processor()([make_photo(8, 8), data[: len(data) // 2]])


@pytest.mark.parametrize("limit", [60, 30])
def test_a_decompression_bomb_is_refused_before_decoding(monkeypatch, limit):
    data = encode(Image.new("RGB", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow warns at one limit, fails at two
    with pytest.raises(ImageError, match=f"Image 0 is too large .*at most {limit} pixels"):
        make_processor()(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match="is too large"):
            make_processor()(data)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "list of images is empty"),
        ([[], []], "list of images is empty"),
        ([[_array], _array], "Entry 1 of images is a single image while others are lists"),
        ([[_array, [_array]]], "Sample 0 of images holds a list inside a list"),
    ],
)
def test_wrong_nesting_is_explained(images, message):
    with pytest.raises(ValueError, match=message):
        make_processor()(images)


def test_arrays_of_four_axes_are_lists():
    photos = np.stack([np.array(make_photo(8, 9, seed=seed)) for seed in range(3)])
    assert torch.equal(pixels(photos), pixels(list(photos)))
    assert torch.equal(pixels([photos[:1], photos[1:]]), pixels(list(photos)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tiling": "2x2"}, "tiling is '2x2', but it must be one of: 'none', 'static', 'dynamic'"),
        ({"max_tiles": 0}, "max_tiles is 0, but it must be at least 1"),
        ({"min_tiles": 0}, "min_tiles is 0"),
        ({"resize_policy": "fit"}, "resize_policy is 'fit'"),
        ({"pad_place": "left"}, "pad_place is 'left'"),
        ({"pad_color": (0, 0)}, "three numbers from 0 to 255"),
        ({"size": {"shortest_edge": 28}}, "'height' and 'width' of a tile"),
        ({"resample": 2}, "only bicubic"),
        ({"do_center_crop": True}, "resize_policy='crop'"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"data_format": "channels_last"}, "only channels_first exists"),
    ],
)
def test_wrong_settings_are_refused_at_once_and_per_call(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_processor(**kwargs)
    with pytest.raises(ValueError, match=message):
        make_processor()(make_photo(8, 8), **kwargs)


def test_without_resizing_only_tiles_are_accepted():
    tile = make_photo(28, 28)
    processor = make_processor(do_resize=False, **EXACT)
    assert torch.equal(processor(tile)["pixel_values"], pixels(tile))
    with pytest.raises(ImageError, match="Image 0: do_resize is false, but the image has 8 x 9"):
        processor(make_photo(8, 9))
    with pytest.raises(ValueError, match="do_resize is false"):
        processor.get_number_of_image_patches(28, 28, {"tiling": "static"})


def test_without_conversion_only_rgb_is_accepted():
    processor = make_processor(do_convert_rgb=False)
    processor([make_photo(8, 8), _array])
    for grey in (make_photo(8, 8).convert("L"), _array[:, :, 0]):
        with pytest.raises(ImageError, match=r"Image 0 has channels .*Set do_convert_rgb=True"):
            processor(grey)


def test_ambiguous_axes_follow_the_library_or_the_argument():
    array = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3) * 5
    first = pixels(array, input_data_format="channels_first")
    last = pixels(array, input_data_format="channels_last")
    assert torch.equal(pixels(array), last)
    assert torch.equal(pixels(torch.from_numpy(array)), first)
    assert not torch.equal(first, last)


# Saving


def test_edited_settings_survive_saving_and_the_type_has_one_name(tmp_path):
    for cls in (MM1ImageProcessor, MM1ImageProcessorPil):
        processor = cls(size=56)
        processor.tiling = "static"
        processor.resize_policy = "pad"
        processor.pad_color = [9, 8, 7]
        processor.image_mean = [0.1, 0.2, 0.3]
        processor.save_pretrained(tmp_path)
        loaded = cls.from_pretrained(tmp_path)
        assert loaded.to_json_string() == processor.to_json_string()
        assert loaded.to_dict()["image_processor_type"] == "MM1ImageProcessor"
        image = make_photo(50, 70)
        assert torch.equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])


def test_settings_of_one_call_do_not_stay():
    processor = make_processor()
    image = make_photo(8, 8)
    assert processor(image, tiling="static", size=14)["pixel_values"].shape == (5, 3, 14, 14)
    assert processor(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 28, 28)
    assert isinstance(processor(image, return_tensors="np")["pixel_values"], np.ndarray)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_sizes_come_from_the_header_alone(file_format):
    file = io.BytesIO()
    Image.effect_noise((300, 200), 90).convert("RGB").save(file, file_format)
    beginning = file.getvalue()[: len(file.getvalue()) // 2]
    assert read_image_size(beginning) == (200, 300), "half a file has no decodable pixels"
