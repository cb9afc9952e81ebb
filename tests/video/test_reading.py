"""Small videos are made on the spot; every frame shows its number as eight bars."""

import io
import struct
import tempfile
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from PIL import Image

import mm1_hf.video
from mm1_hf.video import VideoError, read_video

av = pytest.importorskip("av")

VARIABLE = [0, 40, 80, 200, 210, 500, 1000, 1001, 1500, 1540, 4000, 4010]
# Codec and container; H.264 with B-frames stores frames in another order than it shows them.
KINDS = [
    ("libx264", "mp4"),
    ("libx264", "matroska"),
    ("libx264", "mpegts"),
    ("mpeg4", "mp4"),
    ("mpeg2video", "mpegts"),
    ("libvpx", "webm"),
    ("libvpx-vp9", "webm"),
]


def bars(number: int, size: tuple[int, int]) -> Image.Image:
    bits = np.array([number >> bit & 1 for bit in range(8)], np.uint8) * 255
    return Image.fromarray(bits[None]).resize(size, Image.Resampling.NEAREST)


def make_video(
    times: list[int],
    *,
    codec: str = "libx264",
    container: str = "mp4",
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
    header: Literal["behind", "in front"] = "behind",
    pictures: list[Image.Image] | None = None,
    pixel_aspect: Fraction | None = None,
) -> bytes:
    """A video whose frames are shown at `times`, in milliseconds."""
    file = tempfile.NamedTemporaryFile(suffix=".video")  # "faststart" reads again what it wrote
    flags = {"movflags": "faststart"} if header == "in front" else {}
    base = Fraction(1, 25 if codec.startswith("mpeg") else 1000)
    with file, av.open(file.name, "w", format=container, options=flags) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = base
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for number, time in enumerate(times):
            picture = pictures[number] if pictures else bars(number, size)
            frame = av.VideoFrame.from_image(picture.convert("RGB"))
            frame.pts, frame.time_base = round(time / 1000 / base), base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        output.close()
        return Path(file.name).read_bytes()


def numbers(frames: list[Image.Image]) -> list[int]:
    bits = [np.asarray(frame.resize((8, 1), Image.Resampling.BOX)).mean(-1)[0] for frame in frames]
    return [int(sum((bit > 128) << place for place, bit in enumerate(row))) for row in bits]


def noise(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (48, 64), np.uint8)) for _ in range(count)]


def steady(count: int) -> list[int]:
    return list(range(0, 40 * count, 40))


@pytest.mark.parametrize(("codec", "container"), KINDS)
def test_the_frames_at_the_positions_are_read(codec, container):
    data = make_video(steady(60), codec=codec, container=container, options={"g": "7", "bf": "2"})
    for count in (1, 4, 60):
        video = read_video(data, num_frames=count)
        assert video.num_frames_total == 60
        assert numbers(video.frames) == video.positions
        assert video.seconds == pytest.approx([at * 0.04 for at in video.positions], abs=2e-3)
        assert len(video.frames) == count


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_positions_and_times_are_exact_at_a_variable_rate(container):
    data = make_video(VARIABLE, container=container, options={"g": "5"})
    for count in (1, 2, 3, 5, 12):
        video = read_video(data, num_frames=count)
        assert numbers(video.frames) == video.positions
        expected = [VARIABLE[at] / 1000 for at in video.positions]
        assert video.seconds == pytest.approx(expected, abs=1e-3)


def test_over_time_what_is_long_on_show_is_taken():
    data = make_video(VARIABLE, options={"g": "5"})
    video = read_video(data, num_frames=2, spacing="time")
    assert video.positions == numbers(video.frames) == [7, 9]
    assert read_video(data, num_frames=2).positions == [3, 9]


def test_a_short_video_gives_each_frame_once():
    video = read_video(make_video(steady(3)))
    assert video.positions == numbers(video.frames) == [0, 1, 2]
    assert read_video(make_video([0])).positions == [0]


def test_only_the_way_from_the_nearest_key_frame_is_decoded(monkeypatch):
    decoded = []
    opened = mm1_hf.video._opened

    @contextmanager
    def counting(source):
        with opened(source) as (container, stream):

            def decode(stream):
                for frame in container.decode(stream):
                    decoded.append(frame.pts)
                    yield frame

            names = {"demux": container.demux, "seek": container.seek, "decode": decode}
            yield SimpleNamespace(**names), stream

    monkeypatch.setattr(mm1_hf.video, "_opened", counting)
    data = make_video(steady(200), options={"g": "10", "bf": "0", "sc_threshold": "0"})
    assert read_video(data, num_frames=3).positions == [33, 100, 166]
    assert len(decoded) == 4 + 1 + 7, "from frames 30, 100 and 160"
    decoded.clear()
    read_video(data, num_frames=100)
    assert len(decoded) == 200, "neighbours go on from where the decoder stands"


def test_groups_of_pictures_that_lean_on_the_one_before_are_read_exactly():
    settings = "open-gop=1:bframes=2:b-adapt=0:keyint=6:min-keyint=6:scenecut=0"
    data = make_video(steady(60), options={"x264-params": settings})
    for count in (3, 7, 20, 60):
        video = read_video(data, num_frames=count)
        assert numbers(video.frames) == video.positions


def test_packets_that_do_not_tell_the_frames_are_noticed(monkeypatch):
    honest = mm1_hf.video._index_packets

    def one_too_many(source):
        index = honest(source)
        return index._replace(times=sorted([*index.times, index.times[1] + 1]))

    monkeypatch.setattr(mm1_hf.video, "_index_packets", one_too_many)
    video = read_video(make_video(steady(20)), num_frames=4)
    assert video.num_frames_total == 20
    assert numbers(video.frames) == video.positions


def test_bytes_and_paths_are_read_alike(tmp_path):
    data = make_video(steady(9))
    path = tmp_path / "nine.mp4"
    path.write_bytes(data)
    for source in (path, str(path)):
        assert read_video(source, num_frames=3).frames == read_video(data, num_frames=3).frames


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """The MP4 with another display matrix (a, b, c, d) in its track header."""
    a, b, c, d = (value << 16 for value in matrix)
    # 44 bytes: type, version and flags, times, ids, layer, volume; 32-bit times are version 0.
    at = data.index(b"tkhd") + 44
    assert data[at : at + 4] == struct.pack(">i", 1 << 16)
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), None),
        ((0, 1, -1, 0), Image.Transpose.ROTATE_270),  # a phone held upright
        ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
        ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
        ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
        ((1, 0, 0, -1), Image.Transpose.FLIP_TOP_BOTTOM),
        ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
        ((0, -1, -1, 0), Image.Transpose.TRANSVERSE),
    ],
)
def test_frames_are_turned_as_the_file_says(matrix, turn):
    stored = Image.new("L", (64, 48), 30)
    stored.paste(220, (0, 0, 16, 16))
    stored.paste(120, (48, 0, 64, 16))
    data = make_video([0, 40], pictures=[stored, stored], options={"qp": "1"})
    frame = read_video(turned(data, matrix)).frames[0]
    expected = stored if turn is None else stored.transpose(turn)
    assert frame.size == expected.size
    error = np.asarray(frame.convert("L"), float) - np.asarray(expected, float)
    assert np.abs(error).mean() < 4


def test_pixels_become_square():
    data = make_video(steady(2), pixel_aspect=Fraction(3, 2))
    assert read_video(data).frames[0].size == (96, 48)


def test_a_file_that_is_no_video_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video at all" * 100)
    with pytest.raises(VideoError, match=r"broken\.mp4.*cannot be read as a video.*Repair"):
        read_video(path)
    with pytest.raises(VideoError, match="video of 0 bytes"):
        read_video(b"")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("header", ["behind", "in front"])
def test_an_mp4_that_breaks_off_is_an_error(header, share):
    data = make_video(steady(40), pictures=noise(40), header=header)
    assert read_video(data).num_frames_total == 40
    with pytest.raises(VideoError, match="cannot be read"):
        read_video(data[: round(len(data) * share)])


def test_damage_in_the_middle_is_an_error():
    data = bytearray(make_video(steady(40), pictures=noise(40)))
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    with pytest.raises(VideoError):
        read_video(bytes(data))


def test_sound_alone_is_an_error():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="no pictures"):
        read_video(buffer.getvalue())


def test_frames_too_large_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 2 - 1)
    with pytest.raises(VideoError, match="MAX_IMAGE_PIXELS"):
        read_video(make_video([0]))


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_a_playlist_cannot_name_other_files(tmp_path: Path, name):
    other = tmp_path / "other.ts"
    other.write_bytes(make_video(steady(5), container="mpegts"))
    lines = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile other.ts\n",
    }
    playlist = tmp_path / name
    playlist.write_text(lines[name])
    for source in (playlist, lines[name].encode()):
        with pytest.raises(VideoError):
            read_video(source)
