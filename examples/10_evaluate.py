"""Ask a benchmark of a model with worked examples, see every answer, and go on after a kill."""

import tempfile
from pathlib import Path

from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mm1_hf import MM1ForConditionalGeneration, MM1Processor
from mm1_hf.evaluation import Example, Scores, Task, evaluate, mean_figure
from mm1_hf.presets import tiny

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")

config = tiny()  # random weights: its answers mean nothing
processor = MM1Processor.from_parts(tokenizer=tokenizer, config=config)
model = MM1ForConditionalGeneration(config).eval()

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}


def ask_colours(start: int, stop: int) -> list[Example]:
    return [
        Example(
            key=str(number),
            images=(Image.new("RGB", (40 + number, 40), COLOURS[name]),),
            question="Which colour is this?",
            answers=(name,),
        )
        for number, name in enumerate(list(COLOURS) * 10)
        if start <= number < stop
    ]


def share_right(answers, examples) -> Scores:
    right = [float(a in e.answers) for a, e in zip(answers, examples, strict=True)]
    return Scores({"accuracy": mean_figure(right)}, tuple(right))


# The published benchmarks come with the library: get_task("vqav2") of mm1_hf.evaluation.tasks, and
# get_task("vqav2").read("folder of VQAv2"). This one is our own.
task = Task(
    name="colours",
    source="this example",
    read=lambda location, split=None: ask_colours(0, 12),
    prompt=lambda example: [*example.images, example.question],
    continuation=lambda example: [*example.images, f" Question: {example.question} Short answer:"],
    answer=lambda example: example.answers[0],
    metric=share_right,
    stops=("\n", ".", ",", "Question"),
    max_new_tokens=8,
)

with tempfile.TemporaryDirectory() as folder:
    settings = {
        "demonstrations": ask_colours(12, 30),
        "num_shots": 4,
        "seeds": (0, 1),
        "style": "continuation",  # running text, for a model that was only pre-trained
        "output": folder,
        "progress": False,
    }
    few = evaluate(model, processor, task, ask_colours(0, 6), **settings)
    # The second call finds the answers of the first and asks only the other six.
    result = evaluate(model, processor, task, ask_colours(0, 12), **settings)
    print(result.table())
    print(sorted(path.name for path in Path(folder).glob("[!.]*")))

assert result.per_seed[0].answers[:6] == few.per_seed[0].answers
assert result.counts.examples == result.counts.answered == 24
