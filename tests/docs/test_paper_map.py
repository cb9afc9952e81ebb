"""What the paper map points at exists: files, and tests by name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDINGS = {"published", "reported", "derived", "undisclosed"}
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| in the paper")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_claim_has_a_standing_a_file_and_a_test(row):
    claim, _, standing, file, tests = row
    assert set(re.findall(r"\w+", standing)) & STANDINGS, f"{claim}: which standing?"
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", file):
        assert (ROOT / "src" / "mm1_hf" / path).exists(), f"{claim}: {path} is not there"
    named = re.findall(r"`([\w/.]+?)(?:::(\w+))?`", tests)
    assert named, f"{claim}: which test?"
    for path, test in named:
        path = ROOT / "tests" / path
        assert path.exists(), f"{claim}: {path} is not there"
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), f"{claim}: {test}"
