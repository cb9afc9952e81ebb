"""Video as frames: which ones, read exactly, and handed to the model as images.

MM1.5 sees a video as 24 frames, sampled uniformly, each one image of 144 tokens, none cut into
tiles. Reading needs PyAV: `pip install "mm1-hf[video]"`.

Source: MM1.5, arXiv 2409.20566 (number of frames, uniform sampling, no splitting).
"""

import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image

VideoSource = str | os.PathLike | bytes
Spacing = Literal["frames", "time"]
TimeMarks = Literal["none", "seconds"]

NUM_FRAMES = 24
"""Frames per video. Source: MM1.5, arXiv 2409.20566."""

# Packets of these codecs may decode to nothing, so that counting packets miscounts frames.
_CODECS_WITH_HIDDEN_FRAMES = frozenset({"vp8"})
_UNITS = 1 << 16  # one, in the fixed-point numbers of a display matrix


class VideoError(ValueError):
    """A video that cannot be used; the message says which one, what was found and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledFrames:
    """Frames of a video, in the order in which they are shown.

    Attributes:
        frames: Upright RGB pictures.
        seconds: When each is shown, counted from the first frame of the video.
        positions: Which frame of the video each is, counted from 0.
        num_frames_total: Frames of the whole video.
    """

    frames: list[Image.Image]
    seconds: list[float]
    positions: list[int]
    num_frames_total: int


def sample_frames(num_frames_total: int, num_frames: int = NUM_FRAMES) -> list[int]:
    """Which frames to take from a video of `num_frames_total`: spread evenly, in order.

    The video is cut into `num_frames` spans of equal length, and the frame in the middle of each is
    taken (our choice: MM1.5 says "uniformly"). A shorter video gives each of its frames once.

    >>> sample_frames(100, num_frames=4)
    [12, 37, 62, 87]
    >>> sample_frames(3)
    [0, 1, 2]

    Raises:
        ValueError: If either number is smaller than one.
    """
    if num_frames_total < 1 or num_frames < 1:
        raise ValueError(
            f"{num_frames} of {num_frames_total} frames were asked for, but both numbers must be "
            "at least 1."
        )
    if num_frames_total <= num_frames:
        return list(range(num_frames_total))
    return [(2 * i + 1) * num_frames_total // (2 * num_frames) for i in range(num_frames)]


def sample_times(times: Sequence[int], num_frames: int = NUM_FRAMES) -> list[int]:
    """Which frames to take so that they are spread evenly over time, not over frames.

    As `sample_frames`, but each span has the same duration, and the frame on show in its middle is
    taken. At a constant frame rate both are the same. A frame that stays on show through several
    middles is taken once, so that fewer than `num_frames` may come back. The last frame is assumed
    to stay as long as the others on average.

    >>> sample_times([0, 10, 20, 30, 40, 50, 60, 70, 80, 90], num_frames=2)
    [2, 7]
    >>> sample_times([0, 1, 2, 3, 80, 90], num_frames=2)
    [3, 4]

    Args:
        times: When each frame begins, ascending, in any unit.
        num_frames: How many to take.

    Raises:
        ValueError: If there is no frame, or `num_frames` is smaller than one.
    """
    total = len(times)
    if total <= num_frames:
        return sample_frames(total, num_frames)
    duration = Fraction(times[-1] - times[0]) * total / (total - 1)
    middles = (
        times[0] + duration * (2 * i + 1) / (2 * num_frames)
        for i in range(len(sample_frames(total, num_frames)))
    )
    return sorted({bisect_right(times, middle) - 1 for middle in middles})


def read_video(
    source: VideoSource, *, num_frames: int = NUM_FRAMES, spacing: Spacing = "frames"
) -> SampledFrames:
    """Read evenly spread frames of a video.

    Positions are exact, whatever the frame rate does: frames are counted in the file, not computed
    from its header. Frames are turned upright as the file's metadata say, and stretched to square
    pixels. No other file and no address is opened, whatever stands in the video file.

    A file that breaks off is an error where its container says how much is missing (MP4); a
    Matroska or transport stream is read as far as it goes.

    Args:
        source: A path, or the bytes of a file.
        num_frames: How many frames to take; of a shorter video, all.
        spacing: `"frames"` spreads them over the frames (`sample_frames`), `"time"` over time
            (`sample_times`), which differs where the frame rate varies.

    Raises:
        ImportError: If PyAV is missing.
        VideoError: If the file is damaged, has no picture, or ends before its time.
        ValueError: If `num_frames` or `spacing` is not as expected.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, but at least one frame must be taken.")
    if spacing not in get_args(Spacing):
        raise ValueError(f"spacing is {spacing!r}, but it must be 'frames' or 'time'.")

    def choose(times: Sequence[int]) -> list[int]:
        if spacing == "time":
            return sample_times(times, num_frames)
        return sample_frames(len(times), num_frames)

    index = _index_packets(source)
    positions = [] if index is None else choose(index.times)
    frames = None if index is None else _decode_with_seeks(source, index, positions)
    if index is None or frames is None:
        index = _index_frames(source)
        positions = choose(index.times)
        frames = _decode_through(source, positions)
    seconds = [float((index.times[at] - index.times[0]) * index.time_base) for at in positions]
    return SampledFrames(
        frames=frames, seconds=seconds, positions=positions, num_frames_total=len(index.times)
    )


def frame_parts(video: SampledFrames, *, time_marks: TimeMarks = "none") -> list[dict[str, Any]]:
    """Parts of a chat message that show the frames of a video, in order.

    `{"role": "user", "content": [*frame_parts(video), {"type": "text", "text": "What happens?"}]}`
    goes to `processor.apply_chat_template`; see the guide for the setting that keeps frames from
    being cut into tiles.

    Args:
        video: From `read_video`.
        time_marks: `"seconds"` puts a text such as `"12.4 s: "` before each frame; MM1.5 describes
            none.
    """
    if time_marks not in get_args(TimeMarks):
        raise ValueError(f"time_marks is {time_marks!r}, but it must be 'none' or 'seconds'.")
    parts: list[dict[str, Any]] = []
    for frame, seconds in zip(video.frames, video.seconds, strict=True):
        if time_marks == "seconds":
            parts.append({"type": "text", "text": f"{seconds:.1f} s: "})
        parts.append({"type": "image", "image": frame})
    return parts


class _Index(NamedTuple):
    """When every frame is shown, ascending, in units of `time_base` seconds."""

    times: list[int]
    key_times: list[int]  # of the frames that decoding can begin with
    time_base: Fraction


def _index_packets(source: VideoSource) -> _Index | None:
    """Index a video without decoding it; `None` where packets do not tell the frames."""
    with _opened(source) as (container, stream):
        if stream.codec_context.name in _CODECS_WITH_HIDDEN_FRAMES:
            return None
        packets = [
            (packet.pts, packet.is_keyframe, packet.is_discard)
            for packet in container.demux(stream)
            if packet.size
        ]
        time_base = stream.time_base
    if not packets or any(time is None or is_discard for time, _, is_discard in packets):
        return None
    times = sorted(time for time, _, _ in packets)
    key_times = sorted(time for time, is_key, _ in packets if is_key)
    if len(set(times)) < len(times) or key_times[:1] != times[:1]:
        return None
    return _Index(times, key_times, time_base)


def _index_frames(source: VideoSource) -> _Index:
    """Index a video by decoding all of it."""
    with _opened(source) as (container, stream):
        times = [frame.pts for frame in container.decode(stream)]
        time_base, rate = stream.time_base, stream.average_rate
    if not times:
        raise VideoError(f"{_name(source)} has no frame that can be decoded. Repair or remove it.")
    if None in times or sorted(set(times)) != times:
        # No time stamps to speak of: all that is known is the rate, if even that.
        return _Index(list(range(len(times))), [], 1 / Fraction(rate or 25))
    return _Index(times, [], time_base)


def _decode_with_seeks(
    source: VideoSource, index: _Index, positions: list[int]
) -> list[Image.Image] | None:
    """Decode from key frame to wanted frame; `None` if the frames are not those of the index."""
    images = []
    with _opened(source) as (container, stream):
        decoder: Iterator[Any] = iter(())
        upcoming = -1  # position of the frame that the decoder gives next
        for position in positions:
            key_time = index.key_times[bisect_right(index.key_times, index.times[position]) - 1]
            key_position = bisect_left(index.times, key_time)
            if upcoming < 0 or key_position > upcoming:
                container.seek(key_time, stream=stream)
                decoder, upcoming = container.decode(stream), key_position
            for frame in decoder:
                if frame.pts is not None and frame.pts < index.times[upcoming]:
                    continue
                if frame.pts != index.times[upcoming]:
                    return None
                upcoming += 1
                if upcoming > position:
                    images.append(_to_image(frame, source, stream))
                    break
            else:
                return None
    return images


def _decode_through(source: VideoSource, positions: list[int]) -> list[Image.Image]:
    """Decode from the beginning and keep the frames at the positions."""
    wanted, images = set(positions), []
    with _opened(source) as (container, stream):
        for position, frame in enumerate(container.decode(stream)):
            if position in wanted:
                images.append(_to_image(frame, source, stream))
            if position == positions[-1]:
                break
    return images


def _to_image(frame: Any, source: VideoSource, stream: Any) -> Image.Image:
    """An upright RGB picture with square pixels."""
    if frame.is_corrupt:
        raise VideoError(
            f"{_name(source)} is damaged: its frame at {frame.time} s cannot be decoded whole. "
            "Repair or remove it."
        )
    width, height = frame.width, frame.height
    aspect = stream.sample_aspect_ratio  # width of a pixel, in its heights
    if aspect and aspect != 1:
        width = max(1, round(width * aspect))
    image = frame.to_image(width=width, height=height)
    turn = _turn(frame)
    return image if turn is None else image.transpose(turn)


def _turn(frame: Any) -> Image.Transpose | None:
    """The turn that a frame's display matrix asks for; other angles than quarters are ignored.

    A matrix (a, b, u, c, d, …) puts pixel (x, y) at (a x + c y, b x + d y), up to a shift.
    Source: ISO/IEC 14496-12, 8.3.2; FFmpeg, `libavutil/display.h`.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    turns = {
        (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
        (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
        (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
        (0, 1, -1, 0): Image.Transpose.ROTATE_270,
        (0, -1, 1, 0): Image.Transpose.ROTATE_90,
        (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
        (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    }
    return turns.get((round(a / _UNITS), round(b / _UNITS), round(c / _UNITS), round(d / _UNITS)))


@contextmanager
def _opened(source: VideoSource) -> Iterator[tuple[Any, Any]]:
    """Container and picture stream of a video; what FFmpeg finds wrong becomes a `VideoError`."""
    try:
        import av  # pyright: ignore[reportMissingImports]
        import av.error  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            'Reading videos needs PyAV: pip install "mm1-hf[video]". Or read the frames yourself '
            "and pass them as images; sample_frames says which."
        ) from None
    # FFmpeg opens addresses, and files that playlists name; a file object and an empty list of
    # protocols leave it nothing but these bytes.
    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        try:
            with av.open(file, options={"protocol_whitelist": "none"}) as container:
                yield container, _picture_stream(container, source)
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{_name(source)} cannot be read as a video: {error.strerror}. Repair or remove it."
            ) from error


def _picture_stream(container: Any, source: VideoSource) -> Any:
    if not container.streams.video:
        raise VideoError(f"{_name(source)} has no pictures, only {container.format.long_name}.")
    stream = container.streams.video[0]
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and stream.width * stream.height > 2 * limit:
        raise VideoError(
            f"{_name(source)} has frames of {stream.width} x {stream.height} pixels, more than "
            "twice PIL.Image.MAX_IMAGE_PIXELS. Raise that limit if the video can be trusted."
        )
    return stream


def _name(source: VideoSource) -> str:
    if isinstance(source, bytes):
        return f"The video of {len(source):,d} bytes"
    return f"The video {os.fspath(source)!r}"


__all__ = [
    "NUM_FRAMES",
    "SampledFrames",
    "VideoError",
    "frame_parts",
    "read_video",
    "sample_frames",
    "sample_times",
]
