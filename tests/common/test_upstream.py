"""transformers' own common tests on our classes, where its source distribution is at hand.

`make upstream` fetches it. A new failure fails, and so does a new skip: most defects show as skips.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers

from . import check_tables
from .upstream.workspace import build_workspace

HERE = Path(__file__).parent
DISTRIBUTION = os.environ.get("MM1_TRANSFORMERS_TESTS", "")
# What the machine lacks, and not our classes.
OF_THE_MACHINE = re.compile(r"^(test requires|test is slow|float16 not supported)")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DISTRIBUTION, reason="MM1_TRANSFORMERS_TESTS names no distribution"),
]


@pytest.fixture(scope="module")
def distribution() -> Path:
    folder = Path(DISTRIBUTION).resolve()
    version = re.search(
        r"^Version: (\S+)", (folder / "PKG-INFO").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version is not None
    if version[1] != transformers.__version__:
        pytest.skip(f"these are the tests of transformers {version[1]}")
    return folder


@pytest.fixture(scope="module")
def report(distribution, tmp_path_factory) -> dict[str, list[tuple[str, str]]]:
    """`(check, reason)` of everything that failed and of everything that was skipped."""
    workspace = tmp_path_factory.mktemp("upstream")
    build_workspace(distribution, workspace=workspace)
    options = ["-q", "-n", "2", "-W", "ignore", "-p", "no:cacheprovider", "--tb=short"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--junitxml=report.xml", "tests/models/mm1"],
        cwd=workspace,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    written = workspace / "report.xml"
    assert written.exists(), done.stdout[-4000:] + done.stderr[-2000:]
    found = {"failed": [], "skipped": [], "passed": []}
    for case in ElementTree.parse(written).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        outcomes = {kind: case.find(kind) for kind in ("failure", "error", "skipped")}
        if outcomes["skipped"] is not None:
            found["skipped"].append((name, outcomes["skipped"].get("message", "")))
        elif outcomes["failure"] is not None or outcomes["error"] is not None:
            found["failed"].append((name, ""))
        else:
            found["passed"].append((name, ""))
    return found


def test_no_check_of_transformers_fails(report):
    assert not report["failed"]
    assert len(report["passed"]) > 600


def test_no_check_of_transformers_is_skipped_for_a_new_reason(report):
    known = json.loads((HERE / "upstream" / "skips.json").read_text(encoding="utf-8"))
    new = {
        f"{name}: {reason}"
        for name, reason in report["skipped"]
        if not OF_THE_MACHINE.match(reason) and name.partition(" ")[0] not in known.get(reason, ())
    }
    assert not new, "\n".join(sorted(new))


def test_the_tables_name_every_check_of_transformers(distribution):
    for table in check_tables.TABLES:
        if table.file is None:
            continue
        path = distribution / "tests" / table.file
        tree = ast.parse(path.read_text(encoding="utf-8"))
        mixin = next(
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef) and node.name == table.mixin
        )
        names = {
            node.name
            for node in mixin.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith(table.prefixes)
        }
        assert set(table.checks) == names, table.mixin
