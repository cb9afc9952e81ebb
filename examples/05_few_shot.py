"""Worked examples before a question, the last ones at high resolution."""

from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mm1_hf import MM1Config, MM1Processor

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")

config = MM1Config()  # the paper's sizes: 378 px, 144 tokens per tile; no weights are made here
processor = MM1Processor.from_parts(tokenizer=tokenizer, config=config, tiling="static")


def dots(number: int) -> Image.Image:
    image = Image.new("RGB", (800, 600), "white")
    draw = ImageDraw.Draw(image)
    for place in range(number):
        draw.circle((80 + 90 * place, 300), 30, fill="black")
    return image


QUESTION = "How many dots are there?"
examples = [
    {
        "images": dots(number),
        "question": QUESTION,
        "answer": f"I see them in one row. Counting gives {number}. Answer: {number}",
    }
    for number in range(1, 9)
]
query = {"images": dots(5), "question": QUESTION}

inputs = processor.few_shot(examples, query, high_resolution_last=3)
print(f"{len(inputs['pixel_values'])} tiles, {inputs['input_ids'].shape[1]} tokens")
assert len(inputs["pixel_values"]) == 5 * 1 + 3 * 5 + 5

prompt = processor.few_shot_prompt(examples[:1], query)
print(prompt.text)

# The same as turns of a chat, for a tuned model.
chat = processor.few_shot(examples, query, style="chat", system="Count carefully.")
assert len(chat["pixel_values"]) == len(inputs["pixel_values"])
print(tokenizer.decode(chat["input_ids"][0])[-40:])
