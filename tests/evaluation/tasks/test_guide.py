from pathlib import Path

from mm1_hf.evaluation.tasks import TASKS

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "evaluation-tasks.md"


def test_the_guides_table_has_every_task_with_its_default_split():
    rows = [line.split("|") for line in GUIDE.read_text(encoding="utf-8").splitlines()]
    table = {row[1].strip(" `"): row[3].strip() for row in rows if len(row) == 7}
    named = {name: split for name, split in table.items() if name in TASKS}
    assert set(named) == set(TASKS)
    for name, split in named.items():
        assert split.split()[0] == TASKS[name].read.splits[0], name
