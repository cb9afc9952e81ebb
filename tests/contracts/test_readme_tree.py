"""The tree in the README is the map of the project; a map that lies is worse than none."""

import re
from pathlib import Path

import pytest

HEADING = "## The tree"
# A map shows streets, not every kerb: these need no line of their own.
UNLISTED = {"__init__.py", "py.typed", "conftest.py"}
ENTRY = re.compile(r"^(?P<indent>(?:│   |    )*)(?:├──|└──) (?P<name>\S+)")


def _tree_block(readme: str) -> list[str]:
    after = readme.partition(f"\n{HEADING}")[2]
    assert after, f"README.md needs a section {HEADING!r} with a fenced tree"
    fenced = re.search(r"^```[a-z]*\n(.*?)^```", after, flags=re.MULTILINE | re.DOTALL)
    assert fenced, f"README.md needs a fenced block after {HEADING!r}"
    return fenced.group(1).splitlines()


def parse_tree(lines: list[str]) -> list[Path]:
    """The paths a drawn tree names. `a/b/` may stand on one line; comments follow the name."""
    paths, open_folders = [], [Path()]
    for line in lines:
        entry = ENTRY.match(line)
        if entry is None:
            continue
        depth = len(entry["indent"]) // 4
        path = open_folders[depth] / entry["name"]
        del open_folders[depth + 1 :]
        open_folders.append(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def tree(root) -> list[Path]:
    paths = parse_tree(_tree_block((root / "README.md").read_text(encoding="utf-8")))
    assert paths, "the tree in README.md has no entries of the form '├── name'"
    return paths


def test_a_drawn_tree_is_read_as_paths():
    drawn = ["root/", "├── a.md    text", "├── src/p/", "│   ├── b.py", "│   └── c/", "└── d/"]
    assert [str(p) for p in parse_tree(drawn)] == ["a.md", "src/p", "src/p/b.py", "src/p/c", "d"]


def test_everything_in_the_tree_is_on_the_disk(root, tree):
    missing = [str(path) for path in tree if not (root / path).exists()]
    assert not missing, f"README.md shows what is not there: {missing}"


def test_every_folder_the_tree_opens_is_shown_whole(project_files, tree):
    shown = set(tree) | {parent for path in tree for parent in path.parents}
    opened = {path.parent for path in tree} | {Path()}
    on_disk = {p for file in project_files for p in (file, *file.parents)} - {Path()}
    unshown = [
        str(path)
        for path in sorted(on_disk)
        if path.parent in opened
        and path not in shown
        and path.name not in UNLISTED
        and not path.name.startswith(".")
    ]
    assert not unshown, f"README.md does not show: {unshown}"
