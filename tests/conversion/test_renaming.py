import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mm1_hf.conversion import FORMATS, ConversionReport, Rename, RenameTable
from mm1_hf.conversion.operations import Split
from mm1_hf.conversion.renaming import (
    Alias,
    Constant,
    Drop,
    SetAside,
    Step,
    TensorInfo,
    require_exactly,
)

from ..model import tiny

TABLE = RenameTable(
    [
        Rename("embeddings.patch", "patch"),
        Rename("encoder.layers.{}.attn.out", "layers.{}.attn.o"),
        Rename("encoder.layers.{}.attn", "layers.{}.attn"),
        Rename("blocks.{}.{}.fc", "stages.{}.units.{}.fc"),
    ]
)
TABLES = [
    TABLE,
    FORMATS["clip"].table(tiny.vision_config()),
    FORMATS["siglip"].table(tiny.vision_config()),
]


def report() -> ConversionReport:
    return ConversionReport(source="Theirs", target="Ours")


def infos(*names: str, shape: tuple[int, ...] = (2, 2)) -> dict[str, TensorInfo]:
    return {name: TensorInfo(shape, torch.float32) for name in names}


def plan(table: RenameTable, *names: str):
    return table.plan(infos(*names), report=report())


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


@pytest.mark.parametrize("table", TABLES)
@given(numbers=st.lists(st.integers(0, 999), min_size=2, max_size=2), rest=st.sampled_from("wb"))
def test_renaming_back_is_the_identity_for_every_rule(table, numbers, rest):
    rules = [rule for rule in table.rules if isinstance(rule, Rename)]
    assert rules
    there, back = RenameTable(rules), RenameTable(rules).reversed()
    for rule in rules:
        for one_way, other_way, path in ((there, back, rule.source), (back, there, rule.target)):
            key = f"{path.format(*numbers)}.{rest}"
            assert other_way.rename(one_way.rename(key)) == key


def test_below_prefixes_the_same_rules_hold():
    table = TABLE.under(source="a.b.", target="c.")
    assert table.rename("a.b.encoder.layers.3.attn.q") == "c.layers.3.attn.q"
    assert table.rename("encoder.layers.3.attn.q") is None


def test_a_key_no_rule_knows_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"1 keys of Theirs have no place in Ours: head\.weight"):
        plan(TABLE, "head.weight", "embeddings.patch")


def test_of_many_unknown_keys_the_first_are_named():
    with pytest.raises(ValueError, match=r"20 keys .*head\.0, .*head\.7 …"):
        plan(TABLE, *(f"head.{index}" for index in range(20)))


def test_two_keys_of_one_name_are_an_error():
    table = RenameTable([Rename("a", "c"), Rename("b", "c")])
    with pytest.raises(ValueError, match="Both a and b would be renamed to c"):
        plan(table, "a", "b")


def test_two_spellings_of_one_tensor_are_an_error():
    table = RenameTable([Rename("a", "b")], [Alias("old.", ""), Alias("", "")])
    with pytest.raises(ValueError, match=r"a and old\.a are two spellings"):
        plan(table, "a", "old.a")


def test_an_alias_is_another_spelling_and_the_way_back_writes_the_canonical_one():
    table = RenameTable([Rename("a", "b")], [Alias("old.", ""), Alias("", "")])
    assert table.rename("old.a.x") == table.rename("a.x") == "b.x"
    assert table.reversed().rename("b.x") == "a.x"


def test_an_operation_on_several_tensors_needs_all_of_them():
    table = RenameTable([Rename("qkv.{}", ("q.{}", "k.{}"), Split(2))])
    there = plan(table, "qkv.0", "qkv.1")
    assert list(there.steps) == ["q.0", "k.0", "q.1", "k.1"]
    assert there.steps["k.1"].sources == ("qkv.1",)
    assert there.report.reshaped["q.0"] == "(2, 2) to (1, 2)"
    back = plan(table.reversed(), "q.0", "k.0")
    assert back.steps["qkv.0"].sources == ("q.0", "k.0")
    with pytest.raises(ValueError, match=r"has q\.0, but lacks k\.0, which belongs to it"):
        plan(table.reversed(), "q.0")


def test_a_tensor_its_operation_is_not_made_for_is_an_error_that_names_it():
    table = RenameTable([Rename("qkv", ("q", "k", "v"), Split(3))])
    with pytest.raises(ValueError, match=r"has qkv of shape \(2, 2\), but expected a first axis"):
        plan(table, "qkv")


def test_dropped_and_set_aside_keys_are_reported_with_their_reason():
    table = RenameTable([Drop("ids", "a constant"), SetAside("head", "unused"), Rename("a", "b")])
    found = plan(table, "ids", "head.w", "a")
    assert list(found.steps) == ["b"]
    assert found.set_aside == {"head.w": "head.w"}
    assert str(found.report).splitlines() == [
        "Theirs -> Ours: 1 tensors loaded",
        "  set aside 1: head.w (unused)",
        "  dropped 1: ids (a constant)",
    ]


def test_a_constant_is_filled_in_and_must_be_there_on_the_way_back():
    table = RenameTable([Constant("bias", (2,), 0.0, "no bias there"), Rename("a", "b")])
    there = plan(table, "a")
    assert there.steps["bias"] == Step((), TensorInfo((2,), torch.float32), fill=0.0)
    tensors = infos("b") | infos("bias", shape=(2,))
    back = table.reversed().plan(tensors, report=report())
    assert list(back.steps) == ["a"]
    (check,) = back.checks
    check(lambda name: torch.zeros(2))
    with pytest.raises(ValueError, match=r"bias would have to be 0 everywhere.*from 0 to 1"):
        check(lambda name: torch.tensor([0.0, 1.0]))


def test_a_tied_tensor_that_differs_is_an_error():
    table = RenameTable([Drop("head", "tied", equals="table.weight"), Rename("table", "table")])
    (check,) = plan(table, "head.weight", "table.weight").checks
    check(lambda name: torch.zeros(1))
    with pytest.raises(ValueError, match=r"head\.weight is tied to table\.weight, but"):
        check(lambda name: torch.ones(1) * len(name))


def test_every_name_that_does_not_fit_is_in_the_message():
    found = {"weight": (3, 4), "gain": (1,)}
    expected = {"weight": (3, 2), "bias": (3,)}
    with pytest.raises(ValueError) as error:
        require_exactly(found, expected, name="Theirs")
    for problem in (
        "Theirs does not fit (3 problems)",
        "missing bias of shape (3,)",
        "left over gain of shape (1,)",
        "weight has shape (3, 4), expected (3, 2)",
    ):
        assert problem in str(error.value)
