import builtins
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mm1_hf.video import NUM_FRAMES, SampledFrames, frame_parts, read_video, sample_frames
from mm1_hf.video import sample_times as sample_over_time

totals, counts = st.integers(1, 100_000), st.integers(1, 300)


def test_the_papers_number_is_the_default():
    assert NUM_FRAMES == len(sample_frames(1000)) == 24


@given(totals, counts)
def test_frames_are_distinct_in_order_and_as_many_as_can_be(total, count):
    positions = sample_frames(total, count)
    assert positions == sorted(set(positions))
    assert len(positions) == min(total, count)
    assert 0 <= positions[0] and positions[-1] < total


@given(totals, counts)
def test_frames_are_spread_evenly(total, count):
    positions = sample_frames(total, count)
    gaps = [after - before for before, after in pairwise(positions)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(positions[0] - (total - 1 - positions[-1])) <= 1, "as far from either end"


@given(totals, counts, st.integers(-1000, 1000), st.integers(1, 3003))
def test_at_a_constant_rate_time_and_frames_are_sampled_alike(total, count, start, step):
    times = range(start, start + total * step, step)
    assert sample_over_time(times, count) == sample_frames(total, count)


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=200), counts)
def test_over_time_each_frame_is_taken_at_most_once(times, count):
    positions = sample_over_time(sorted(times), count)
    assert positions == sorted(set(positions))
    assert 1 <= len(positions) <= min(len(times), count)


def test_over_time_a_still_picture_counts_once():
    assert sample_over_time([0, 1, 2, 3, 4, 100, 101], 4) == [4, 6]


@pytest.mark.parametrize(("total", "count"), [(0, 4), (-1, 4), (4, 0)])
def test_nothing_cannot_be_sampled(total, count):
    with pytest.raises(ValueError, match="at least 1"):
        sample_frames(total, count)
    with pytest.raises(ValueError, match="at least 1"):
        sample_over_time(range(total), count)


def sampled() -> SampledFrames:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    return SampledFrames(frames=frames, seconds=[0.0, 12.35], positions=[0, 9], num_frames_total=12)


def test_frames_become_image_parts_in_order():
    video = sampled()
    assert frame_parts(video) == [{"type": "image", "image": frame} for frame in video.frames]


def test_time_marks_stand_before_their_frames():
    kinds = [part.get("text", "image") for part in frame_parts(sampled(), time_marks="seconds")]
    assert kinds == ["0.0 s: ", "image", "12.3 s: ", "image"]
    with pytest.raises(ValueError, match="'none' or 'seconds'"):
        frame_parts(sampled(), time_marks="frames")


def test_without_pyav_the_error_says_what_to_install(monkeypatch, tmp_path):
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "av":
            raise ImportError("No module named 'av'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"mm1-hf\[video\]"):
        read_video(tmp_path / "any.mp4")


def test_wrong_settings_are_refused_before_the_file_is_opened():
    with pytest.raises(ValueError, match="num_frames is 0"):
        read_video("nowhere.mp4", num_frames=0)
    with pytest.raises(ValueError, match="'frames' or 'time'"):
        read_video("nowhere.mp4", spacing="seconds")


def test_importing_the_module_needs_neither_torch_nor_pyav():
    code = "import sys, mm1_hf.video; sys.exit(any(n in sys.modules for n in ('torch', 'av')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
