"""A task of coloured pictures, tiny models that answer it, and stand-ins for perfect ones."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from mm1_hf import MM1ForConditionalGeneration, MM1Processor
from mm1_hf.evaluation import Example, Scores, Task, mean_figure

from ..model import tiny
from ..model.processors import make_config
from ..small_tokenizers import SmallTokenizers

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230), "grey": (128,) * 3}


def picture(colour: str, *, number: int = 0) -> Image.Image:
    """A picture of one colour; its size and one pixel tell numbers apart."""
    image = Image.new("RGB", (24 + number % 7, 20 + number % 5), COLOURS[colour])
    image.putpixel((0, 0), (number % 256, number // 256, 7))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def examples(number: int, *, start: int = 0, split: str = "q") -> list[Example]:
    """Questions about colours, in turn; every third picture is bytes."""
    names = list(COLOURS)
    made = []
    for place in range(start, start + number):
        colour = names[place % len(names)]
        image = picture(colour, number=place)
        made.append(
            Example(
                key=f"{split}{place}",
                images=(encoded(image) if place % 3 else image,),
                question=f"What colour is picture {place}{'?' * (1 + place % 4)}",
                answers=(colour,),
            )
        )
    return made


def exact(answers: Sequence[str], examples: Sequence[Example]) -> Scores:
    right = [
        float(answer in example.answers) for answer, example in zip(answers, examples, strict=True)
    ]
    return Scores({"accuracy": mean_figure(right)}, tuple(right))


def task(**changes: Any) -> Task:
    settings: dict[str, Any] = {
        "name": "colours",
        "source": "a test",
        "read": lambda location, split: examples(4),
        "prompt": lambda example: [*example.images, example.question],
        "continuation": lambda example: [*example.images, f" Q: {example.question} A:"],
        "answer": lambda example: example.answers[0] if example.answers else "",
        "metric": exact,
        "stops": ("\n", "Q:"),
        "max_new_tokens": 6,
    }
    return Task(**{**settings, **changes})


def processor(**settings: Any) -> MM1Processor:
    tokenizer = SmallTokenizers()("byte_level")
    return MM1Processor.from_parts(tokenizer=tokenizer, config=make_config(), **settings)


def model(processor: MM1Processor, *, seed: int = 0, **text: Any) -> MM1ForConditionalGeneration:
    """A random model whose every part matters to its answers."""
    torch.manual_seed(seed)
    config = make_config(text_config=tiny.text_config(vocab_size=512, **text))
    config.image_token_id = processor.image_token_id
    return tiny.randomised(MM1ForConditionalGeneration(config))


class Speaker:
    """Says what a function makes of the text of each prompt, as a model would."""

    def __init__(self, processor: MM1Processor, say: Callable[[str], str]):
        self.tokenizer = processor.tokenizer
        self.say = say
        self.prompts: list[str] = []
        self.batches: list[int] = []

    def generate(self, *, input_ids: torch.Tensor, max_new_tokens: int, **_: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        self.prompts += texts
        self.batches.append(len(texts))
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        rows = [
            [*self.tokenizer.encode(self.say(text), add_special_tokens=False), end]
            for text in texts
        ]
        width = max(map(len, rows))
        new = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        return torch.cat([input_ids, new[:, :max_new_tokens]], dim=1)


def oracle(processor: MM1Processor, asked: Sequence[Example], truths: Sequence[str]) -> Speaker:
    """Knows the answer to each question by the end of its prompt."""
    known = {
        example.question.split("picture ")[1]: truth
        for example, truth in zip(asked, truths, strict=True)
    }

    def say(text: str) -> str:
        last = text.rsplit("What colour is picture ", 1)[1]
        return known[last.split("\n")[0].split(" A:")[0].strip()]

    return Speaker(processor, say)
