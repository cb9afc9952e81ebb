"""`mm1 doctor`: a healthy checkpoint passes, and each fault is found by its own check alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mm1_hf.hub import publish_to_folder
from mm1_hf.hub.clean_process import SEEING_AUTO_CLASSES
from mm1_hf.hub.doctor import CHECKS, Finding, examine
from mm1_hf.hub.doctor.findings import Diagnosis

from . import small_models

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_tokenizer):
    """A healthy published model of each kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("healthy")
    for kind in small_models.KINDS:
        model, processor = small_models.make(kind, make_tokenizer)
        publish_to_folder(model=model, processor=processor, folder=folder / kind)
    model, tokenizer = small_models.make_decoder(make_tokenizer)
    publish_to_folder(model=model, processor=tokenizer, folder=folder / "decoder")
    return folder


def quick(folder) -> Diagnosis:
    return examine(folder, fresh_processes=False)


@pytest.mark.parametrize("kind", [*small_models.KINDS, "decoder"])
def test_a_healthy_checkpoint_passes_every_check(folders, kind):
    diagnosis = quick(folders / kind)
    assert diagnosis.failed == (), diagnosis.table()
    assert {one.outcome for one in diagnosis.findings} == {"pass"}
    asked = {one.check for one in diagnosis.findings}
    assert asked == {check.name for check in CHECKS if kind != "decoder" or not check.sees}


def test_weights_in_several_files_and_in_bfloat16_are_healthy(make_tokenizer, tmp_path):
    model, processor = small_models.make("own", make_tokenizer)
    folder = tmp_path / "model"
    publish_to_folder(
        model=model.to(torch.bfloat16), processor=processor, folder=folder, max_shard_size="50KB"
    )
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert quick(folder).failed == ()
    (folder / sorted(path.name for path in folder.glob("*.safetensors"))[0]).unlink()
    assert quick(folder).failed == ("files",)


# What is done to a healthy folder.


def change_json(file: str, *where: str, to):
    """Set an entry, or remove it if `to` is None."""

    def sabotage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        entry = content
        for key in where[:-1]:
            entry = entry[key]
        if to is None:
            del entry[where[-1]]
        else:
            entry[where[-1]] = to
        (folder / file).write_text(json.dumps(content))

    return sabotage


def change_weights(change):
    def sabotage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return sabotage


def remove(file: str):
    return lambda folder: (folder / file).unlink()


def write(file: str, text: str):
    return lambda folder: (folder / file).write_text(text)


def cut_off(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def make_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def put_nan(tensors) -> None:
    tensors["lm_head.weight"][0, 0] = float("nan")


def drop_connector(tensors) -> None:
    for name in [name for name in tensors if "connector" in name]:
        del tensors[name]


def add_stray(tensors) -> None:
    tensors["model.connector.stray"] = torch.ones(1)


def shrink(tensors) -> None:
    name = "model.language_model.norm.weight"
    tensors[name] = tensors[name][:-1].clone()


def halve_one(tensors) -> None:
    name = "model.language_model.norm.weight"
    tensors[name] = tensors[name].to(torch.bfloat16)


def untie(tensors) -> None:
    table = tensors["model.language_model.embed_tokens.weight"]
    tensors["lm_head.weight"] = table + 1


def wider_processor(folder: Path) -> None:
    """What happens when the processor of another stage is saved beside the weights."""
    change_json("processor_config.json", "image_processor", "size", to={"height": 56, "width": 56})(
        folder
    )


# Kind of the healthy folder, what is done to it, and the one check that must find it.
SABOTAGE = {
    "no weights": ("own", remove(WEIGHTS), "files"),
    "weights cut off": ("own", cut_off, "files"),
    "weights in a pickle": ("own", make_pickle, "files"),
    "no configuration": ("own", remove("config.json"), "files"),
    "no processor": ("own", remove("processor_config.json"), "processor files"),
    "no tokenizer": ("own", remove("tokenizer.json"), "processor files"),
    "configuration no JSON": ("own", write("config.json", "{"), "configuration"),
    "configuration against itself": (
        "own",
        change_json("config.json", "vision_config", "num_attention_heads", to=5),
        "configuration",
    ),
    "a foreign model": (
        "own",
        change_json("config.json", "model_type", to="gpt2"),
        "configuration",
    ),
    "NaN": ("own", change_weights(put_nan), "finite weights"),
    "NaN in a decoder": ("decoder", change_weights(put_nan), "finite weights"),
    "unknown tower": (
        "clip",
        change_json("config.json", "vision_config", "hidden_act", to="no_such_function"),
        "model",
    ),
    "no connector": ("own", change_weights(drop_connector), "keys"),
    "a stray weight": ("own", change_weights(add_stray), "keys"),
    "another shape": ("own", change_weights(shrink), "shapes"),
    "another shape in a decoder": (
        "decoder",
        change_json("config.json", "intermediate_size", to=48),
        "shapes",
    ),
    "one weight in bfloat16": ("own", change_weights(halve_one), "dtypes"),
    "dtype told wrongly": ("clip", change_json("config.json", "dtype", to="bfloat16"), "dtypes"),
    "a tied head with its own weights": ("siglip", change_weights(untie), "tied weights"),
    "processor no JSON": ("own", write("processor_config.json", "{"), "processor"),
    "processor of another class": (
        "own",
        change_json("processor_config.json", "processor_class", to="LlavaProcessor"),
        "processor",
    ),
    "tokens per tile": (
        "own",
        change_json("processor_config.json", "num_image_tokens", to=9),
        "processor fields",
    ),
    "tile size": ("clip", wider_processor, "processor fields"),
    "normalisation": (
        "siglip",
        change_json("processor_config.json", "image_processor", "image_mean", to=[0.5, 0.5, 0.5]),
        "processor fields",
    ),
    "placeholder": ("own", change_json("config.json", "image_token_id", to=7), "processor fields"),
    "tiling not stored": (
        "own",
        change_json("processor_config.json", "image_processor", "tiling", to=None),
        "tiling settings",
    ),
    "tiling in an older file": (
        "own",
        write("preprocessor_config.json", json.dumps({"tiling": "none", "max_tiles": 9})),
        "tiling settings",
    ),
    "padding side": (
        "own",
        change_json("tokenizer_config.json", "padding_side", to="right"),
        "tokenizer",
    ),
    "no padding": ("own", change_json("tokenizer_config.json", "pad_token", to=None), "tokenizer"),
    "no chat template": ("own", remove("chat_template.jinja"), "chat template"),
    "template without pictures": (
        "own",
        write("chat_template.jinja", "{% for m in messages %}{{ m.role }}{% endfor %}"),
        "chat template",
    ),
    "template that fails": (
        "own",
        write("chat_template.jinja", "{{ raise_exception('no') }}"),
        "chat template",
    ),
    "end of sequence outside": (
        "own",
        change_json("generation_config.json", "eos_token_id", to=70000),
        "generation",
    ),
    "another end of sequence": (
        "decoder",
        change_json("generation_config.json", "eos_token_id", to=5),
        "generation",
    ),
    "architecture": (
        "own",
        change_json("config.json", "architectures", to=["LlamaForCausalLM"]),
        "serving hooks",
    ),
    "no AutoModel": (
        "own",
        change_json("config.json", "auto_map", "AutoModel", to=None),
        "remote code",
    ),
    "no AutoProcessor": (
        "own",
        change_json("processor_config.json", "auto_map", "AutoProcessor", to=None),
        "remote code",
    ),
    "a file of code missing": ("sparse", remove("moe_mm1.py"), "remote code"),
    "a file of code broken": ("own", write("tiling_mm1.py", "def ("), "remote code"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_each_fault_is_found_by_its_check_alone(folders, tmp_path, name):
    kind, sabotage, check = SABOTAGE[name]
    folder = tmp_path / "model"
    shutil.copytree(folders / kind, folder)
    sabotage(folder)
    diagnosis = quick(folder)
    assert diagnosis.failed == (check,), diagnosis.table()
    finding = next(one for one in diagnosis.findings if one.check == check)
    assert finding.found and finding.remedy


def test_every_check_has_been_seen_to_fail():
    # These three fail only if the code is wrong: the tests below break the code.
    by_code = {"token counts", "visual tokens", "answer"}
    assert {check for _, _, check in SABOTAGE.values()} == {c.name for c in CHECKS} - by_code


def test_a_plan_that_counts_otherwise_than_the_pixels_is_found(folders, monkeypatch):
    from mm1_hf import MM1Processor

    def one_tile_each(self, image_sizes=None, **kwargs):
        return plan(self, [(5, 5)] * len(image_sizes))

    plan = MM1Processor._get_num_multimodal_tokens
    monkeypatch.setattr(MM1Processor, "_get_num_multimodal_tokens", one_tile_each)
    diagnosis = quick(folders / "sparse")
    assert "token counts" in diagnosis.failed, diagnosis.table()


def test_a_connector_that_makes_other_tokens_than_it_says_is_found(folders, monkeypatch):
    from mm1_hf.model.connectors_mm1 import CAbstractor

    forward = CAbstractor.forward
    monkeypatch.setattr(CAbstractor, "forward", lambda *a, **k: forward(*a, **k)[:, :-1])
    assert "visual tokens" in quick(folders / "own").failed


def test_an_answer_that_is_no_number_is_found(folders, monkeypatch):
    from mm1_hf.model.loss_mm1 import VocabularyHead

    forward = VocabularyHead.forward
    monkeypatch.setattr(VocabularyHead, "forward", lambda *a, **k: forward(*a, **k) * torch.inf)
    assert quick(folders / "own").failed == ("answer",)


def test_the_table_names_each_check_once_with_remedies_under_failures():
    findings = (
        Finding("files", "pass", "all there"),
        Finding("keys", "fail", "one is missing " * 12, "save the whole model"),
    )
    diagnosis = Diagnosis("somewhere", findings)
    table = diagnosis.table(width=60)
    assert max(map(len, table.splitlines())) <= 60
    assert table.count("keys") == 1 and "-> save the whole model" in table
    assert table.endswith("somewhere: 1 pass, 1 fail, 0 skip")
    assert diagnosis.as_json()["passed"] is False
    assert diagnosis.as_json()["findings"][1]["remedy"] == "save the whole model"


def test_what_is_neither_folder_nor_hub_id_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        examine(tmp_path / "nowhere")


@pytest.mark.slow
def test_code_that_needs_the_package_is_found_where_it_is_absent(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders / "own", folder)
    code = folder / "modeling_mm1.py"
    code.write_text(code.read_text() + "\nimport mm1_hf\n")
    diagnosis = examine(folder)
    outcomes = {one.check: one.outcome for one in diagnosis.findings}
    with_package = {o for check, o in outcomes.items() if not check.startswith("without")}
    assert with_package == {"pass"}, diagnosis.table()
    assert {check for check in outcomes if check.startswith("fresh process: ")} == {
        f"fresh process: {name}" for name in (*SEEING_AUTO_CLASSES, "answer")
    }
    assert diagnosis.failed == tuple(
        f"without mm1_hf: {name}"
        for name in ("AutoModel", "AutoModelForImageTextToText", "image-text-to-text")
    )
    assert outcomes["without mm1_hf: answer"] == "skip"
