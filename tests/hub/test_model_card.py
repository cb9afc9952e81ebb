"""The model card tells what is known, and keeps what its author wrote."""

import json

import pytest
from huggingface_hub import ModelCard

from mm1_hf import MM1TextConfig
from mm1_hf.hub.model_card import CardFacts, make_card
from mm1_hf.hub.records import read_records, read_results

from ..model import tiny

RESULTS = {
    "task": "vqav2",
    "figures": {
        "accuracy": {"value": 0.625, "standard_error": 0.0125, "count": 1600},
        "yes/no": {"value": 0.75, "standard_error": None, "count": 400},
        "other": {"value": None, "standard_error": None, "count": 0},
    },
    "settings": {"num_shots": 4, "style": "chat", "model": "/".join(["", "home", "ada"])},
}


def facts(**changes) -> CardFacts:
    known = {
        "name": "tiny",
        "source": "ada/tiny",
        "config": tiny.text_config(),
        "num_parameters": {"decoder": 1234, "all": 1234},
        "dtype": "bfloat16",
    }
    return CardFacts(**{**known, **changes})


@pytest.fixture
def run_folder(tmp_path):
    """What a training run and an evaluation leave beside the weights."""
    write(tmp_path / "recipe.json", {"base": "mm1-pretrain", "steps": 200000, "frozen": ["vision"]})
    sources = {"captions": {"share": 0.45, "fingerprint": "ab" * 20}, "text": {"share": 0.1}}
    write(tmp_path / "mixture.json", {"unit": "token", "seed": 7, "sources": sources})
    write(tmp_path / "trainer_state.json", {"global_step": 1500})
    write(tmp_path / "results.json", RESULTS)
    return tmp_path


def write(path, content) -> None:
    path.write_text(json.dumps(content))


def test_a_card_tells_recipe_data_and_results(run_folder):
    card = make_card(facts(records=read_records(run_folder), license="apache-2.0"))
    for told in ("`mm1-pretrain`", "200,000", "1,500", "45.0%", "by token, seed 7", "shots 4"):
        assert told in card, told
    assert "| vqav2 | accuracy | 0.625 ± 0.013 | 1,600 | shots 4, style chat |" in card
    assert "not defined" in card and "home" not in card


def test_results_become_a_model_index_that_the_hub_reads(run_folder):
    card = ModelCard(make_card(facts(records=read_records(run_folder), license="mit")))
    assert card.data.license == "mit" and card.data.library_name == "transformers"
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {("vqav2", "accuracy"): 0.625, ("vqav2", "yes/no"): 0.75}
    assert card.data.model_name == "tiny"


def test_without_records_there_are_no_empty_sections():
    card = make_card(facts())
    assert "## Training" not in card and "## Data" not in card and "## Results" not in card
    assert ModelCard(card).data.eval_results is None


def test_prose_is_kept_wherever_it_stands_when_a_card_is_written_again(run_folder):
    first = make_card(facts(records=read_records(run_folder)))
    edited = first.replace("# tiny", "# My model\n\nFor **reading digits**.")
    edited = edited.replace("<!-- mm1: training -->", "Before training.\n\n<!-- mm1: training -->")
    edited += "\n## Limits\n\nReads no letters.\n"
    again = make_card(facts(dtype="float32"), older=edited)
    for prose in ("# My model\n\nFor **reading digits**.", "Before training.", "Reads no letters."):
        assert prose in again
    assert "float32" in again and "bfloat16" not in again
    assert "## Training" not in again, "what is no longer known is no longer told"
    assert make_card(facts(dtype="float32"), older=again) == again


def test_order_and_count_of_sections_survive_many_publications(run_folder):
    card = None
    for _ in range(3):
        card = make_card(facts(records=read_records(run_folder)), older=card)
    assert card.count("## Use") == card.count("## Results") == 1


def test_metadata_of_the_author_are_kept(run_folder):
    older = "---\nlicense: mit\nlanguage: de\ntags: [digits]\nbase_model: ada/base\n---\nMine.\n"
    data = ModelCard(make_card(facts(), older=older)).data
    assert (data.license, data.language, data.base_model) == ("mit", "de", "ada/base")
    assert data.tags[0] == "digits" and "mm1" in data.tags


def test_results_of_others_stay_beside_ours(run_folder):
    card = make_card(facts(records=read_records(run_folder)))
    theirs = {**RESULTS, "task": "gqa", "figures": {"accuracy": {"value": 0.5}}}
    write(run_folder / "results.json", theirs)
    again = ModelCard(make_card(facts(records=read_records(run_folder)), older=card))
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in again.data.eval_results}
    assert found[("gqa", "accuracy")] == 0.5 and found[("vqav2", "accuracy")] == 0.625


@pytest.mark.parametrize("remote_code", [True, False])
def test_the_lines_of_use_say_what_readers_need(remote_code):
    card = make_card(facts(remote_code=remote_code, requires=() if remote_code else ("mine",)))
    assert ("trust_remote_code=True" in card) == remote_code
    assert ("import mm1_hf\nimport mine" in card) != remote_code
    assert ("custom_code" in ModelCard(card).data.tags) == remote_code


def test_experts_are_told():
    sparse: MM1TextConfig = tiny.text_config(num_experts=4, moe_every_n_layers=2)
    card = make_card(facts(config=sparse))
    assert "4 experts" in card and "mixture-of-experts" in ModelCard(card).data.tags


@pytest.mark.parametrize(
    "content", ["[1]", "{}", '{"task": "x"}', '{"task": "x", "figures": {"a": 0.5}}', "no json"]
)
def test_results_of_another_form_are_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match=r"other\.json"):
        read_results(tmp_path / "other.json")


def test_several_results_in_one_file_are_read(tmp_path):
    write(tmp_path / "all.json", [RESULTS, {**RESULTS, "task": "gqa"}])
    assert [one.task for one in read_results(tmp_path / "all.json")] == ["vqav2", "gqa"]
