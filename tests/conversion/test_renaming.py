import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mm1_hf.conversion import ConversionReport, Rename, RenameTable
from mm1_hf.conversion.clip import CLIP_VISION_TABLE
from mm1_hf.conversion.llama import LLAMA_TABLE
from mm1_hf.conversion.renaming import load_exactly

TABLE = RenameTable(
    [
        Rename("embeddings.patch", "patch"),
        Rename("encoder.layers.{}.attn.out", "layers.{}.attn.o"),
        Rename("encoder.layers.{}.attn", "layers.{}.attn"),
        Rename("blocks.{}.{}.fc", "stages.{}.units.{}.fc"),
    ]
)


def report() -> ConversionReport:
    return ConversionReport(source="Theirs", target="Ours")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("embeddings.patch", "patch"),
        ("embeddings.patch.weight", "patch.weight"),
        ("encoder.layers.0.attn.out.bias", "layers.0.attn.o.bias"),
        ("encoder.layers.12.attn.q.weight", "layers.12.attn.q.weight"),
        ("blocks.1.23.fc.weight", "stages.1.units.23.fc.weight"),
    ],
)
def test_a_rule_moves_everything_below_it_and_back(source, target):
    assert TABLE.rename(source) == target
    assert TABLE.reversed().rename(target) == source


@pytest.mark.parametrize(
    "key",
    ["embeddings.patches", "embeddingsXpatch", "my.embeddings.patch", "encoder.layers.x.attn"],
)
def test_what_only_resembles_a_rule_is_not_renamed(key):
    assert TABLE.rename(key) is None


def test_reversing_twice_is_the_same_table():
    assert TABLE.reversed().reversed().rules == TABLE.rules


@pytest.mark.parametrize("table", [TABLE, CLIP_VISION_TABLE, LLAMA_TABLE])
@given(numbers=st.lists(st.integers(0, 999), min_size=2, max_size=2), rest=st.sampled_from("wb"))
def test_renaming_back_is_the_identity_for_every_rule(table, numbers, rest):
    for rule in table.rules:
        for one_way, key in ((table, rule.source), (table.reversed(), rule.target)):
            key = f"{key.format(*numbers)}.{rest}"
            back = RenameTable(one_way.rules).reversed()
            assert back.rename(one_way.rename(key)) == key


def test_a_key_no_rule_knows_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"1 keys of Theirs have no place in Ours: head\.weight"):
        TABLE.apply(
            {"head.weight": torch.zeros(1), "embeddings.patch": torch.ones(1)}, report=report()
        )


def test_of_many_unknown_keys_the_first_are_named():
    state = {f"head.{index}": torch.zeros(1) for index in range(20)}
    with pytest.raises(ValueError, match=r"20 keys .*head\.0, .*head\.7 …"):
        TABLE.apply(state, report=report())


def test_two_keys_of_one_name_are_an_error():
    table = RenameTable([Rename("a", "c"), Rename("b", "c")])
    with pytest.raises(ValueError, match="Both b and another key would be renamed to c"):
        table.apply({"a": torch.zeros(1), "b": torch.zeros(1)}, report=report())


def test_a_dropped_key_is_reported_with_its_reason():
    found = report()
    state = {"head.weight": torch.zeros(1), "embeddings.patch": torch.ones(1)}
    renamed = TABLE.apply(state, report=found, drop={r"^head\.": "no head here"})
    assert list(renamed) == ["patch"]
    assert found.dropped == {"head.weight": "no head here"}
    assert found.renamed == {"embeddings.patch": "patch"}
    assert str(found) == ("Theirs -> Ours: 1 tensors loaded\n  dropped head.weight: no head here")


def test_loading_names_every_key_that_does_not_fit():
    model = nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 4), "gain": torch.zeros(1)}
    with pytest.raises(ValueError) as error:
        load_exactly(model, state, report=report())
    message = str(error.value)
    assert message.startswith("Theirs does not fit Ours (3 problems)")
    for problem in ("missing bias", "left over gain", "weight has shape (3, 4), expected (3, 2)"):
        assert problem in message
