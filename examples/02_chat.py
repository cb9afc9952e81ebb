"""A conversation with pictures anywhere in it; what a user types never becomes a picture."""

from PIL import Image
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

left, right = Image.new("RGB", (640, 480), "red"), Image.new("RGB", (480, 640), "blue")
conversation = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Compare "},
            {"type": "image", "image": left},
            {"type": "text", "text": " with "},
            {"type": "image", "image": right},
            {"type": "text", "text": " and tell me what <image> means in HTML."},
        ],
    },
    {"role": "assistant", "content": "One is red, one is blue."},
]
inputs = processor.apply_chat_template(
    conversation,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
    return_assistant_tokens_mask=True,
)
placeholders = (inputs["input_ids"] == processor.image_token_id).sum().item()
print(f"{len(inputs['pixel_values'])} tiles, {placeholders} image tokens")
assert placeholders == 2 * 5 * 144, "two pictures; the typed <image> stayed text"

supervised = inputs["input_ids"][inputs["assistant_masks"].bool()]
print("loss on:", repr(tokenizer.decode(supervised)))
print("known without pixels:", processor.plan([(480, 640), (640, 480)]).num_tokens)
