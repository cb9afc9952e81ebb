"""`mm1 publish` and `mm1 doctor` as they are typed."""

import json
import sys
from pathlib import Path

import pytest

from mm1_hf.cli import main
from mm1_hf.cli import publish as command
from mm1_hf.hub import publish, publish_to_folder
from mm1_hf.model.connectors_mm1 import CONNECTORS, AveragePool

from . import small_models

FLAGS = {
    "publish": {
        "--remote-code",
        "--no-remote-code",
        "--import",
        "--private",
        "--revision",
        "--license",
        "--results",
        "--include",
        "--dry-run",
    },
    "doctor": {"--import", "--revision", "--quick", "--json"},
}


@pytest.fixture(scope="module")
def healthy(make_tokenizer, tmp_path_factory):
    small = small_models.make("own", make_tokenizer)
    folder = tmp_path_factory.mktemp("healthy") / "model"
    return publish_to_folder(model=small.model, processor=small.processor, folder=folder)


@pytest.fixture
def not_rehearsed(monkeypatch):
    module = sys.modules[publish.__module__]
    monkeypatch.setattr(module, "rehearse", lambda *args, **kwargs: None)


@pytest.mark.parametrize("verb", FLAGS)
def test_options_are_frozen(verb, capsys):
    """Another option is a decision."""
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    words = capsys.readouterr().out.replace("[", " ").replace("]", " ").replace(",", " ").split()
    assert {word for word in words if word.startswith("--")} - {"--help"} == FLAGS[verb]


def test_publish_tells_files_and_place(healthy, not_rehearsed, tmp_path, capsys):
    arguments = ["publish", str(healthy), f"{tmp_path}/out", "--license", "mit"]
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "license: mit" in said and "nothing was published" in said
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "model.safetensors" in said and f"published: {tmp_path}/out" in said
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("ada/digits", "repo_id"),
        ("./digits", "folder"),
        ("../digits", "folder"),
        ("~/digits", "folder"),
        ("{0}/digits", "folder"),
        ("there/digits", "folder"),
        ("there", "folder"),
    ],
)
def test_a_target_is_a_hub_id_or_clearly_a_folder(target, kind, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(command.target_of(target.format(tmp_path))) == [kind]


@pytest.mark.parametrize("target", ["digits", "a/b/c", ""])
def test_a_target_that_is_neither_is_an_error(target, healthy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", str(healthy), target]) == 2
    assert "neither a Hub id" in capsys.readouterr().err


def test_doctor_passes_a_healthy_checkpoint(healthy, capsys):
    assert main(["doctor", str(healthy), "--quick"]) == 0
    said = capsys.readouterr().out
    assert "pass  token counts" in said and said.rstrip().endswith("0 fail, 0 skip")


def test_doctor_exits_with_1_and_names_the_remedy(healthy, tmp_path, capsys):
    for file in healthy.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SystemExit) as exit:
        main(["doctor", str(tmp_path), "--quick"])
    said = capsys.readouterr().out
    assert exit.value.code == 1
    assert "fail  chat template" in said and "-> Make the processor again" in said


def test_doctor_speaks_json(healthy, capsys):
    assert main(["doctor", str(healthy), "--quick", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] and Path(told["source"]) == healthy
    assert {"check", "outcome", "found", "remedy"} == set(told["findings"][0])


@pytest.mark.parametrize("place", ["nowhere", "./nowhere", "no/such/place"])
def test_a_missing_checkpoint_is_one_line(place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", place, "--quick"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "no folder" in said.err and said.err.count("\n") == 1


def test_doctor_examines_a_model_with_parts_of_ones_own(
    make_tokenizer, tmp_path, monkeypatch, capsys
):
    (tmp_path / "connectors_of_this_test.py").write_text(
        "from mm1_hf.model.connectors_mm1 import CONNECTORS, AveragePool\n"
        "CONNECTORS['mine'] = AveragePool\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CONNECTORS, "mine", AveragePool)
    small = small_models.make("own", make_tokenizer, connector_type="mine")
    folder = tmp_path / "model"
    small.model.save_pretrained(folder)
    small.processor.save_pretrained(folder)
    monkeypatch.delitem(CONNECTORS, "mine")
    with pytest.raises(SystemExit):
        main(["doctor", str(folder), "--quick"])
    assert "fail  model" in capsys.readouterr().out
    name = "connectors_of_this_test"
    assert main(["doctor", str(folder), "--quick", "--import", name]) == 0
