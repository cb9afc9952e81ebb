import json
import random

import pytest

from mm1_hf.evaluation import Example, evaluate
from mm1_hf.evaluation.answers import AnswerFile

from . import small_tasks as small

STYLES = ("chat", "continuation")


@pytest.fixture(scope="module")
def processor():
    return small.processor(tiling="static")


@pytest.fixture(scope="module")
def model(processor):
    return small.model(processor)


def ask(model, processor, examples, **settings):
    """Evaluate quietly; `task` holds changes of the task."""
    task = small.task(**settings.pop("task", {}))
    return evaluate(model, processor, task, examples, **{"progress": False, **settings})


def texts(result, seed=0):
    return [answer.text for answer in result.per_seed[seed].answers]


# What scores must be.


@pytest.mark.parametrize("style", STYLES)
def test_a_perfect_oracle_scores_everything(processor, style):
    asked, train = small.examples(24), small.examples(12, start=100, split="t")
    truths = [example.answers[0] for example in asked]
    for shots in (0, 2):
        speaker = small.oracle(processor, asked, truths)
        result = ask(speaker, processor, asked, style=style, num_shots=shots, demonstrations=train)
        assert result.figures["accuracy"].value == 1.0
        assert result.counts.answered == result.counts.examples == 24


def test_a_constant_answer_scores_its_share(processor):
    result = ask(small.Speaker(processor, lambda text: "blue"), processor, small.examples(40))
    figure = result.figures["accuracy"]
    assert figure.value == 0.25 and figure.count == 40
    assert figure.standard_error == pytest.approx((0.25 * 0.75 / 39) ** 0.5)


def test_shuffled_truths_score_chance(processor):
    asked = small.examples(400)
    truths = [example.answers[0] for example in asked]
    random.Random(0).shuffle(truths)
    figure = ask(small.oracle(processor, asked, truths), processor, asked).figures["accuracy"]
    assert abs(figure.value - 0.25) < 3 * figure.standard_error


@pytest.mark.parametrize("style", STYLES)
def test_batches_change_no_answer(model, processor, style):
    """Also with pictures of several tiles, text alone, and prompts of different lengths."""
    asked = small.examples(17)
    asked[5] = Example(key="text", question="No picture here. Why?", answers=("so",))
    asked[6] = Example(key="two", images=asked[1].images * 2, question="Both?", answers=("no",))
    settings = {
        "style": style,
        "num_shots": 2,
        "high_resolution_last": 1,
        "demonstrations": small.examples(9, start=60, split="t"),
    }
    one, many = (
        ask(model, processor, asked, batch_size=size, **settings).per_seed[0] for size in (1, 16)
    )
    assert one == many
    assert len(set(answer.text for answer in one.answers)) > 5


def test_every_order_of_questions_gets_the_same_answers(model, processor):
    asked, train = small.examples(8), small.examples(9, start=60, split="t")
    settings = {"num_shots": 3, "demonstrations": train, "batch_size": 3}
    forth = ask(model, processor, asked, **settings).per_seed[0].answers
    back = ask(model, processor, asked[::-1], **settings).per_seed[0].answers
    assert forth == back[::-1]


# What is asked.


def test_running_text_shows_answers_behind_their_prompts(processor):
    asked, train = small.examples(1), small.examples(2, start=100, split="t")
    speaker = small.Speaker(processor, lambda text: " red")
    ask(speaker, processor, asked, style="continuation", num_shots=2, demonstrations=train)
    lines = speaker.prompts[0].split("\n")
    shown = [line.split("A:")[1] for line in lines]
    assert sorted(shown[:2]) == [" green", " red"] and shown[2:] == [""]
    assert all(line.startswith(" Q: What colour is picture") for line in lines)


def test_a_chat_shows_answers_as_turns(processor):
    asked, train = small.examples(1), small.examples(2, start=100, split="t")
    speaker = small.Speaker(processor, lambda text: "red")
    ask(speaker, processor, asked, style="chat", num_shots=2, demonstrations=train)
    prompt = speaker.prompts[0]
    assert prompt.count("User:") == 3 and prompt.endswith("Assistant:")
    assert prompt.count("Assistant: red") == prompt.count("Assistant: green") == 1


@pytest.mark.parametrize("style", STYLES)
def test_only_the_last_demonstrations_and_the_question_are_tiled(model, processor, style):
    tokens = {}
    for last in (0, 1, 3):
        result = ask(
            model,
            processor,
            small.examples(1),
            style=style,
            num_shots=3,
            demonstrations=small.examples(3, start=4, split="t"),
            high_resolution_last=last,
        )
        tokens[last] = result.per_seed[0].answers[0].prompt_tokens
    # A picture of five tiles instead of one takes sixteen tokens more.
    assert (tokens[1] - tokens[0], tokens[3] - tokens[0]) == (16, 48)


def test_seeds_ask_with_other_demonstrations(model, processor):
    asked, train = small.examples(6), small.examples(9, start=60, split="t")
    result = ask(model, processor, asked, num_shots=2, seeds=(0, 1, 2), demonstrations=train)
    drawn = [[a.demonstrations for a in one.answers] for one in result.per_seed.values()]
    assert drawn[0] != drawn[1] != drawn[2]
    assert result.counts.examples == 18 and result.figures["accuracy"].count == 6
    assert list(ask(model, processor, asked, seeds=(5, 6)).per_seed) == [5]


def test_stops_cut_and_end_running_text_only(processor):
    speaker = small.Speaker(processor, lambda text: " red Q: And this? A: blue")
    asked = small.examples(2)
    told = ask(
        speaker, processor, asked, style="continuation", task={"max_new_tokens": 99}
    ).per_seed[0]
    assert [answer.text for answer in told.answers] == ["red", "red"]
    assert {answer.ending for answer in told.answers} == {"stop"}
    told = ask(speaker, processor, asked, style="chat", task={"max_new_tokens": 99})
    assert texts(told) == ["red Q: And this? A: blue"] * 2


# What goes wrong.


def test_everything_is_counted(processor):
    asked = small.examples(6)
    asked[1] = Example(key="bad", images=(b"no picture",), question="?", answers=("red",))
    asked[2] = Example(key="long", question="word " * 2000, answers=("red",))
    asked[3] = Example(key="open", question="What colour is picture x?")
    train = [
        *small.examples(3, start=60, split="t"),
        Example(key="t", images=(b"",), answers=("a",)),
    ]
    train.append(Example(key="copy", images=asked[4].images, answers=("a",)))
    model = small.model(processor, max_position_embeddings=1024)
    speaker = small.Speaker(processor, lambda text: "" if "picture 0" in text[-99:] else "red")
    speaker.config = model.config
    settings = {"num_shots": 3, "demonstrations": train, "style": "continuation"}
    result = ask(
        speaker,
        processor,
        asked,
        on_bad_image="count",
        on_long_prompt="count",
        on_unlabelled="count",
        **settings,
    )
    counts = result.counts
    assert (counts.examples, counts.answered, counts.unreadable, counts.too_long) == (5, 3, 1, 1)
    assert (counts.empty, counts.unlabelled, counts.cut) == (1, 1, 0)
    assert counts.equal_demonstrations == 1 and counts.unreadable_demonstrations > 0
    assert result.figures["accuracy"].count == 5
    assert sum(speaker.batches) == 3
    table = result.table()
    for words in ("5 examples", "1 empty", "1 unreadable", "1 too long", "1 unlabelled"):
        assert words in table
    with pytest.raises(ValueError, match=r"Picture 0 of example 'bad'.*on_bad_image"):
        ask(speaker, processor, asked[:3], on_long_prompt="count")
    with pytest.raises(ValueError, match=r"'long' has \d+ tokens.*context has 1024"):
        ask(speaker, processor, asked[:3], on_bad_image="count")
    with pytest.raises(ValueError, match=r"1 of 6 examples .* first is 'open'.*on_unlabelled"):
        ask(speaker, processor, asked)


def test_nothing_asked_is_still_a_result(processor):
    asked = [Example(key="bad", images=(b"",), answers=("a",))]
    result = ask(small.Speaker(processor, str), processor, asked, on_bad_image="count")
    assert result.figures["accuracy"].value == 0 and result.counts.unreadable == 1


def test_wrong_calls_say_what_to_do(processor):
    asked, speaker = small.examples(2), small.Speaker(processor, lambda text: "red")
    cases = [
        ({"num_shots": 2}, "demonstrations="),
        ({"num_shots": -1}, "at least 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"style": "raw"}, "'continuation'"),
        ({"seeds": (1, 1)}, "each once"),
        ({"on_bad_image": "skip"}, "'count'"),
        ({"max_new_tokens": 0}, "answers have tokens"),
        ({"num_shots": 3, "demonstrations": asked}, "Only 1 of 2"),
        ({"task": {"metric": lambda a, e: small.exact(a[:1], e[:1])}}, "1 scores for 2"),
    ]
    for settings, words in cases:
        with pytest.raises(ValueError, match=words):
            ask(speaker, processor, asked, **settings)
    with pytest.raises(ValueError, match="share the key 'q0'"):
        ask(speaker, processor, asked[:1] * 2)
    with pytest.raises(ValueError, match="None of the 1 examples of task 'colours' has answers"):
        ask(speaker, processor, [Example(key="a", question="?")])
    with pytest.raises(ValueError, match="No example"):
        ask(speaker, processor, [])
    train = [*small.examples(3, start=60, split="t"), Example(key="bare", question="?")]
    with pytest.raises(ValueError, match="the first is 'bare'"):
        ask(speaker, processor, asked, num_shots=1, demonstrations=train)
    told = ask(speaker, processor, asked, num_shots=3, demonstrations=train, on_unlabelled="count")
    assert sorted(told.per_seed[0].answers[0].demonstrations) == [0, 1, 2]


# What stays on disk.


def test_a_second_call_asks_only_what_is_missing(processor, tmp_path):
    asked = small.examples(10)
    speaker = small.Speaker(processor, lambda text: "red")
    first = ask(speaker, processor, asked[:6], output=tmp_path, batch_size=4)
    assert speaker.batches == [4, 2]
    again = ask(speaker, processor, asked[:6], output=tmp_path)
    assert speaker.batches == [4, 2] and again == first
    more = ask(speaker, processor, asked, output=tmp_path)
    assert speaker.batches == [4, 2, 4]
    assert more == ask(speaker, processor, asked)


def test_a_torn_last_line_is_asked_again(processor, tmp_path):
    asked = small.examples(5)
    speaker = small.Speaker(processor, lambda text: "red")
    first = ask(speaker, processor, asked, output=tmp_path)
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 40, 10, 0):
        path.write_bytes(whole[:size])
        assert ask(speaker, processor, asked, output=tmp_path) == first
        assert path.read_bytes() == whole
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(ValueError, match=r"Line 1 of .* is no answer"):
        ask(speaker, processor, asked, output=tmp_path)


def test_answers_of_two_runs_are_never_mixed(model, processor, tmp_path):
    asked, train = small.examples(3), small.examples(9, start=60, split="t")
    settings = {"num_shots": 1, "demonstrations": train, "output": tmp_path}
    ask(model, processor, asked, **settings)
    others = [
        ({"num_shots": 2}, "num_shots 1 instead of 2"),
        ({"style": "continuation"}, "style"),
        ({"high_resolution_last": 0}, "high_resolution_last 3 instead of 0"),
        ({"max_new_tokens": 3}, "max_new_tokens"),
        ({"demonstrations": train[:5]}, "demonstrations"),
        ({"task": {"name": "shapes"}}, 'task "colours" instead of "shapes"'),
        ({"task": {"prompt": lambda e: [*e.images, e.question + "!"]}}, "prompt"),
    ]
    for changes, words in others:
        with pytest.raises(ValueError, match=words):
            ask(model, processor, asked, **{**settings, **changes})
    for other in (small.model(processor, seed=1), small.Speaker(processor, str)):
        with pytest.raises(ValueError, match=r"another run: .*model"):
            ask(other, processor, asked, **settings)
    with pytest.raises(ValueError, match="processor"):
        ask(model, small.processor(), asked, **settings)
    changed = [*asked[:2], Example(key="q2", question="Other?", answers=("x",))]
    with pytest.raises(ValueError, match="'q2' is not the one that was answered"):
        ask(model, processor, changed, **settings)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"no run\.json"):
        ask(model, processor, asked, **settings)


def test_what_was_counted_is_an_error_where_errors_are_asked_for(processor, tmp_path):
    asked = [*small.examples(2), Example(key="bad", images=(b"",), question="?", answers=("a",))]
    speaker = small.Speaker(processor, lambda text: "red")
    with pytest.raises(ValueError, match="'bad'"):
        ask(speaker, processor, asked, output=tmp_path, batch_size=1)
    ask(speaker, processor, asked, output=tmp_path, on_bad_image="count")
    assert len(speaker.batches) == 2
    with pytest.raises(ValueError, match="'bad'"):
        ask(speaker, processor, asked, output=tmp_path)


def test_one_process_writes_at_a_time(processor, tmp_path):
    from mm1_hf.evaluation.answers import only_writer

    with only_writer(tmp_path), pytest.raises(ValueError, match="Another process"):
        ask(small.Speaker(processor, str), processor, small.examples(1), output=tmp_path)


def test_reports_hold_figures_counts_and_settings(model, processor, tmp_path):
    asked, train = small.examples(6), small.examples(9, start=60, split="t")
    result = ask(
        model, processor, asked, num_shots=2, seeds=(3, 4), demonstrations=train, output=tmp_path
    )
    told = json.loads((tmp_path / "results.json").read_text())
    assert told == json.loads(json.dumps(result.as_dict()))
    assert set(told["figures"]["accuracy"]) == {
        "value",
        "standard_error",
        "seed_deviation",
        "count",
    }
    assert told["per_seed"]["3"]["counts"]["examples"] == 6
    assert told["settings"]["num_shots"] == 2 and "transformers" in told["versions"]
    assert (tmp_path / "results.txt").read_text() == result.table() + "\n"
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 12
    assert not list(tmp_path.glob("*.draft"))


def test_undefined_figures_are_null(processor, tmp_path):
    from mm1_hf.evaluation import Figure, Scores

    def metric(answers, examples):
        return Scores({"ratio": Figure(float("nan"), None, 2)}, (0.0,) * len(answers))

    speaker = small.Speaker(processor, lambda text: "red")
    ask(speaker, processor, small.examples(2), output=tmp_path, task={"metric": metric})
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["figures"]["ratio"]["value"] is None


def test_keys_of_any_text_are_kept(tmp_path):
    from mm1_hf.evaluation.answers import Answer

    keys = ["a\nb", '"', "\ud800", "é\u2028", ""]
    AnswerFile(tmp_path, settings={}).add(
        Answer(seed=0, key=key, content="c", text=key) for key in keys
    )
    again = AnswerFile(tmp_path, settings={})
    assert [again.get(0, key).text for key in keys] == keys
