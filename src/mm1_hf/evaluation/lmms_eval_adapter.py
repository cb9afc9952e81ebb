"""MM1 as a model of lmms-eval: `python -m lmms_eval --model mm1 --model_args pretrained=…`.

lmms-eval finds `manifest` through the entry point `lmms_eval.models`. It speaks to a model in two
ways: tasks made of messages use `MM1Chat`; with `--force_simple`, tasks hand over a text and a list
of pictures, which `MM1Simple` takes, and only there may they ask for likelihoods.

Source: lmms-eval 0.7.3, `api/model.py`, `models/registry_v2.py` (what a model must offer).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from mm1_hf.evaluation.generation import generate_answers
from mm1_hf.evaluation.prompts import STYLES
from mm1_hf.model.decoding_mm1 import open_image
from mm1_hf.video import NUM_FRAMES, frame_parts, read_video

try:
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    if error.name != "lmms_eval":
        raise
    # What is below stays importable, for the documentation and for tests of its own logic.
    lmms = object

logger = logging.get_logger(__name__)

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp"}
_DRAWING = ("temperature", "top_p", "top_k", "num_beams")


def manifest() -> Any:
    """What lmms-eval's registry is told: where the two classes are."""
    from lmms_eval.models.registry_v2 import (  # pyright: ignore[reportMissingImports]
        ModelManifest,
    )

    return ModelManifest(
        model_id="mm1",
        chat_class_path=f"{__name__}.MM1Chat",
        simple_class_path=f"{__name__}.MM1Simple",
    )


class Settings(NamedTuple):
    """How an answer is generated.

    Attributes:
        max_new_tokens: Tokens to generate at most.
        stops: The answer is cut before the first of these texts.
        drawing: Arguments of `generate` where the answer is not the greedy one.
    """

    max_new_tokens: int
    stops: tuple[str, ...]
    drawing: Mapping[str, Any]


def read_settings(generation_kwargs: Mapping[str, Any], *, max_new_tokens: int) -> Settings:
    """Translate a task's `generation_kwargs`.

    An answer is drawn by chance where `do_sample` is true, or is left open beside a temperature
    above zero. Names that only other models know are passed over.

    Args:
        generation_kwargs: As the task states them.
        max_new_tokens: Where the task states none.
    """
    wanted = dict(generation_kwargs)
    until = wanted.get("until") or []
    stops = [until] if isinstance(until, str) else until
    temperature, do_sample = wanted.get("temperature"), wanted.get("do_sample")
    if do_sample is None:
        do_sample = bool(temperature)
    drawing = {}
    if do_sample and temperature != 0:
        drawing = {name: wanted[name] for name in _DRAWING if wanted.get(name) is not None}
        drawing["do_sample"] = True
    elif (wanted.get("num_beams") or 1) > 1:
        drawing = {"num_beams": wanted["num_beams"]}
    return Settings(
        max_new_tokens=int(wanted.get("max_new_tokens") or max_new_tokens),
        stops=tuple(stop for stop in stops if stop),
        drawing=drawing,
    )


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered prompt.

    Attributes:
        text: With a placeholder for each picture.
        images: In the order of the placeholders.
        max_tiles: Most tiles of each picture, if any of them is the frame of a video.
    """

    text: str
    images: list[Any]
    max_tiles: list[int] | None = None


class _Drawing:
    """A model whose `generate` draws answers by chance or searches with beams."""

    def __init__(self, model: Any, settings: Mapping[str, Any]):
        self.device, self.dtype = model.device, model.dtype
        self.generation_config = model.generation_config
        self._model, self._settings = model, settings

    def generate(self, **kwargs: Any) -> torch.Tensor:
        return self._model.generate(**{**kwargs, **self._settings})


_Model: Any = lmms


class MM1Adapter(_Model):
    """What both classes share: the checkpoint, prompts, and answers in batches.

    Args:
        pretrained: Folder or Hub id of an MM1 and its processor.
        device: Such as `"cuda:1"` or `"cpu"`; a GPU if there is one. Under `accelerate launch` each
            process takes its own.
        dtype: Such as `"bfloat16"`; that of the checkpoint by default.
        batch_size: Prompts that are answered together.
        max_batch_size: Taken because lmms-eval passes it; batches never grow.
        trust_remote_code: Whether the checkpoint's own code may run.
        attn_implementation: As `from_pretrained` takes it.
        style: `"chat"`: messages go through the chat template, for a tuned model. `"continuation"`:
            texts and pictures in reading order, for a pre-trained one.
        system_prompt: Said in front of every conversation.
        max_new_tokens: For tasks that state none. Our choice.
        num_frames: Frames of a video. Source: MM1.5, arXiv 2409.20566.

    Raises:
        ValueError: If `style` or `batch_size` is not as expected.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        style: str = "chat",
        system_prompt: str | None = None,
        max_new_tokens: int = 1024,
        num_frames: int = NUM_FRAMES,
    ):
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"style is {style!r}, but it must be one of {', '.join(STYLES)}.")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(
                f"batch_size is {batch_size!r}, but a number of prompts is expected, at least 1."
            )
        self.batch_size = int(batch_size)
        self.style = style
        self.system_prompt = system_prompt
        self.max_new_tokens = int(max_new_tokens)
        self.num_frames = int(num_frames)
        self._take_place(device)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            pretrained,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            attn_implementation=attn_implementation,
        )
        self._model = model.to(self.device).eval()
        self.processor: Any = AutoProcessor.from_pretrained(
            pretrained, trust_remote_code=trust_remote_code
        )

    def _take_place(self, device: str | None) -> None:
        """Choose the device, and find this process among those that share the task."""
        from accelerate import Accelerator  # comes with lmms-eval, which gathers through it

        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        if self._world_size > 1 or device is None:
            self.device = self.accelerator.device
        else:
            self.device = torch.device(device)

    @property
    def model(self) -> Any:
        """The MM1."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of its processor."""
        return self.processor.tokenizer

    # Prompts.

    def _prompt(self, messages: Sequence[Mapping[str, Any]], *, name: str) -> Prompt:
        """Render one conversation of lmms-eval."""
        from_video: list[bool] = []
        conversation = []
        for message in messages:
            content = message["content"]
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            parts = []
            for part in content:
                made = self._parts(part, name=name)
                from_video += [part["type"] == "video" for one in made if one["type"] == "image"]
                parts += made
            conversation.append({"role": message["role"], "content": parts})
        if self.system_prompt:
            if conversation and conversation[0]["role"] == "system":
                conversation = conversation[1:]
            content = [{"type": "text", "text": self.system_prompt}]
            conversation = [{"role": "system", "content": content}, *conversation]
        text, images = self._render(conversation)
        if not any(from_video):
            return Prompt(text, images)
        # MM1.5 does not cut frames into tiles.
        most = self.processor.image_processor.max_tiles
        return Prompt(text, images, [1 if is_frame else most for is_frame in from_video])

    def _render(self, conversation: list[dict[str, Any]]) -> tuple[str, list[Any]]:
        if self.style == "continuation":
            segments: list[Any] = []
            for number, message in enumerate(conversation):
                segments += ["\n"] * (number > 0)
                segments += [part[part["type"]] for part in message["content"]]
            return tuple(self.processor.interleave(segments))
        text = self.processor.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
        parts = (part for message in conversation for part in message["content"])
        return text, [part["image"] for part in parts if part["type"] == "image"]

    def _parts(self, part: Mapping[str, Any], *, name: str) -> list[dict[str, Any]]:
        """One part of a message of lmms-eval as parts of ours."""
        kind = part["type"]
        if kind == "text":
            return [{"type": "text", "text": part["text"]}]
        source = part.get("url", part.get(kind))
        if kind == "image":
            # Opened here, because a string among `interleave`'s segments is text.
            return [{"type": "image", "image": open_image(source, name)}]
        if kind == "video" and isinstance(source, str):
            if part.get("start_time") is not None or part.get("end_time") is not None:
                raise ValueError(
                    f"{name} asks for a part of the video {source!r}, but whole videos are "
                    "expected. Cut the video beforehand."
                )
            return frame_parts(read_video(source, num_frames=self.num_frames))
        raise ValueError(
            f"{name} has a part of type {kind!r} that holds a {type(source).__name__}, but text, "
            "pictures and paths of videos are expected. MM1 cannot do this task."
        )

    def _encode(self, prompts: Sequence[Prompt], *, padding_side: str = "left") -> Any:
        has_images = any(prompt.images for prompt in prompts)
        caps = [prompt.max_tiles for prompt in prompts]
        settings: dict[str, Any] = {"max_tiles": caps} if caps[0] is not None else {}
        bos = self.tokenizer.bos_token
        if bos is not None and prompts[0].text.startswith(bos):
            settings["add_special_tokens"] = False  # the chat template wrote it
        inputs = self.processor(
            text=[prompt.text for prompt in prompts],
            images=[prompt.images for prompt in prompts] if has_images else None,
            padding=True,
            padding_side=padding_side,
            return_tensors="pt",
            **settings,
        )
        return inputs.to(self.device, dtype=self.model.dtype)

    # Answers.

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer requests of the kind `generate_until`, in their order."""
        answers = [""] * len(requests)
        bar: Any = logging.tqdm(
            total=len(requests), disable=self._rank != 0, desc="Answers", leave=False
        )
        for generation_kwargs, places in _groups(requests, self.batch_size):
            settings = read_settings(generation_kwargs, max_new_tokens=self.max_new_tokens)
            prompts = [self._request_prompt(requests[place]) for place in places]
            for kind in _kinds(prompts):
                texts = self._answer([prompts[n] for n in kind], settings)
                for n, text in zip(kind, texts, strict=True):
                    answers[places[n]] = text
            bar.update(len(places))
        bar.close()
        return answers

    def _answer(self, prompts: Sequence[Prompt], settings: Settings) -> list[str]:
        model = _Drawing(self.model, settings.drawing) if settings.drawing else self.model
        generated = generate_answers(
            model,
            self.processor,
            self._encode(prompts),
            max_new_tokens=settings.max_new_tokens,
            stops=settings.stops,
        )
        return [answer.text for answer in generated]

    def _request_prompt(self, request: Any) -> Prompt:
        raise NotImplementedError

    def _document(self, task: str, split: str, doc_id: int) -> Any:
        return self.task_dict[task][split][doc_id]  # lmms-eval fills it in

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse tasks of several rounds.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"The task {requests[0].args[-2]!r} asks in several rounds, which MM1's adapter does "
            "not do. Leave the task out."
        )

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Refuse tasks that compare likelihoods; `MM1Simple` does them.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "Tasks that compare likelihoods exist in lmms-eval for simple models only: add "
            "--force_simple."
        )


class MM1Chat(MM1Adapter):
    """For tasks made of messages: pictures anywhere, in any number of turns."""

    is_simple = False

    def _request_prompt(self, request: Any) -> Prompt:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = doc_to_messages(self._document(task, split, doc_id))
        return self._prompt(messages, name=f"Document {doc_id} of {task!r}")


class MM1Simple(MM1Adapter):
    """For tasks that hand over a text and a list of pictures, which are shown before the text."""

    is_simple = True

    def _request_prompt(self, request: Any) -> Prompt:
        context, _, doc_to_visual, doc_id, task, split = request.args
        return self._simple_prompt(context, doc_to_visual, doc_id, task, split)

    def _simple_prompt(self, context, doc_to_visual, doc_id, task, split) -> Prompt:
        visuals = doc_to_visual(self._document(task, split, doc_id)) or []
        content: list[dict] = [_visual_part(visual) for visual in visuals]
        content.append({"type": "text", "text": context})
        messages = [{"role": "user", "content": content}]
        return self._prompt(messages, name=f"Document {doc_id} of {task!r}")

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """`likelihoods`, in the form that lmms-eval passes on.

        It takes every answer for a text: a plain pair would reach the task as the string
        "(0.5, True)". What stands in its own type of result is left alone.
        """
        from lmms_eval.api.instance import (  # pyright: ignore[reportMissingImports]
            GenerationResult,
        )

        return [GenerationResult(text=pair) for pair in self.likelihoods(requests)]

    def likelihoods(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """How unlikely continuations are behind their prompts.

        lmms-eval's documentation says log-likelihood, but its tasks take the smallest number as the
        best: what its models return is the loss, and so is this.

        Returns:
            For each request the mean negative log-likelihood of the continuation's tokens, in nats,
            and whether each of them is the likeliest.

        Raises:
            ValueError: If a continuation adds no token to its prompt.
        """
        results: list[tuple[float, bool]] = []
        for start in range(0, len(requests), self.batch_size):
            pairs = [self._pair(request) for request in requests[start : start + self.batch_size]]
            scored: list[Any] = [None] * len(pairs)
            for kind in _kinds([prompt for prompt, _ in pairs]):
                scores = self._score([pairs[n] for n in kind])
                for n, score in zip(kind, scores, strict=True):
                    scored[n] = score
            results += scored
        return results

    def _pair(self, request: Any) -> tuple[Prompt, str]:
        context, continuation, *where = request.args
        if not where:  # how likely a choice is by itself
            return Prompt("", []), continuation
        doc_to_visual, doc_id, task, split = where
        if not isinstance(continuation, str):
            continuation = continuation(self._document(task, split, doc_id))
        return self._simple_prompt(context, doc_to_visual, doc_id, task, split), continuation

    @torch.no_grad()
    def _score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, bool]]:
        wholes, prompts = [], []
        for prompt, continuation in pairs:
            # The template's own space counts: two of them would be another word.
            if prompt.text[-1:].isspace():
                continuation = continuation.lstrip(" ")
            text = prompt.text + self.processor.escape(continuation)
            wholes.append(Prompt(text, prompt.images, prompt.max_tiles))
            prompts.append(prompt)
        # On the right, so that positions count from the first real token for any decoder.
        inputs = self._encode(wholes, padding_side="right")
        starts = self._lengths(self._encode(prompts, padding_side="right"))
        ends = self._lengths(inputs)
        # Without a first token there is nothing to predict the next one from.
        starts = [max(start, 1) for start in starts]
        first = min(starts) - 1
        ids = inputs["input_ids"]
        places = torch.arange(first, ids.shape[1] - 1, device=ids.device)
        logits = self.model(**inputs, logits_to_keep=places).logits
        results = []
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            targets = ids[row, start:end]
            if not len(targets):
                raise ValueError(
                    f"The continuation {pairs[row][1]!r} adds no token to its prompt, so it has no "
                    "likelihood. Check the task's choices."
                )
            scores = logits[row, start - 1 - first : end - 1 - first].float()
            loss = F.cross_entropy(scores, targets)
            results.append((float(loss), bool((scores.argmax(-1) == targets).all())))
        return results

    @staticmethod
    def _lengths(inputs: Any) -> list[int]:
        return inputs["attention_mask"].sum(1).int().tolist()


def _visual_part(visual: Any) -> dict[str, Any]:
    """A picture or the path of a video, as tasks for simple models hand it over."""
    is_path = isinstance(visual, str)
    is_video = is_path and Path(visual).suffix.lower() not in _IMAGE_SUFFIXES
    return {"type": "video" if is_video else "image", "url": visual}


def _kinds(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Places of prompts without and with frames of videos.

    Caps on tiles are given for a whole batch or not at all, and a picture must become the same
    tiles whatever stands beside it.
    """
    for with_caps in (False, True):
        places = [n for n, p in enumerate(prompts) if (p.max_tiles is not None) == with_caps]
        if places:
            yield places


def _groups(requests: Sequence[Any], size: int) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Places of at most `size` requests with the same settings, and these."""
    groups: dict[str, tuple[Mapping[str, Any], list[int]]] = {}
    for place, request in enumerate(requests):
        # Where the settings stand depends on the kind of model.
        settings = next(part for part in request.args if isinstance(part, Mapping))
        key = json.dumps(settings, sort_keys=True, default=str)
        groups.setdefault(key, (settings, []))[1].append(place)
    for settings, places in groups.values():
        for start in range(0, len(places), size):
            yield settings, places[start : start + size]
