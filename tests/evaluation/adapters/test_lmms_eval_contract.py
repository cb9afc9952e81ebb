"""What lmms-eval asks of a model, without lmms-eval: prompts, batches, stops, likelihoods."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mm1_hf.evaluation import lmms_eval_adapter as adapter

from ...model import tiny
from .small_checkpoints import VOCABULARY, make_config, picture, request, save_checkpoint

pytest.importorskip("accelerate", reason="lmms-eval gathers through accelerate")

LENGTH = 12
DOCUMENTS = [
    {"parts": ["What is ", picture("red"), " on the left?"]},
    {"parts": [picture("green"), picture("blue", width=90), "a dog or a red cat?"]},
    {"parts": ["Only text: three and seven."]},
    {"parts": ["A literal <image> and </s> stay text ", picture("blue")]},
    {"parts": [picture("red", width=25), "What?"]},
]


def messages(document: dict) -> list[dict]:
    """As a task of lmms-eval builds them."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "url": part}
        for part in document["parts"]
    ]
    return [{"role": "user", "content": content}]


def chat_requests(**generation: Any) -> list[Any]:
    generation = {"max_new_tokens": LENGTH, "until": []} | generation
    return [
        request("", messages, dict(generation), place, "colours", "test")
        for place in range(len(DOCUMENTS))
    ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, tiling="static")
    return str(folder)


@pytest.fixture(scope="module")
def make_model(checkpoint) -> Callable[..., Any]:
    def make(*, kind: str = "MM1Chat", documents: list = DOCUMENTS, **arguments: Any) -> Any:
        arguments = {"pretrained": checkpoint, "device": "cpu"} | arguments
        model = getattr(adapter, kind)(**arguments)
        model.task_dict = {"colours": {"test": documents}}
        return model

    return make


def own_answer(model: Any, document: dict) -> str:
    """What the model and its processor answer by themselves."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in document["parts"]
    ]
    inputs = model.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.model.generate(
        **inputs,
        max_new_tokens=LENGTH,
        do_sample=False,
        suppress_tokens=model.processor.image_token_ids,
    )
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return model.processor.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 4, "2"])
def test_answers_are_those_of_the_models_own_generate(make_model, batch_size):
    model = make_model(batch_size=batch_size)
    found = model.generate_until(chat_requests())
    assert found == [own_answer(model, document) for document in DOCUMENTS]
    assert len(set(found)) > 2, "prompts and pictures must matter for this to test anything"


def test_requests_with_different_settings_never_share_a_batch(make_model):
    model = make_model(batch_size=4)
    short = chat_requests(max_new_tokens=2)
    long = chat_requests()
    mixed = [pair for pairs in zip(short, long, strict=True) for pair in pairs]
    found = model.generate_until(mixed)
    assert found[::2] == model.generate_until(short)
    assert found[1::2] == model.generate_until(long)


def test_an_answer_ends_before_the_first_stop(make_model):
    model = make_model(batch_size=4)
    whole = model.generate_until(chat_requests())
    stop = next(text for text in whole if len(text) > 3)[2]
    cut = model.generate_until(chat_requests(until=[stop, "never written"]))
    assert cut == [text.split(stop)[0].strip() for text in whole]
    assert cut == model.generate_until(chat_requests(until=stop))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, (7, (), {})),
        ({"max_new_tokens": 16, "temperature": 0, "do_sample": False}, (16, (), {})),
        ({"until": ["\n", ""], "temperature": 0.0, "top_p": None}, (7, ("\n",), {})),
        ({"until": "\n\n", "image_aspect_ratio": "pad"}, (7, ("\n\n",), {})),
        ({"num_beams": 3, "do_sample": False}, (7, (), {"num_beams": 3})),
        ({"do_sample": True, "temperature": 0}, (7, (), {})),
        ({"do_sample": False, "temperature": 0.7}, (7, (), {})),
        ({"temperature": 0.7, "top_p": 0.9}, (7, (), {"temperature": 0.7, "top_p": 0.9})),
        ({"do_sample": True, "num_beams": 1}, (7, (), {"num_beams": 1})),
    ],
)
def test_settings_of_a_task_are_read_as_meant(stated, expected):
    tokens, stops, drawing = adapter.read_settings(stated, max_new_tokens=7)
    drawing = {name: value for name, value in drawing.items() if name != "do_sample"}
    assert (tokens, stops, drawing) == expected


def test_tasks_that_want_chance_or_beams_get_them(make_model):
    model = make_model(batch_size=2)
    torch.manual_seed(0)
    hot = {"do_sample": True, "temperature": 5.0}
    assert model.generate_until(chat_requests(**hot)) != model.generate_until(chat_requests(**hot))
    beams = model.generate_until(chat_requests(num_beams=3))
    assert len(beams) == len(DOCUMENTS)


@pytest.mark.parametrize("text", ["own", "llama", "qwen2", "mixtral", "sparse"])
def test_every_kind_of_decoder_answers_alike_in_any_batch(tmp_path, text):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_every_n_layers": 2}
    part = tiny.text_config(**experts) if text == "sparse" else tiny.text_configs()[text]
    part.vocab_size = VOCABULARY
    save_checkpoint(tmp_path, config=make_config(part))
    answers = []
    for batch_size in (1, 4):
        model = adapter.MM1Chat(str(tmp_path), device="cpu", batch_size=batch_size)
        model.task_dict = {"colours": {"test": DOCUMENTS}}
        answers.append(model.generate_until(chat_requests()))
    assert answers[0] == answers[1]


def test_a_system_prompt_is_said_first(make_model):
    model = make_model(system_prompt="Answer briefly.")
    prompt = model._request_prompt(chat_requests()[2])
    assert prompt.text.startswith("System: Answer briefly.")


def test_a_pre_trained_model_continues_texts_and_pictures_in_order(make_model):
    model = make_model(style="continuation", batch_size=2)
    prompt = model._request_prompt(chat_requests()[0])
    assert prompt.text == "What is <image> on the left?"
    assert len(model.generate_until(chat_requests())) == len(DOCUMENTS)


def test_a_picture_may_come_as_a_path(make_model, tmp_path):
    path = tmp_path / "picture.png"
    picture("red").save(path)
    by_path = [{"parts": ["What is ", picture("red"), " on the left?"]}]
    model = make_model(documents=by_path)
    expected = model.generate_until(chat_requests()[:1])
    content = [
        {"type": "text", "text": "What is "},
        {"type": "image", "url": str(path)},
        {"type": "text", "text": " on the left?"},
    ]
    asked = request(
        "", lambda _: [{"role": "user", "content": content}], {"max_new_tokens": LENGTH}, 0
    )
    asked.args += ("colours", "test")
    for style in ("chat", "continuation"):
        again = make_model(documents=by_path, style=style)
        again.generate_until([asked])
        assert len(again._request_prompt(asked).images) == 1
    assert model.generate_until([asked]) == expected


def test_a_video_is_shown_as_whole_frames(make_model, monkeypatch):
    frames = [picture("red"), picture("green")]
    monkeypatch.setattr(adapter, "read_video", lambda source, num_frames: (source, num_frames))
    monkeypatch.setattr(
        adapter, "frame_parts", lambda video: [{"type": "image", "image": f} for f in frames]
    )
    model = make_model(batch_size=3)
    content = [
        {"type": "video", "url": "clip.mp4"},
        {"type": "image", "url": picture("blue")},
        {"type": "text", "text": "What?"},
    ]
    prompt = model._prompt([{"role": "user", "content": content}], name="it")
    most = model.processor.image_processor.max_tiles
    assert prompt.max_tiles == [1, 1, most] and most > 1
    tiles = model._encode([prompt])["pixel_values"].shape[0]
    assert (
        tiles
        == 2 + model._encode([model._request_prompt(chat_requests()[0])])["pixel_values"].shape[0]
    )
    of_video = request(
        "", lambda _: [{"role": "user", "content": content}], {"max_new_tokens": LENGTH}
    )
    of_video.args += (0, "colours", "test")
    plain = chat_requests()[:2]
    for one in plain:
        one.args[2].pop("until")
    alone = [model.generate_until([one])[0] for one in (plain[0], of_video, plain[1])]
    assert model.generate_until([plain[0], of_video, plain[1]]) == alone


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "audio", "url": "sound.wav"}, "'audio'"),
        ({"type": "video", "url": "clip.mp4", "start_time": 1.0}, "Cut the video"),
        ({"type": "image", "url": None}, "Document 4 of 'colours'"),
    ],
)
def test_what_the_model_cannot_see_is_refused_by_name(make_model, part, said):
    model = make_model()
    asked = request("", lambda _: [{"role": "user", "content": [part]}], {}, 4, "colours", "test")
    with pytest.raises(ValueError, match="Document 4 of 'colours'") as caught:
        model.generate_until([asked])
    assert said in str(caught.value)


# Likelihoods, which lmms-eval asks of simple models only.

CHOICES = (" a red cat", " a dog", " seven", " no")


def likelihood_requests() -> list[Any]:
    return [
        request(
            "What is it?",
            choice,
            lambda document: [p for p in document["parts"] if not isinstance(p, str)],
            place,
            "colours",
            "test",
        )
        for place in range(len(DOCUMENTS))
        for choice in CHOICES
    ]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_likelihood_is_that_of_the_models_own_loss(make_model, batch_size):
    model = make_model(kind="MM1Simple", batch_size=batch_size)
    requests = likelihood_requests()
    for asked, (loss, is_greedy) in zip(requests, model.likelihoods(requests), strict=True):
        prompt, continuation = model._pair(asked)
        inputs = model.processor(
            text=prompt.text + continuation, images=prompt.images or None, return_tensors="pt"
        )
        start = model.processor(
            text=prompt.text, images=prompt.images or None, return_tensors="pt"
        )["input_ids"].shape[1]
        labels = inputs["input_ids"].clone()
        labels[:, :start] = -100
        with torch.no_grad():
            output = model.model(**inputs, labels=labels)
        assert math.isclose(loss, output.loss.item(), rel_tol=1e-4)
        greedy = output.logits[0, start - 1 : -1].argmax(-1)
        assert is_greedy == bool((greedy == labels[0, start:]).all())


def test_the_greedy_answer_is_known_as_such(make_model):
    model = make_model(kind="MM1Simple")
    asked = likelihood_requests()[0]
    prompt, _ = model._pair(asked)
    inputs = model._encode([prompt])
    token = model.model(**inputs).logits[0, -1].argmax()
    text = model.processor.decode([token])
    # Only a token that is tokenised as itself behind the prompt can be asked for as text.
    whole = model.processor(text=prompt.text + text, images=prompt.images, return_tensors="pt")
    assert whole["input_ids"][0, -1] == token
    asked.args = (asked.args[0], text, *asked.args[2:])
    assert model.likelihoods([asked])[0][1]


def test_a_simple_task_shows_its_pictures_before_its_text(make_model):
    model = make_model(kind="MM1Simple", batch_size=2)
    asked = [
        request("What?", {"max_new_tokens": LENGTH}, lambda d: [d["parts"][1]], place, "colours")
        for place in (0, 1)
    ]
    for one in asked:
        one.args += ("test",)
    assert "<image>What?" in model._request_prompt(asked[0]).text
    shown = [{"parts": [DOCUMENTS[place]["parts"][1], "What?"]} for place in (0, 1)]
    assert model.generate_until(asked) == [own_answer(model, document) for document in shown]


def test_what_is_not_done_is_refused(make_model):
    model = make_model()
    with pytest.raises(NotImplementedError, match="--force_simple"):
        model.loglikelihood(likelihood_requests())
    with pytest.raises(NotImplementedError, match="'colours'"):
        model.generate_until_multi_round(chat_requests())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"style": "poem"}, "'poem'"), ({"batch_size": "auto"}, "'auto'"), ({"batch_size": 0}, "0")],
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(arguments, said):
    with pytest.raises(ValueError, match=said):
        adapter.MM1Chat("no such folder", **arguments)
