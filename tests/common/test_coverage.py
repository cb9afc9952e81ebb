"""Every check of transformers' common tests has a test of ours that exists, or a reason."""

import ast
from pathlib import Path

import pytest

from .check_tables import TABLES, Table
from .reasons import Reason

TESTS = Path(__file__).parent.parent


def _tests_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.mixin)
def test_every_check_has_a_test_that_exists_or_a_reason(table: Table):
    named = {check for check in table.checks.values() if isinstance(check, str)}
    known = {file: _tests_of(file) for file in {check.partition("::")[0] for check in named}}
    missing = [
        check for check in named if check.partition("::")[2] not in known[check.partition("::")[0]]
    ]
    assert not missing


def test_the_tables_are_as_long_as_the_mixins():
    """Their length in transformers 5.23; `make upstream` compares the names."""
    lengths = {table.mixin: len(table.checks) for table in TABLES if table.file is not None}
    assert lengths == {
        "ModelTesterMixin": 121,
        "ProcessorTesterMixin": 43,
        "ImageProcessingTestMixin": 26,
        "ConfigTester": 10,
        "PipelineTesterMixin": 46,
    }


def test_every_reason_is_needed():
    given = {check for table in TABLES for check in table.checks.values()}
    assert {reason for reason in Reason if reason in given} == set(Reason)
