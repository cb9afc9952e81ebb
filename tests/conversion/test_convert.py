"""Checkpoints as a whole, folder to folder: every bit, or nothing at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, CLIPVisionModel

from mm1_hf import MM1ForCausalLM, MM1VisionModel
from mm1_hf.conversion import (
    FORMATS,
    ConversionOptions,
    convert,
    convert_back,
    convert_model,
    convert_model_back,
)

from ..model import tiny
from .originals import (
    ORIGINALS,
    assert_bit_equal,
    edit_config,
    original,
    rewrite,
    saved,
)

# Kinds that become ours whole, with the name of the kind on the way back.
REVERSIBLE = {
    "clip": "auto",
    "siglip": "auto",
    "llama": "auto",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "auto",
    "llava": "auto",
}
PARTS = {"whole clip": "clip", "whole siglip": "siglip"}


def there_and_back(model, tmp_path, *, kind: str = "auto", **options):
    convert(tmp_path / "theirs", tmp_path / "ours", **options)
    convert_back(tmp_path / "ours", tmp_path / "again", kind=kind)
    return type(model).from_pretrained(tmp_path / "again")


@pytest.mark.parametrize("name", REVERSIBLE)
def test_there_and_back_changes_no_bit(name, tmp_path):
    theirs = saved(name, tmp_path / "theirs")
    again = there_and_back(theirs, tmp_path, kind=REVERSIBLE[name])
    assert_bit_equal(again, theirs)


@pytest.mark.parametrize("name", ["clip", "llama", "llava"])
def test_shards_of_any_size_give_the_same_checkpoint(name, tmp_path):
    theirs = saved(name, tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    again = there_and_back(theirs, tmp_path, max_shard_bytes=10_000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    assert_bit_equal(again, theirs)


@pytest.mark.parametrize("options", [{"feature_layer": -2}, {"use_final_norm": False}])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_what_our_tower_does_not_use_is_kept_for_the_way_back(name, options, tmp_path):
    theirs = saved(name, tmp_path / "theirs")
    again = there_and_back(theirs, tmp_path, options=ConversionOptions(**options))
    assert_bit_equal(again, theirs)
    assert "unused.safetensors" in {path.name for path in (tmp_path / "ours").iterdir()}
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    assert type(ours) is MM1VisionModel


def test_what_was_dropped_is_missing_on_the_way_back(tmp_path):
    saved("clip", tmp_path / "theirs")
    options = ConversionOptions(feature_layer=-2)
    report = convert(tmp_path / "theirs", tmp_path / "ours", options=options, unused="drop")
    assert not report.set_aside
    assert "behind feature_layer -2" in report.dropped.values()
    assert not (tmp_path / "ours" / "unused.safetensors").exists()
    with pytest.raises(ValueError, match=r"unused\.safetensors is missing"):
        convert_back(tmp_path / "ours", tmp_path / "again")


@pytest.mark.parametrize("name", PARTS)
def test_of_a_whole_model_the_tower_is_taken(name, tmp_path):
    whole = saved(name, tmp_path / "theirs")
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    assert all(key.startswith(("text_", "logit_", "visual_")) for key in report.dropped)
    convert_back(tmp_path / "ours", tmp_path / "again")
    tower_class = type(original(PARTS[name]))
    assert_bit_equal(tower_class.from_pretrained(tmp_path / "again"), whole.vision_model)


@pytest.mark.parametrize("name", [*REVERSIBLE, *PARTS, "aimv2"])
def test_the_report_lists_every_tensor(name, tmp_path):
    saved(name, tmp_path / "theirs")
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    loaded = [key for keys in report.loaded.values() for key in keys]
    source = load_file(tmp_path / "theirs" / "model.safetensors")
    assert sorted([*loaded, *report.set_aside, *report.dropped]) == sorted(source)
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert {*report.loaded, *report.filled} == set(written)


@pytest.mark.parametrize("name", ["clip", "llama", "qwen2", "qwen3", "siglip"])
def test_in_memory_it_is_the_same(name, tmp_path):
    theirs = saved(name, tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = convert_model(theirs).model
    loaded = type(ours).from_pretrained(tmp_path / "ours")
    assert_bit_equal(ours, loaded)
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    tiny.randomised(ours)
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())
    if name != "siglip":
        kind = "qwen2" if name == "qwen2" else "auto"
        assert_bit_equal(convert_model_back(loaded, kind=kind).model, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype, tmp_path):
    original("llama", dtype=dtype).save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").dtype == dtype
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert f"torch.{written['dtype']}" == str(dtype)
    assert convert_model(original("llama", dtype=dtype)).model.dtype == dtype


def test_whatever_only_moves_is_never_read_into_memory(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a whole tensor was read")

    saved("llava", tmp_path / "theirs")
    monkeypatch.setattr("mm1_hf.conversion.checkpoints.FileCheckpoint.elements", refuse)
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "again")


def test_a_dtype_that_is_asked_for_is_torchs_rounding(tmp_path):
    theirs = saved("qwen2", tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours", dtype=torch.bfloat16)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert ours.dtype == torch.bfloat16
    expected = theirs.to(torch.bfloat16).state_dict()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, expected.get(key, torch.zeros_like(value))), key


def test_a_tied_head_stays_tied_and_is_written_once(tmp_path):
    theirs = ORIGINALS["llama"]()
    theirs.config.tie_word_embeddings = True
    theirs = type(theirs)(theirs.config)
    theirs.save_pretrained(tmp_path / "theirs")
    again = there_and_back(theirs, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "ours" / "model.safetensors")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    assert_bit_equal(again, theirs)
    in_memory = convert_model(theirs).model
    assert in_memory.lm_head.weight is in_memory.model.embed_tokens.weight


def test_a_tied_head_that_differs_from_the_table_is_not_lost(tmp_path):
    saved("llama", tmp_path / "theirs")
    edit_config(tmp_path / "theirs", tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"lm_head\.weight is tied to model\.embed_tokens"):
        convert(tmp_path / "theirs", tmp_path / "ours")
    rewrite(
        tmp_path / "theirs",
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
        ),
    )
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    assert "copy of the embedding table" in report.dropped["lm_head.weight"]


def test_settings_of_generation_and_the_tokenizer_come_along(tmp_path):
    theirs = original("llama")
    theirs.generation_config.max_new_tokens = 3
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert MM1ForCausalLM.from_pretrained(tmp_path / "ours").generation_config.max_new_tokens == 3
    assert (tmp_path / "ours" / "tokenizer.json").read_text() == "{}"
    assert convert_model(theirs).model.generation_config.max_new_tokens == 3


def test_one_file_of_a_folder_may_be_named(tmp_path):
    theirs = saved("clip", tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").rename(tmp_path / "theirs" / "mine.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "theirs" / "other.safetensors")
    with pytest.raises(ValueError, match=r"several weight files \(mine\.safetensors, other"):
        convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "theirs" / "mine.safetensors", tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "again")
    assert_bit_equal(CLIPVisionModel.from_pretrained(tmp_path / "again"), theirs)


# What is wrong with a checkpoint, and what the error says.

BROKEN = {
    "unknown": (
        lambda tensors: tensors.update(extra=torch.zeros(2)),
        r"1 keys of CLIPVisionModel have no place in MM1VisionModel: extra",
    ),
    "missing": (
        lambda tensors: tensors.pop("encoder.layers.1.self_attn.out_proj.bias"),
        r"missing encoder\.layers\.1\.self_attn\.out_proj\.bias "
        r"\(for layers\.1\.self_attn\.o_proj\.bias\) of shape \(32,\)",
    ),
    "shape": (
        lambda tensors: tensors.update({"pre_layrnorm.weight": torch.zeros(31)}),
        r"pre_layrnorm\.weight \(for pre_layernorm\.weight\) has shape \(31,\), expected \(32,\)",
    ),
    "layer": (
        lambda tensors: tensors.update({"encoder.layers.2.mlp.fc1.bias": torch.zeros(48)}),
        r"left over encoder\.layers\.2\.mlp\.fc1\.bias .*of shape \(48,\)",
    ),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_whatever_is_wrong_is_named_and_nothing_is_written(problem, tmp_path):
    change, message = BROKEN[problem]
    saved("clip", tmp_path / "theirs")
    rewrite(tmp_path / "theirs", change)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("problem", ["unknown", "missing", "shape"])
def test_on_the_way_back_too(problem, tmp_path):
    saved("clip", tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    change = {
        "unknown": BROKEN["unknown"][0],
        "missing": lambda tensors: tensors.pop("pre_layernorm.weight"),
        "shape": lambda tensors: tensors.update({"pre_layernorm.weight": torch.zeros(31)}),
    }[problem]
    rewrite(tmp_path / "ours", change)
    with pytest.raises(ValueError, match="extra" if problem == "unknown" else "pre_layernorm"):
        convert_back(tmp_path / "ours", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_error_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("disk full")

    saved("clip", tmp_path / "theirs")
    monkeypatch.setattr(
        "mm1_hf.conversion.checkpoints.FileCheckpoint.copy",
        fail,
    )
    with pytest.raises(OSError, match="disk full"):
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_pickle_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "theirs" / "pytorch_model.bin"
    torch.save({}, path)
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for source in (path, tmp_path / "theirs"):
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle.*save_file"):
            convert(source, tmp_path / "ours")


def test_a_missing_shard_is_named(tmp_path):
    saved("llama", tmp_path / "theirs", max_shard_size="20KB")
    lost = sorted((tmp_path / "theirs").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ValueError, match=f"lacks {lost.name}"):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_what_cannot_be_told_is_an_error_that_lists_the_kinds(tmp_path):
    (tmp_path / "theirs").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "theirs" / "model.safetensors")
    for config, found in ((None, r"no config\.json"), ({"model_type": "bert"}, "'bert'")):
        if config is not None:
            (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"{found}.*Name the kind") as error:
            convert(tmp_path / "theirs", tmp_path / "ours")
        assert all(kind in str(error.value) for kind in FORMATS)


def test_ours_is_not_converted_into_ours(tmp_path):
    saved("clip", tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    with pytest.raises(ValueError, match="MM1's own: convert it back"):
        convert(tmp_path / "ours", tmp_path / "again")


def test_the_wrong_kind_is_an_error_that_names_what_was_found(tmp_path):
    saved("siglip", tmp_path / "theirs")
    with pytest.raises(ValueError, match="CLIPVisionConfig for kind 'clip', but found Siglip"):
        convert(tmp_path / "theirs", tmp_path / "ours", kind="clip")
    with pytest.raises(ValueError, match="Unknown kind 'klip'"):
        convert(tmp_path / "theirs", tmp_path / "ours", kind="klip")


def test_an_option_without_meaning_is_an_error(tmp_path):
    saved("llama", tmp_path / "theirs")
    with pytest.raises(ValueError, match="feature_layer has no meaning for kind 'llama'"):
        convert(tmp_path / "theirs", tmp_path / "ours", options=ConversionOptions(feature_layer=-2))


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path):
    for source in ("theirs", str(tmp_path / "theirs"), "./theirs/x"):
        with pytest.raises(ValueError, match="There is no folder or file"):
            convert(source, tmp_path / "ours")


def test_a_hub_id_is_downloaded_without_pickles(tmp_path, monkeypatch):
    saved("clip", tmp_path / "theirs")
    asked = {}

    def download(repository, *, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(tmp_path / "theirs")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    convert("owner/name@v1.0", tmp_path / "ours")
    assert (asked["repository"], asked["revision"]) == ("owner/name", "v1.0")
    assert "*.safetensors" in asked["patterns"]
    assert not any(pattern.endswith(("bin", "pt", "*")) for pattern in asked["patterns"])
