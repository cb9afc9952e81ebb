"""Publishing and loading over HTTP, against a Hub on loopback, as huggingface_hub really asks.

Clients are processes of their own, as the address of the Hub is read when its library is imported.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

from ..hub import small_models
from ..hub.loopback_hub import TOKEN, Blob, LoopbackHub, Repository

pytestmark = pytest.mark.slow

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub().running() as running:
        yield running


@pytest.fixture(scope="module")
def small(make_tokenizer):
    torch.manual_seed(0)
    return small_models.make("own", make_tokenizer)


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    small.model.save_pretrained(folder)
    small.processor.save_pretrained(folder)
    return folder


def start(hub, program: str, *arguments, home: Path, token: str | None = TOKEN):
    """Start a client with a cache of its own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": token or "",
    }
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=home,
    )


def run(hub, program: str, *arguments, home: Path, token: str | None = TOKEN) -> str:
    """Run a client to its end; what it printed."""
    process = start(hub, program, *arguments, home=home, token=token)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-4000:]
    return out


# A client that pushes, loads revisions, and meets what is refused.
CLIENT = """
    import contextlib, io, json, sys
    from PIL import Image
    from huggingface_hub import HfApi, snapshot_download
    import mm1_hf
    from mm1_hf.cli import main
    from transformers import AutoModelForImageTextToText, AutoProcessor, logging
    logging.set_verbosity_error()
    folder, repo = sys.argv[1], "ada/pushed"
    api, seen, picture = HfApi(), {}, Image.new("RGB", (40, 30))

    def bias(revision=None):
        model = AutoModelForImageTextToText.from_pretrained(repo, revision=revision)
        return model.model.connector.projector.readout[0].bias.sum().item()

    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.push_to_hub(repo)
    AutoProcessor.from_pretrained(folder).push_to_hub(repo)
    first = api.model_info(repo).sha
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="wip")
    model.model.connector.projector.readout[0].bias.data.fill_(1.0)
    model.push_to_hub(repo, revision="wip")
    seen["biases"] = {r: bias(r) for r in ("main", "v1", "wip", first)}
    processor = AutoProcessor.from_pretrained(repo)
    seen["tokens"] = processor(text=["a <image>"], images=[picture])["input_ids"]
    seen["snapshot"] = snapshot_download(repo, revision="v1")

    def error_of(action):
        try:
            action()
        except Exception as error:
            return [type(error).__name__, str(error)]

    def load(repo, **kwargs):
        return lambda: AutoModelForImageTextToText.from_pretrained(repo, **kwargs)

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(["doctor", "ada/missing", "--quick"])
    seen["errors"] = {
        "missing": error_of(load("ada/missing")),
        "revision": error_of(load(repo, revision="v2")),
        "gated": error_of(load("ada/gated", token=False)),
        "refused": error_of(load("ada/refused")),
        "private": error_of(load("ada/private", token=False)),
        "empty": error_of(load("ada/empty")),
        "command": [str(status), said.getvalue()],
    }
    print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(hub, checkpoint, tmp_path_factory):
    """What one client sees of it all."""
    for name, access in (("gated", "gated"), ("refused", "refused"), ("empty", "open")):
        hub.repositories[f"ada/{name}"] = Repository(access=access)
        hub.repositories[f"ada/{name}"].commit({"README.md": Blob(b"nothing yet", False)})
    hub.repositories["ada/private"] = Repository(private=True)
    hub.repositories["ada/private"].commit({})
    home = tmp_path_factory.mktemp("client")
    return json.loads(run(hub, CLIENT, checkpoint, home=home).splitlines()[-1])


def test_what_is_pushed_is_what_is_loaded_at_every_revision(seen, small, hub):
    bias = small.model.model.connector.projector.readout[0].bias
    untouched = pytest.approx(bias.sum().item())
    sha = hub.repositories["ada/pushed"].tags["v1"]
    assert seen["biases"] == {
        "main": untouched,
        "v1": untouched,
        sha: untouched,
        "wip": pytest.approx(float(bias.numel())),
    }


def test_the_processor_is_pushed_beside_the_model(seen, small):
    placeholders = seen["tokens"][0].count(small.processor.image_token_id)
    assert placeholders == small.processor.plan([(30, 40)]).num_tokens[0]


def test_a_snapshot_is_byte_by_byte_what_was_pushed(seen, hub):
    snapshot = Path(seen["snapshot"])
    files = hub.files("ada/pushed", "v1")
    assert {WEIGHTS, "processor_config.json", "README.md"} <= set(files)
    assert {name: (snapshot / name).read_bytes() for name in files} == files


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", ("ada/missing", "not a valid model identifier")),
        ("revision", ("v2", "not a valid git identifier")),
        ("gated", ("gated repo", "ada/gated")),
        ("refused", ("gated repo", "ada/refused")),
        ("private", ("ada/private", "private")),
        ("empty", ("ada/empty", "config.json")),
    ],
)
def test_what_the_hub_refuses_is_an_error_that_says_why(seen, case, words):
    kind, message = seen["errors"][case]
    assert kind in ("OSError", "ValueError")
    assert all(word in message for word in words), message


def test_a_command_says_in_words_that_a_repository_is_missing(seen):
    status, message = seen["errors"]["command"]
    assert status == "2" and message.startswith("mm1 doctor: ") and "ada/missing" in message


COMMAND = """
    import sys
    from mm1_hf.cli import main
    raise SystemExit(main(sys.argv[1:]))
"""
READER = """
    import json, sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "mm1_hf":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    trust = {"trust_remote_code": True, "revision": "candidate"}
    model = AutoModelForImageTextToText.from_pretrained("ada/published", **trust).eval()
    processor = AutoProcessor.from_pretrained("ada/published", **trust)
    picture = Image.new("RGB", (40, 30), "red")
    inputs = processor(text="a <image> b", images=picture, return_tensors="pt")
    with torch.no_grad():
        print(json.dumps(model(**inputs).logits.tolist()))
"""


def test_mm1_publish_brings_a_model_to_readers_without_the_package(
    hub, checkpoint, small, tmp_path
):
    from PIL import Image

    arguments = ["publish", checkpoint, "ada/published", "--private", "--license", "mit"]
    out = run(hub, COMMAND, *arguments, "--revision", "candidate", home=tmp_path)
    repository = hub.repositories["ada/published"]
    assert repository.private and repository.refs["candidate"] in out
    assert "config.json" not in hub.files("ada/published"), "main is untouched"
    files = hub.files("ada/published", "candidate")
    assert b"license: mit" in files["README.md"] and "modeling_mm1.py" in files

    (tmp_path / "reader").mkdir()
    logits = json.loads(run(hub, READER, home=tmp_path / "reader").splitlines()[-1])
    inputs = small.processor(
        text="a <image> b", images=Image.new("RGB", (40, 30), "red"), return_tensors="pt"
    )
    with torch.no_grad():
        expected = small.model(**inputs).logits
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4)


# The call that `publish` makes in the end; tests/hub/test_upload.py is about the rest of it.
UPLOAD = """
    import sys
    from huggingface_hub import HfApi
    HfApi().create_repo("ada/interrupted", exist_ok=True)
    HfApi().upload_folder(repo_id="ada/interrupted", folder_path=sys.argv[1])
"""
DOWNLOAD = """
    import sys
    from huggingface_hub import snapshot_download
    print(snapshot_download(sys.argv[1]))
"""


@pytest.fixture
def held(hub):
    """The Hub stops half-way through large files."""
    hub.objects.clear()  # what is there already would not be sent
    hub.held.clear()
    hub.hold = release = threading.Event()
    yield
    release.set()
    hub.hold = None


def kill_when_held(hub, process) -> None:
    """Kill a client half-way; the next one finds a Hub that does not stop."""
    assert hub.held.wait(timeout=60), "the client never came to a large file"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    release, hub.hold = hub.hold, None
    release.set()


def test_an_upload_that_dies_shows_nothing_and_succeeds_the_next_time(
    hub, checkpoint, held, tmp_path
):
    kill_when_held(hub, start(hub, UPLOAD, checkpoint, home=tmp_path))
    assert set(hub.files("ada/interrupted")) == {".gitattributes"}
    run(hub, UPLOAD, checkpoint, home=tmp_path)
    files = hub.files("ada/interrupted")
    assert files[WEIGHTS] == (checkpoint / WEIGHTS).read_bytes()
    assert {"config.json", "processor_config.json"} <= set(files)


def stored(hub, repo: str, content: bytes) -> bytes:
    hub.repositories[repo] = Repository()
    hub.repositories[repo].commit({WEIGHTS: Blob(content, True), "config.json": Blob(b"{}", False)})
    return content


def test_a_download_that_breaks_off_is_completed(hub, tmp_path):
    content = stored(hub, "ada/large", os.urandom(2_000_000))
    hub.break_download = WEIGHTS
    place = Path(run(hub, DOWNLOAD, "ada/large", home=tmp_path).strip())
    assert (place / WEIGHTS).read_bytes() == content
    asked = [line for line in hub.log if line.startswith("GET /ada/large/") and WEIGHTS in line]
    assert len(asked) == 2, "the second request is for the rest, or for all of it again"


def test_a_download_that_was_killed_leaves_nothing_that_is_taken_for_whole(hub, held, tmp_path):
    content = stored(hub, "ada/killed", os.urandom(2_000_000))
    kill_when_held(hub, start(hub, DOWNLOAD, "ada/killed", home=tmp_path))
    assert not list(tmp_path.rglob(f"snapshots/*/{WEIGHTS}"))
    place = Path(run(hub, DOWNLOAD, "ada/killed", home=tmp_path).strip())
    assert (place / WEIGHTS).read_bytes() == content
