"""A project tells its readers nothing about the machine it was written on."""

import re

WHERE = {"src", "docs", "examples", "benchmarks", "tests", ".github", ".ci"}
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".cff", ".json", ".cfg", "", ".ipynb"}
LOCAL_PATH = re.compile(r"(?<![\w.$~/-])/(?:work|root|tmp|home|opt|Users)/\w")
PRIVATE_HOST = re.compile(
    r"https?://(?:[\w.-]+\.(?:internal|corp|lan|local)\b|10\.\d|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.)"
)


def _found(pattern: re.Pattern[str], root, project_files) -> list[str]:
    texts = [
        path
        for path in project_files
        if path.suffix in TEXT and (len(path.parts) == 1 or path.parts[0] in WHERE)
    ]
    assert texts, "no text was found: this test would pass for the wrong reason"
    return [
        f"{path}:{number} {line.strip()[:80]}"
        for path in texts
        for number, line in enumerate((root / path).read_text("utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_one_machine(root, project_files):
    assert not _found(LOCAL_PATH, root, project_files)


def test_no_file_names_a_private_host(root, project_files):
    assert not _found(PRIVATE_HOST, root, project_files)
