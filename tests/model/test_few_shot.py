"""Laws of worked examples: their order, their resolution, and text that stays text."""

import pytest
import torch

from mm1_hf.model.interleaving_mm1 import CAPTION_PROMPT

from .processors import TOKENS_PER_TILE, picture, placeholders

EXAMPLES = [
    {"images": picture(56, 56, (n, n, n)), "question": f"How many <image>{n}?", "answer": str(n)}
    for n in range(5)
]
QUERY = {"images": picture(56, 56, (9, 9, 9)), "question": "And {question} here?"}


@pytest.fixture(scope="module")
def tiled(make_processor):
    return make_processor(tiling="static")


def tiles_of(processor, output) -> list[int]:
    """Tiles of each run of placeholders."""
    is_image = [int(i) == processor.image_token_id for i in output["input_ids"][0]]
    text = "".join("#" if flag else " " for flag in is_image)
    return [len(run) // TOKENS_PER_TILE for run in text.split()]


@pytest.mark.parametrize("style", ["prompt", "chat"])
@pytest.mark.parametrize("last", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("tiling", ["static", "dynamic"])
def test_only_the_last_examples_and_the_query_are_tiled(tiled, style, last, tiling):
    output = tiled.few_shot(EXAMPLES, QUERY, high_resolution_last=last, style=style, tiling=tiling)
    kept = min(last, 5) + 1
    tiles = [1] * (6 - kept) + [5] * kept
    assert tiles_of(tiled, output) == tiles
    assert len(output["pixel_values"]) == sum(tiles)
    # In reading order: the first tile of each image shows its grey.
    firsts = torch.tensor([sum(tiles[:n]) for n in range(6)])
    assert output["pixel_values"][firsts, 0, 14, 14].diff().gt(0).all()
    assert set(output) == {"input_ids", "attention_mask", "pixel_values"}


def test_three_examples_keep_their_resolution_by_default(tiled):
    assert tiles_of(tiled, tiled.few_shot(EXAMPLES, QUERY)) == [1, 1, 5, 5, 5, 5]


def test_the_prompt_is_that_of_pretraining_and_ends_where_the_answer_begins(tiled):
    made = tiled.few_shot_prompt(EXAMPLES[:1], QUERY)
    plain = made.text.replace("\ufdd0", "")
    assert plain == (
        "<image> Question: How many <image>0? Short answer: 0\n"
        "<image> Question: And {question} here? Short answer:"
    )
    assert made.text.count("<image>") == 2
    assert tiled.decode(tiled.few_shot(EXAMPLES[:1], QUERY)["input_ids"][0]).endswith(
        "Short answer:"
    )


def test_chains_of_thought_captions_and_several_images_are_examples_too(tiled):
    thought = "Left: two. Right: one.\nTwo and one make three.\nAnswer: 3"
    pair = {"images": [picture(), picture()], "question": "Sum?", "answer": thought}
    made = tiled.few_shot_prompt([pair], {"images": picture(), "question": "Sum?"})
    assert made.text.startswith(f"<image><image> Question: Sum? Short answer: {thought}\n")
    assert len(made.images) == len(made.max_tiles) == 3
    captions = [{"images": picture(), "answer": "a dog"}]
    made = tiled.few_shot_prompt(captions, {"images": picture()}, prompt=CAPTION_PROMPT)
    assert made.text == "<image> A photo of a dog\n<image> A photo of"
    free = tiled.few_shot_prompt([["See ", picture(), ": a </s>"]], [picture(), ":"])
    assert free.text.replace("\ufdd0", "") == "See <image>: a </s>\n<image>:"
    assert "</s>" not in free.text
    text_only = tiled.few_shot(
        [{"question": "2 + 2?", "answer": "4"}], {"question": "3 + 3?"}, style="chat"
    )
    assert "pixel_values" not in text_only


def test_a_chat_has_turns_and_a_system(tiled):
    output = tiled.few_shot(EXAMPLES[:1], QUERY, style="chat", system="Be brief.")
    text = tiled.decode(output["input_ids"][0])
    assert text.startswith("System: Be brief.\nUser: <image>") and text.endswith("\nAssistant:")
    assert "Assistant: 0</s>\nUser: " in text


def test_prompts_of_a_batch_are_the_prompts_alone(tiled):
    prompts = [tiled.few_shot_prompt(EXAMPLES[:n], QUERY) for n in (0, 2, 5)]
    batch = tiled(
        text=[made.text for made in prompts],
        images=[made.images for made in prompts],
        max_tiles=[made.max_tiles for made in prompts],
        padding=True,
        return_tensors="pt",
    )
    tiles = 0
    for row, number in enumerate((0, 2, 5)):
        alone = tiled.few_shot(EXAMPLES[:number], QUERY)
        kept = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][kept], alone["input_ids"][0])
        count = len(alone["pixel_values"])
        assert torch.equal(batch["pixel_values"][tiles : tiles + count], alone["pixel_values"])
        tiles += count


def test_a_conversation_keeps_the_resolution_of_its_last_turns(tiled):
    turns = []
    for number in (1, 2, 0, 1):  # images of each user turn
        parts = [{"type": "image", "image": picture(56, 56)}] * number
        turns += [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]
        turns += [{"role": "assistant", "content": "that"}]
    run = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    for last, tiles in ((0, [1, 1, 1, 5]), (1, [1, 1, 1, 5]), (2, [1, 5, 5, 5])):
        output = tiled.apply_chat_template(turns, high_resolution_last=last, **run)
        assert len(output["pixel_values"]) == sum(tiles)
        open_end = tiled.apply_chat_template(turns[:-1], high_resolution_last=last, **run)
        assert placeholders(tiled, open_end["input_ids"]) == TOKENS_PER_TILE * sum(tiles)
    batch = tiled.apply_chat_template(
        [turns, turns[:2], [{"role": "user", "content": "none"}]],
        high_resolution_last=0,
        processor_kwargs={"padding": True, "images_kwargs": {"pad_place": "center"}},
        **run,
    )
    found = [placeholders(tiled, row) // TOKENS_PER_TILE for row in batch["input_ids"]]
    assert found == [8, 5, 0]


@pytest.mark.parametrize(
    ("examples", "query", "options", "message"),
    [
        ([{"images": 1, "question": "a"}], {}, {}, "Example 0 has answer None"),
        ([], {"answer": "a"}, {}, "The query has an answer"),
        ([{"image": 1, "answer": "a"}], {}, {}, "Example 0 has 'image', but 'images'"),
        ([], {"question": "a"}, {"prompt": CAPTION_PROMPT}, "The query has a question"),
        ([], {}, {"prompt": "no place"}, "must contain '{images}' once"),
        ([], {}, {"high_resolution_last": -1}, "high_resolution_last is -1"),
        ([], {}, {"style": "poem"}, "style is 'poem'"),
        ([], {}, {"system": "Be brief."}, "system belongs to style='chat'"),
        ([], {}, {"style": "chat", "prompt": "{images}"}, "prompt belongs to style='prompt'"),
        ([["a"]], {}, {"style": "chat"}, "Example 0 is of type list"),
    ],
)
def test_what_an_example_lacks_is_named(tiled, examples, query, options, message):
    with pytest.raises(ValueError, match=message):
        tiled.few_shot(examples, query, **options)
