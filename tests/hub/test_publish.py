"""What is published is complete, was tried out, and replaces what was there all at once."""

import json
import sys

import pytest
import torch
from PIL import Image

from mm1_hf import MM1ForCausalLM
from mm1_hf.hub import publish, publish_to_folder
from mm1_hf.hub import publish as publish_function
from mm1_hf.hub.clean_process import Answer, answer_here, differences, make_prompt
from mm1_hf.model.connectors_mm1 import CONNECTORS, AveragePool

from . import small_models

PUBLISH = sys.modules[publish_function.__module__]
MY_CONNECTOR = """
from mm1_hf.model.connectors_mm1 import CONNECTORS, AveragePool

class Mine(AveragePool):
    pass

CONNECTORS["mine"] = Mine
"""


@pytest.fixture
def small(make_tokenizer):
    return small_models.make("own", make_tokenizer)


@pytest.fixture
def not_rehearsed(monkeypatch):
    """For tests of everything else: the clean process takes seconds."""
    monkeypatch.setattr(PUBLISH, "rehearse", lambda *args, **kwargs: None)


def write(path, content) -> None:
    path.write_text(json.dumps(content))


# Writing a folder.


def test_only_safetensors_and_code_are_written(small, tmp_path):
    folder = publish_to_folder(
        model=small.model, processor=small.processor, folder=tmp_path / "x", max_shard_size="50KB"
    )
    assert {file.suffix for file in folder.iterdir()} == {".json", ".jinja", ".py", ".safetensors"}
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_publishing_again_replaces_the_older_model(make_tokenizer, tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        model, tokenizer = small_models.make_decoder(make_tokenizer)
        folder = publish_to_folder(model=model, processor=tokenizer, folder=tmp_path / "text")
    loaded = MM1ForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["text"]


@pytest.mark.parametrize("way", [publish, publish_to_folder])
def test_a_folder_with_other_files_is_not_overwritten(way, small, tmp_path):
    (tmp_path / "letters.txt").write_text("keep me")
    source = {"source": small.model} if way is publish else {"model": small.model}
    with pytest.raises(FileExistsError, match="not overwritten"):
        way(**source, processor=small.processor, folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]


@pytest.mark.parametrize("way", [publish, publish_to_folder])
def test_a_model_that_sees_needs_its_processor(way, small, tmp_path):
    source = {"source": small.model} if way is publish else {"model": small.model}
    with pytest.raises(ValueError, match="processor="):
        way(**source, processor=None, folder=tmp_path / "x")
    assert not (tmp_path / "x").exists()


# Publishing.


@pytest.mark.slow
def test_a_run_is_published_with_its_card_after_a_rehearsal(small, tmp_path):
    run = tmp_path / "run"
    small.model.generation_config.repetition_penalty = 1.25
    small.model.save_pretrained(run)
    small.processor.save_pretrained(run)
    (run / "optimizer.pt").write_bytes(b"state")
    write(run / "recipe.json", {"base": "mm1-sft", "steps": 10})
    write(run / "results.json", {"task": "vqav2", "figures": {"accuracy": {"value": 0.5}}})
    Image.new("RGB", (4, 4)).save(tmp_path / "curve.png")

    published = publish(
        run, folder=tmp_path / "out", license="mit", include=[tmp_path / "curve.png"]
    )

    found = {file.name for file in (tmp_path / "out").iterdir()}
    assert found == set(published.files) and "optimizer.pt" not in found
    assert {"README.md", "curve.png", "modeling_mm1.py", "generation_config.json"} <= found
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["repetition_penalty"] == 1.25
    for told in ("license: mit", "`mm1-sft`", "vqav2", "model-index", "repetition_penalty 1.25"):
        assert told in published.card, told


@pytest.mark.slow
def test_a_decoder_is_published_with_its_tokenizer(make_tokenizer, tmp_path):
    model, tokenizer = small_models.make_decoder(make_tokenizer)
    published = publish(model, processor=tokenizer, folder=tmp_path / "out")
    assert "tokenizer.json" in published.files
    assert "AutoModelForCausalLM" in published.card and "text-generation" in published.card


def test_a_decoder_without_a_tokenizer_is_asked_by_token_ids(make_tokenizer):
    model, _ = small_models.make_decoder(make_tokenizer)
    prompt = make_prompt(model.config, None)
    answer = answer_here(model, None, prompt)
    assert prompt.input_ids is not None and set(answer) == {
        "input.input_ids",
        "input.attention_mask",
        "logits",
        "tokens",
    }


@pytest.mark.slow
def test_a_connector_of_ones_own_is_refused_and_can_be_brought(
    make_tokenizer, tmp_path, monkeypatch
):
    (tmp_path / "my_connector_of_this_test.py").write_text(MY_CONNECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    name = "my_connector_of_this_test"
    monkeypatch.setitem(CONNECTORS, "mine", AveragePool)  # taken away again after the test
    __import__(name)
    small = small_models.make("own", make_tokenizer, connector_type="mine")

    with pytest.raises(ValueError, match=r"model\.connector\.projector is a Mine") as refusal:
        publish(small.model, processor=small.processor, folder=tmp_path / "out")
    assert f"requires=['{name}']" in str(refusal.value) and "--import" in str(refusal.value)
    with pytest.raises(ValueError, match="remote_code=False"):
        publish(small.model, processor=small.processor, folder=tmp_path / "out", requires=[name])
    assert not (tmp_path / "out").exists()

    published = publish(
        small.model,
        processor=small.processor,
        folder=tmp_path / "out",
        remote_code=False,
        requires=[name],
    )
    assert f"import mm1_hf\nimport {name}\n" in published.card
    assert not any(file.endswith(".py") for file in published.files)


def test_prose_is_kept_when_publishing_again(small, tmp_path, not_rehearsed):
    for changed in (False, True):
        published = publish(small.model, processor=small.processor, folder=tmp_path / "out")
        card = tmp_path / "out" / "README.md"
        assert ("For reading digits." in published.card) == changed
        card.write_text(card.read_text().replace("Write here", "For reading digits. Write here"))


def test_a_dry_run_replaces_nothing(small, tmp_path, not_rehearsed):
    published = publish(
        small.model, processor=small.processor, folder=tmp_path / "out", dry_run=True
    )
    assert published.folder is None and "model.safetensors" in published.files
    assert list(tmp_path.iterdir()) == []


def test_what_must_stay_private_is_refused_before_anything_is_replaced(
    small, tmp_path, not_rehearsed
):
    folder = tmp_path / "out"
    publish(small.model, processor=small.processor, folder=folder)
    before = (folder / "config.json").read_bytes()
    (tmp_path / "notes.txt").write_text("token hf_" + "a1" * 17)
    # The Hub's name of a part, or the folder that it was loaded from.
    small.model.config.vision_config.my_path = "/".join(["", "home", "ada", "tower"])
    with pytest.raises(ValueError, match="2 problems") as refusal:
        publish(
            small.model,
            processor=small.processor,
            folder=folder,
            include=[tmp_path / "notes.txt"],
        )
    assert "notes.txt:1" in str(refusal.value) and "vision_config.my_path" in str(refusal.value)
    assert (folder / "config.json").read_bytes() == before
    assert not (folder / "notes.txt").exists()


@pytest.mark.parametrize("kept", ["optimizer.pt", "checkpoint-500/model.safetensors"])
def test_the_folder_of_a_run_is_never_replaced(small, tmp_path, not_rehearsed, kept):
    small.model.save_pretrained(tmp_path / "run")
    small.processor.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / kept).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / kept).write_bytes(b"weeks of work")
    with pytest.raises(FileExistsError, match="holds a run"):
        publish(tmp_path / "run", folder=tmp_path / "run")
    assert (tmp_path / "run" / kept).read_bytes() == b"weeks of work"


@pytest.mark.parametrize("name", ["config.json", "README.md", "tiling_mm1.py"])
def test_what_is_written_anyway_cannot_be_included(small, tmp_path, not_rehearsed, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="Rename it"):
        publish(
            small.model,
            processor=small.processor,
            folder=tmp_path / "out",
            include=[tmp_path / name],
        )


def test_a_checkpoint_that_lacks_weights_is_refused(small, tmp_path):
    from safetensors.torch import load_file, save_file

    small.model.save_pretrained(tmp_path / "run")
    small.processor.save_pretrained(tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    tensors = {n: t for n, t in load_file(file).items() if "connector" not in n}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks \d+ weights.*mm1 doctor"):
        publish(tmp_path / "run", folder=tmp_path / "out")


def test_there_must_be_a_place_to_publish_to(small):
    with pytest.raises(ValueError, match="repo_id=, folder= or both"):
        publish(small.model, processor=small.processor)


# The rehearsal's verdict, without its process.


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer({}, {"AutoModel": "ImportError: no module"}, output="the trace"), "- AutoModel: I"),
        (Answer({}, {}, {}), "logits has shape None"),
    ],
)
def test_a_folder_that_does_not_work_elsewhere_is_not_published(
    small, tmp_path, monkeypatch, answer, told
):
    import mm1_hf.hub.rehearsal as rehearsal

    monkeypatch.setattr(rehearsal, "ask_stranger", lambda *args, **kwargs: answer)
    with pytest.raises(ValueError, match="Nothing was published") as error:
        publish(small.model, processor=small.processor, folder=tmp_path / "out")
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_differences_are_told_by_name():
    here = {
        "input.pixel_values": torch.ones(2, 3),
        "logits": torch.tensor([[1.0, -4.0]]),
        "tokens": torch.tensor([[1, 2]]),
    }
    assert differences(here, dict(here)) == []
    assert differences(here, here | {"logits": here["logits"] + 1e-5}) == []
    told = differences(here, here | {"logits": here["logits"] + 0.01})
    assert told == ["logits differ by 2.5e-03 of the largest one"]
    broken = here | {"logits": here["logits"] * float("nan")}
    assert differences(here, broken) and differences(here, broken, tolerance=1.0)
    assert "1 of 2 values" in differences(here, here | {"tokens": torch.tensor([[1, 3]])})[0]
    assert (
        "1 of 6 values"
        in differences(
            here,
            here
            | {
                "input.pixel_values": here["input.pixel_values"].index_put(
                    (torch.tensor(0), torch.tensor(0)), torch.tensor(2.0)
                )
            },
        )[0]
    )
    assert differences(here, here | {"input.extra": torch.ones(1)}) == ["input.extra is new"]
    loose = here | {"tokens": torch.tensor([[1, 3]]), "logits": here["logits"] + 0.01}
    assert differences(here, loose, tolerance=2e-2) == []


def test_folders_that_parts_came_from_stay_private(small, tmp_path):
    parts = small.model.config
    parts.vision_config.name_or_path = str(tmp_path / "tower")
    parts.text_config.name_or_path = "ada/decoder"
    folder = publish_to_folder(
        model=small.model, processor=small.processor, folder=tmp_path / "published"
    )
    written = json.loads((folder / "config.json").read_text())
    assert "_name_or_path" not in written["vision_config"]
    assert written["text_config"]["_name_or_path"] == "ada/decoder", "readers may know"
