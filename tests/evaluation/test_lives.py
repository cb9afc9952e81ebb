"""A killed evaluation goes on; two processes of a training ask together."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import lives

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("lives.py")


def start(folder: Path, what: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), what],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_and_resumed_it_gives_the_answers_of_an_unbroken_run(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed, "evaluate")
    path, end = killed / "answers.jsonl", time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()
    kept = path.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert 20 <= kept.count(b"\n") < 2 * lives.NUM_EXAMPLES
    path.write_bytes(kept + b'{"seed": 0, "key": "q')
    resumed = lives.run_evaluation(killed, batch_size=16)
    assert path.read_bytes().startswith(kept)
    unbroken = lives.run_evaluation(whole, batch_size=1)
    assert resumed == unbroken
    for name in ("results.json", "results.txt", "answers.html"):
        assert (killed / name).read_text() == (whole / name).read_text()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[list[dict]]:
    """What each of two ranks saw of two trainings."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [start(folder, "train", RANK=str(n), LOCAL_RANK=str(n), **shared) for n in range(2)]
    said = [rank.communicate(timeout=240)[0] for rank in started]
    assert [rank.returncode for rank in started] == [0, 0], "\n".join(said)[-4000:]
    return [json.loads((folder / f"{n}.json").read_text()) for n in range(2)]


def test_two_ranks_share_the_examples_and_tell_the_same(ranks):
    told = []
    for seen, _ in ranks:
        assert seen["model"] == "DistributedDataParallel" and seen["error"] is None
        assert list(seen["together"]) == ["2", "4"]
        assert seen["together"]["4"] == seen["alone"]
        logs = [e for e in seen["logs"] if "eval_colours_accuracy" in e]
        told.append([log["eval_colours_accuracy"] for log in logs])
    assert told[0] == told[1] and len(told[0]) == 2


def test_an_error_on_one_rank_ends_all(ranks):
    assert [seen["error"] for _, seen in ranks] == ["No prompt for q5."] * 2
