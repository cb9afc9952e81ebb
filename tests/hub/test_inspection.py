"""Nothing private is published: every kind is found, named with its remedy, and not repeated."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from mm1_hf.hub import inspect_folder
from mm1_hf.hub.inspection import require_publishable

# Put together here, so that no scanner of this repository takes them for real ones.
HOME = "/".join(["", "home", "ada"])
TOKEN = "hf_" + "Ab1" * 12
SECRETS = {
    "Hugging Face": TOKEN,
    "GitHub token": "ghp_" + "x1" * 18,
    "GitLab": "glpat-" + "x1" * 11,
    "AWS": "AKIA" + "ABCD" * 4,
    "Google": "AIza" + "x" * 35,
    "API key": "sk-proj-" + "x1" * 20,
    "Slack": "xoxb-" + "1" * 24,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "password in a URL": "https://ada:" + "secret@example.com",
}


@pytest.fixture
def folder(tmp_path):
    """What a published model holds, with what looks dangerous and is not."""
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    write(tmp_path / "config.json", {"model_type": "mm1", "_name_or_path": "", "pad_token": "<p>"})
    write(tmp_path / "tokenizer.json", {"model": {"vocab": {HOME + "/x": 1}, "merges": [HOME]}})
    write(tmp_path / "generation_config.json", {"stop": ["</s>", "/answer", "//", "a/b", "1/2"]})
    (tmp_path / "README.md").write_text("See https://arxiv.org/abs/2403.09611, and `hf_token`.")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>", "hf_token": ""}')
    (tmp_path / "vision_mm1.py").write_text("import torch\n")
    return tmp_path


def write(path, content) -> None:
    path.write_text(json.dumps(content))


def only_problem(folder):
    problems = inspect_folder(folder)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_clean_folder_has_no_problem(folder):
    assert inspect_folder(folder) == []
    require_publishable(folder)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("file", ["README.md", "vision_mm1.py", "notes/extra.txt"])
def test_a_secret_is_found_in_any_text_and_never_repeated(folder, name, file):
    (folder / "notes").mkdir()
    (folder / file).write_text(f"first line\nkey = '{SECRETS[name]}'\n")
    problem = only_problem(folder)
    assert problem.file == f"{file}:2" and name in problem.found and "revoke" in problem.remedy
    assert SECRETS[name] not in str(problem)


@pytest.mark.parametrize("key", ["password", "api_key", "wandb_api_key", "hub_token", "HF_TOKEN"])
def test_an_entry_named_like_a_secret_is_found(folder, key):
    write(folder / "config.json", {"nested": [{key: "hunter2"}]})
    problem = only_problem(folder)
    assert f"nested[0].{key}" in problem.found and "hunter2" not in str(problem)


@pytest.mark.parametrize(
    "path", [f"{HOME}/runs/7", "C:\\Users\\ada\\run", "~/runs/7", f"file://{HOME}/x", "/data/x/"]
)
def test_an_absolute_path_in_a_json_file_is_found(folder, path):
    write(folder / "config.json", {"vision_config": {"_name_or_path": path}})
    problem = only_problem(folder)
    assert problem.file == "config.json"
    assert "vision_config._name_or_path" in problem.found and repr(path) in problem.found


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "optimizer.safetensors",
        "rng_state.pth",
        "rng_state_3.pth",
        "scaler.pt",
        "scheduler.pt",
        "trainer_state.json",
        "training_args.bin",
    ],
)
def test_state_of_a_training_is_refused(folder, name):
    (folder / name).write_text("{}")
    assert "state of a training" in only_problem(folder).found


@pytest.mark.parametrize("name", ["pytorch_model.bin", "data.pkl", "adapter.pt", "array.npy"])
def test_a_file_that_may_be_a_pickle_is_refused(folder, name):
    (folder / name).write_bytes(b"\x00\xff")
    problem = only_problem(folder)
    assert "pickle" in problem.found and "safetensors" in problem.remedy


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_known_by_its_content(folder, protocol):
    for number, content in enumerate(({"a": 1}, [1, 2], print, (1, "b"))):
        (folder / f"extra{number}.dat").write_bytes(pickle.dumps(content, protocol=protocol))
    assert {problem.file for problem in inspect_folder(folder)} == {
        f"extra{number}.dat" for number in range(4)
    }


def test_a_link_is_refused(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "notes.txt"
    elsewhere.write_text("mine")
    (folder / "notes.txt").symlink_to(elsewhere)
    assert "symbolic link" in only_problem(folder).found


def test_all_problems_are_told_together(folder):
    (folder / "optimizer.pt").write_bytes(b"")
    (folder / "README.md").write_text(TOKEN)
    with pytest.raises(ValueError, match="2 problems") as error:
        require_publishable(folder)
    assert "optimizer.pt" in str(error.value) and "README.md:1" in str(error.value)
