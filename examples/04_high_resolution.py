"""Large pictures: tiles that fit them, markers, and a budget of tokens."""

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
processor = MM1Processor.from_parts(
    tokenizer=tokenizer, config=config, tiling="dynamic", markers="index"
)

# Known from sizes alone: a phone photo, a long screenshot, a panorama.
for height, width in ((3024, 4032), (2532, 1170), (600, 3600)):
    plan = processor.plan([(height, width)])
    tiles = plan.tiles[0]
    print(
        f"{height} x {width}: {tiles.rows} x {tiles.cols} tiles and an overview, "
        f"{plan.num_tokens[0]} tokens"
    )

page = Image.new("RGB", (1700, 2200), "white")
ImageDraw.Draw(page).text((100, 100), "Invoice 17", fill="black", font_size=80)
text, images = processor.interleave([page, "What is the number of the invoice?"])
inputs = processor(text=text, images=images, return_tensors="pt")
print(f"a page: {len(inputs['pixel_values'])} tiles, {inputs['input_ids'].shape[1]} tokens")
assert len(inputs["pixel_values"]) == 3 * 3 + 1

# A budget lowers tiles until the sample fits; it never cuts tokens.
inputs = processor(
    text=text, images=images, max_image_tokens=800, return_image_plans=True, return_tensors="pt"
)
(lowered,) = inputs["image_plans"][0].lowered
print(f"within 800 tokens: {lowered.given} tiles instead of {lowered.wanted}")
assert inputs["image_plans"][0].num_tokens[0] <= 800

# From three pictures on, each stays whole.
assert processor.plan([(2200, 1700)] * 3).num_tiles == (1, 1, 1)
