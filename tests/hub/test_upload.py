"""Publishing to the same repository again, and to one that is not ours. In this process."""

import sys

import pytest
from huggingface_hub import constants

from mm1_hf.hub import publish
from mm1_hf.hub.loading import local_folder

from . import small_models
from .loopback_hub import TOKEN, Blob, LoopbackHub

# huggingface_hub's own, in the way of uploading that needs no further server.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PUBLISH = sys.modules[publish.__module__]


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process talks to; what is published has been rehearsed elsewhere."""
    monkeypatch.setattr(PUBLISH, "rehearse", lambda *args, **kwargs: None)
    with LoopbackHub().running() as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        address = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        yield running


@pytest.fixture
def small(make_tokenizer):
    return small_models.make("own", make_tokenizer)


def upload(small, **changes):
    settings = {"processor": small.processor, "repo_id": "ada/digits", "token": TOKEN, **changes}
    return publish(small.model, **settings)


def test_publishing_again_keeps_what_people_wrote_and_leaves_nothing_stale(hub, small):
    first = upload(small, max_shard_size="50KB")
    repository = hub.repositories["ada/digits"]
    assert first.commit.endswith(repository.refs["main"])
    files = dict(repository.commits[repository.refs["main"]])
    assert sum(name.endswith(".safetensors") for name in files) > 1
    card = files["README.md"].content.replace(b"Write here", b"For reading digits. Write here")
    files |= {"README.md": Blob(card, False), "curve.png": Blob(b"a picture", False)}
    repository.commit(files)

    upload(small, remote_code=False)

    there = hub.files("ada/digits")
    assert b"For reading digits." in there["README.md"] and "curve.png" in there
    weights = {name for name in there if "safetensors" in name}
    assert weights == {"model.safetensors"}
    assert not any(name.endswith(".py") for name in there)


def test_everything_comes_with_one_commit(hub, small):
    before = len(hub.repositories)
    upload(small)
    repository = hub.repositories["ada/digits"]
    made, published = repository.commits.values()
    assert before == 0 and set(made) == {".gitattributes"}
    assert {"README.md", "config.json", "model.safetensors", "modeling_mm1.py"} <= set(published)


def test_a_branch_is_made_and_main_stays(hub, small):
    upload(small, revision="candidate")
    assert "config.json" in hub.files("ada/digits", "candidate")
    assert "config.json" not in hub.files("ada/digits", "main")


@pytest.mark.parametrize(
    "changes", [{"token": "hf_wrong"}, {"repo_id": "somebody/else"}], ids=["token", "owner"]
)
def test_a_refusal_is_an_error_that_says_what_to_do(hub, small, changes):
    with pytest.raises(OSError, match="hf auth login"):
        upload(small, **changes)
    assert hub.repositories == {}


def test_without_a_network_nobodys_prose_is_overwritten(hub, small, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="prose would be kept"):
        upload(small)


def test_a_dry_run_asks_for_the_card_and_sends_nothing(hub, small, tmp_path):
    published = upload(small, dry_run=True, folder=tmp_path / "copy")
    assert published.commit is None and "ada/digits" in published.card
    assert not any(line.startswith(("POST", "PUT")) for line in hub.log)
    assert not (tmp_path / "copy").exists()


def test_a_repository_is_found_by_its_name_and_revision(hub, small, tmp_path, monkeypatch):
    upload(small, revision="candidate", private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = local_folder("ada/digits", revision="candidate")
    assert (folder / "processor_config.json").is_file()
    with pytest.raises(OSError, match=r"404|[Nn]ot [Ff]ound"):
        local_folder("ada/nothing")
