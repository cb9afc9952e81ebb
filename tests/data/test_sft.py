"""Chats in both formats become packs whose loss is on answers only, and no row without any."""

import json

import numpy as np
import pytest

from mm1_hf.data import (
    BadDataError,
    ErrorPolicy,
    JsonlSource,
    MemorySource,
    Mixture,
    MM1Collator,
    PackedDataset,
    from_llava,
    from_messages,
)
from mm1_hf.data.collators import IGNORED

from . import small_corpus as corpus

SKIP = ErrorPolicy(mode="skip", budget_per_source=1.0)
NUM_ROWS = 6


def llava_row(number: int) -> dict:
    human = "<image>\nAnd <image>?" if number % 3 else "<image> is what?"
    names = [f"{number}-{nth}.png" for nth in range(human.count("<image>"))]
    turns = [("human", human), ("gpt", f"answer {number} "), ("human", "Sure?"), ("gpt", "Yes.")]
    return {
        "id": f"llava-{number}",
        "image": names[0] if len(names) == 1 else names,
        "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
    }


def chat_row(number: int) -> dict:
    user = [{"type": "text", "text": f"Look {number}: "}, {"type": "image"}] * (number % 3)
    return {
        "id": f"chat-{number}",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [*user, {"type": "text", "text": "what? </s> <image>"}]},
            {"role": "assistant", "content": "שלום 👋"},
        ],
        "images": [f"{number}-{nth}.png" for nth in range(number % 3)],
    }


ROWS = {"llava": llava_row, "messages": chat_row}
CONVERTERS = {"llava": from_llava, "messages": from_messages}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of both formats as JSON lines, beside their pictures."""
    folder = tmp_path_factory.mktemp("sft")
    for number in range(NUM_ROWS):
        for nth in range(2):
            content = corpus.picture(10 * number + nth, kind="PNG")
            (folder / f"{number}-{nth}.png").write_bytes(content)
    for name, make_row in ROWS.items():
        lines = [json.dumps(make_row(number)) for number in range(NUM_ROWS)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module", params=["none", "index", "separators"])
def processor(request):
    return corpus.make_processor(tiling="dynamic", markers=request.param)


def open_chats(sources, processor, cache, **changes) -> PackedDataset:
    settings = {"num_sequences": 6, "sequence_length": 2048, **changes}
    mixture = Mixture({source: 1 for source in sources}, unit="document")
    return PackedDataset(mixture, processor, cache_folder=cache, **settings)


def messages_of(row: dict, folder) -> list[dict]:
    """A row of either format as one would write it for `apply_chat_template`."""
    if "messages" in row:
        names = iter(row["images"])
        messages = []
        for message in row["messages"]:
            content = message["content"]
            if not isinstance(content, str):
                content = [
                    part
                    if part["type"] == "text"
                    else {"type": "image", "path": str(folder / next(names))}
                    for part in content
                ]
            messages.append({"role": message["role"], "content": content})
        return messages
    names = iter([row["image"]] if isinstance(row["image"], str) else row["image"])
    messages = []
    for turn in row["conversations"]:
        first, *others = turn["value"].split("<image>")
        content = [{"type": "text", "text": first}]
        for text in others:
            content.append({"type": "image", "path": str(folder / next(names))})
            content.append({"type": "text", "text": text})
        role = {"human": "user", "gpt": "assistant"}[turn["from"]]
        messages.append({"role": role, "content": content})
    return messages


@pytest.mark.parametrize("window", [1024, 1], ids=["packed", "one per sequence"])
def test_rows_of_both_formats_train_what_the_processor_says(folder, processor, tmp_path, window):
    sources = [
        JsonlSource(folder / f"{name}.jsonl", name=name, index_folder=tmp_path / "indices")
        for name in ROWS
    ]
    dataset = open_chats(sources, processor, tmp_path, window=window)
    rows = {row["id"]: row for make in ROWS.values() for row in map(make, range(NUM_ROWS))}
    met = set()
    for item in (dataset[index] for index in range(len(dataset))):
        if window == 1:
            assert len(item["document_keys"]) == 1
        for part in corpus.documents_of(item, processor):
            (key,) = part["document_keys"]
            met.add(key)
            expected = processor.apply_chat_template(
                messages_of(rows[key], folder),
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            assert part["input_ids"].tolist() == list(expected["input_ids"][0])
            mask = np.array(expected["assistant_masks"][0], dtype=bool)
            assert mask.any()
            assert np.array_equal(part["labels"], np.where(mask, part["input_ids"], IGNORED))
    assert len(met) > NUM_ROWS / 2
    batch = MM1Collator(processor)([dataset[0], dataset[1]])
    assert (batch["labels"] != IGNORED).any(dim=1).all()


UNANSWERED = {
    "no assistant turn": [("user", "what?")],
    "empty answer": [("user", "what?"), ("assistant", "")],
    "blank answers": [("user", "a"), ("assistant", " \n"), ("user", "b"), ("assistant", "")],
}


def chat(key: str, *turns: tuple[str, str], form: str = "messages"):
    if form == "llava":
        names = {"user": "human", "assistant": "gpt"}
        said = [{"from": names[role], "value": text} for role, text in turns]
        return from_llava({"id": key, "conversations": said}, source="chats")
    said = [{"role": role, "content": text} for role, text in turns]
    return from_messages({"id": key, "messages": said}, source="chats")


@pytest.fixture(scope="module")
def plain_processor():
    return corpus.make_processor()


@pytest.mark.parametrize("form", CONVERTERS)
@pytest.mark.parametrize("kind", UNANSWERED)
def test_a_row_without_an_answer_is_named_or_counted(plain_processor, tmp_path, kind, form):
    good = chat("good", ("user", "what?"), ("assistant", "this"), form=form)
    bad = chat("row 7", *UNANSWERED[kind], form=form)
    source = MemorySource([good, bad], name="chats")
    with pytest.raises(ValueError, match=r"'row 7' of source 'chats': the conversation has"):
        open_chats([source], plain_processor, tmp_path)
    dataset = open_chats([source], plain_processor, tmp_path, errors=SKIP)
    keys = {key for index in range(len(dataset)) for key in dataset[index]["document_keys"]}
    assert keys == {"good"}
    entry = dataset.plan.report["chats"]
    assert entry.unusable > 0
    assert dataset.errors.counts() == {"chats": {"unmeasured": entry.unusable}}


def long_question():
    return chat("long", ("user", "why " * 100), ("assistant", "because"))


def test_an_answer_lost_to_truncation_is_named_or_counted(plain_processor, tmp_path):
    good = chat("good", ("user", "what?"), ("assistant", "this"))
    source = MemorySource([good, long_question()], name="chats")
    settings = {"sequence_length": 128, "over_budget": "truncate"}
    with pytest.raises(BadDataError, match=r"'long' of source 'chats'.*nothing is left in 128"):
        open_chats([source], plain_processor, tmp_path, **settings)
    dataset = open_chats([source], plain_processor, tmp_path, errors=SKIP, **settings)
    keys = {key for index in range(len(dataset)) for key in dataset[index]["document_keys"]}
    assert keys == {"good"}
    entry = dataset.plan.report["chats"]
    assert entry.unanswered > 0 and entry.first_unanswered == 1 and entry.truncated == 0
    assert dataset.errors.counts() == {"chats": {"unanswered": entry.unanswered}}
    strict = ErrorPolicy(mode="skip", budget_per_source=0)
    with pytest.raises(BadDataError, match="unanswered"):
        open_chats([source], plain_processor, tmp_path, errors=strict, **settings)


def test_a_source_that_truncation_leaves_without_any_answer_is_refused(plain_processor, tmp_path):
    source = MemorySource([long_question()], name="chats")
    settings = {"sequence_length": 128, "over_budget": "truncate", "errors": SKIP}
    with pytest.raises(ValueError, match="no answer of a conversation"):
        open_chats([source], plain_processor, tmp_path, **settings)


def test_a_truncated_row_that_keeps_an_answer_is_kept(plain_processor, tmp_path):
    turns = [("user", "a"), ("assistant", "first"), ("user", "b " * 100), ("assistant", "second")]
    source = MemorySource([chat("k", *turns)], name="chats")
    settings = {"sequence_length": 128, "over_budget": "truncate", "num_sequences": 1, "window": 8}
    dataset = open_chats([source], plain_processor, tmp_path, **settings)
    assert (dataset[0]["labels"] != IGNORED).any()
    assert dataset.plan.report["chats"].unanswered == 0


def test_splitting_leaves_no_sequence_without_loss(plain_processor, tmp_path):
    source = MemorySource([long_question()], name="chats")
    dataset = open_chats([source], plain_processor, tmp_path, sequence_length=128)
    for item in (dataset[index] for index in range(len(dataset))):
        assert (item["labels"] != IGNORED).any()
    assert dataset.plan.report["chats"].unanswered_pieces > 0
