"""Published rows through the evaluator: pictures of tables are read, places are kept."""

import pytest

from mm1_hf.evaluation import evaluate
from mm1_hf.evaluation.tasks import TASKS

from ..small_tasks import model, processor
from .published import HUB_ROWS, save_parquet


@pytest.mark.parametrize("name", ["docvqa", "mmmu", "coco", "scienceqa"])
@pytest.mark.parametrize("style", ["chat", "continuation"])
def test_a_tiny_model_is_asked_every_row_of_a_table(name, style, tmp_path):
    split = {"coco": "val", "scienceqa": "test"}.get(name, "validation")
    save_parquet(tmp_path / f"{split}-00000-of-00001.parquet", HUB_ROWS[name](6))
    examples = TASKS[name].read(tmp_path)
    made = processor()
    result = evaluate(
        model(made),
        made,
        TASKS[name],
        examples[:2],
        demonstrations=examples[2:],
        num_shots=1,
        style=style,
        batch_size=2,
        max_new_tokens=2,
        progress=False,
    )
    assert (result.counts.examples, result.counts.answered) == (2, 2)
    said = [answer.text for answer in result.per_seed[0].answers]
    assert dict(TASKS[name].metric(said, examples[:2]).figures) == result.per_seed[0].figures
