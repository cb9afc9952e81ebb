"""The page's work without the page: reading a prompt, counting it, answering it."""

import base64
import io
import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mm1_hf.cli import main
from mm1_hf.grounding import draw_tiles
from mm1_hf.model.decoding_mm1 import read_image_size
from mm1_hf.serving import Answerer, PageLogic, Picture, build_page, read_pieces
from mm1_hf.serving.prompts import MAX_PICTURE_BYTES, as_messages

from .conftest import data_url, noise


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def image(height: int = 30, width: int = 20, **changes) -> dict:
    sent = {"type": "image", "name": "a.png", "data": data_url(noise(height, width))}
    return {**sent, **changes}


@pytest.fixture(scope="module")
def answerer(checkpoint):
    return Answerer.from_pretrained(str(checkpoint))


@pytest.fixture(scope="module")
def logic(answerer):
    def draw(picture, max_tiles):
        return draw_tiles(picture, answerer.processor, max_tiles=max_tiles)

    return PageLogic(answerer, draw)


def inputs_of(answerer, pieces):
    return answerer.processor.apply_chat_template(
        as_messages(pieces),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_pieces_keep_their_order():
    pieces = read_pieces([text("left "), image(30, 20), text(" right "), image(20, 40)])
    assert [type(piece) for piece in pieces] == [str, Picture, str, Picture]
    assert [piece.image.size for piece in pieces if isinstance(piece, Picture)] == [
        (20, 30),
        (40, 20),
    ]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("hello", "A list of pieces is expected"),
        ([], "nothing to answer"),
        ([text("  \n")], "nothing to answer"),
        ([{"type": "video"}], "of type 'video'"),
        ([{"type": "text", "text": 3}], "of type 'text'"),
        (["hello"], "of type 'str'"),
        ([image(), image(data="/etc/passwd", name="x")], r"Picture 2 \(x\) came without its data"),
        ([image(data="https://example.com/a.png")], "Drop the file itself"),
        ([image(data="data:image/png;base64,AAAA")], r"Picture 1 \(a.png\) cannot be read"),
        ([image(data="data:image/png;base64,not base64!")], "cannot be read as a picture"),
        ([image(data=data_url(noise(60, 60))[:-400])], "cannot be read as a picture"),
    ],
)
def test_bad_input_gets_a_clear_message(sent, message):
    with pytest.raises(ValueError, match=message):
        read_pieces(sent)


def test_a_picture_too_large_is_refused_before_it_is_decoded(monkeypatch):
    data = "data:image/png;base64," + "A" * (MAX_PICTURE_BYTES * 4 // 3 + 8)
    with pytest.raises(ValueError, match="has 30 MB, but at most 30 MB"):
        read_pieces([image(data=data)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="cannot be read"):
        read_pieces([image(30, 20)])


@given(
    words=st.lists(st.sampled_from(["<image>", "![a](b.png)", "</s>", "<ima", "ge>", "hi "])),
    pictures=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=3),
)
@settings(max_examples=40)
def test_counts_are_those_of_the_inputs_and_text_never_becomes_a_picture(answerer, words, pictures):
    pieces = ["".join(words) or "x", *(Picture("p", noise(*size)) for size in pictures), "end"]
    count = answerer.count(pieces)
    inputs = inputs_of(answerer, pieces)
    assert count.total == inputs["input_ids"].shape[1]
    placeholders = int((inputs["input_ids"] == answerer.processor.image_token_id).sum())
    assert placeholders == sum(count.plan.num_tokens)
    assert len(inputs.get("pixel_values", [])) == sum(count.plan.num_tiles)


def test_pictures_are_counted_upright():
    picture = noise(20, 60)
    exif = picture.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    sent = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    [turned] = read_pieces([image(data=sent)])
    assert read_image_size(turned.image) == (60, 20)


def test_the_answer_grows_to_what_generate_answers(answerer):
    pieces = ["What is ", Picture("p", noise(60, 40)), "?"]
    inputs = inputs_of(answerer, pieces)
    with torch.inference_mode():
        tokens = answerer.model.generate(**inputs, max_new_tokens=10, do_sample=False)
    expected = answerer.processor.decode(
        tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    steps = list(answerer.stream(pieces, max_new_tokens=10))
    assert steps[-1] == expected
    assert all(after.startswith(before) for before, after in itertools.pairwise(steps))


def test_an_answer_that_nobody_reads_stops(answerer):
    stream = answerer.stream(["hello"], max_new_tokens=4000)
    next(stream)
    stream.close()
    # The next one gets its turn: `close` has waited for the end of the first.
    assert list(answerer.stream(["hello"], max_new_tokens=2))


def test_a_failure_while_generating_is_raised_where_the_answer_is_read(answerer, monkeypatch):
    def fail(**kwargs):
        raise ValueError("out of luck")

    monkeypatch.setattr(answerer.model, "generate", fail)
    with pytest.raises(ValueError, match="out of luck"):
        list(answerer.stream(["hello"]))


def test_a_prompt_without_room_for_an_answer_is_refused(answerer, monkeypatch):
    text_config = answerer.model.config.text_config
    monkeypatch.setattr(text_config, "max_position_embeddings", 12)
    with pytest.raises(ValueError, match="leaves the model no room"):
        list(answerer.stream(["a long enough prompt"]))


def test_the_page_shows_counts_and_drawings_and_escapes_names(logic):
    shown = logic.show([image(60, 40, name="<b>.png"), text("hello")])
    assert "40 × 60" in shown and "2 × 2 + whole" in shown
    assert shown.count("<figure>") == 1 and "&lt;b&gt;.png" in shown and "<b>" not in shown


def test_three_pictures_are_drawn_as_they_are_cut(logic, monkeypatch):
    """Dynamic tiling leaves the pictures of such a prompt whole."""
    drawn = []
    monkeypatch.setattr(
        logic, "draw_tiles", lambda picture, tiles: drawn.append(tiles) or Image.new("RGB", (4, 4))
    )
    logic.show([image(60, 40), image(60, 40), image(60, 40)])
    assert drawn == [1, 1, 1]


def test_without_gradio_the_command_says_what_to_install(logic, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'mm1-hf\[web\]'"):
        build_page(logic, name="x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", "--web", "--model", "x"]) == 2
    message = capsys.readouterr().err
    assert "pip install 'mm1-hf[web]'" in message and message.count("\n") == 1


def test_without_its_packages_the_demo_says_what_to_install(capsys, monkeypatch):
    modules = sys.modules
    for name in [name for name in modules if name.startswith("mm1_hf.demo")]:
        monkeypatch.delitem(modules, name)
    monkeypatch.setitem(modules, "sklearn", None)
    monkeypatch.setitem(modules, "sklearn.datasets", None)
    assert main(["demo", "--output", "/nowhere/demo"]) == 2
    message = capsys.readouterr().err
    assert "pip install 'mm1-hf[demo]'" in message and message.count("\n") == 1


def test_a_model_needs_the_page(capsys):
    assert main(["demo", "--model", "x"]) == 2
    assert "add --web" in capsys.readouterr().err
