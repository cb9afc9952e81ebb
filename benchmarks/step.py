"""How fast and lean is a training step, against transformers and on packs against padding?

Four questions, each with both sides in one process and in turns:

- `train_28`: our decoder and transformers' Llama, same weights, one sequence with 28 % labels.
- `image`: one image of 1000 x 1000 in 5 tiles with 64 tokens of text, ours and LlavaNext of the
  same towers. LlavaNext keeps every patch; we keep 144 tokens per tile.
- `mfu_forward`: our share, in that forward, of the machine's own rate of large matrix products; as
  a figure also our time against MM1 with transformers' CLIP and Llama in place of our towers.
- `packed_tokens`: supervised tokens per second on a mix of captions, interleaved documents and
  text: packs of 4096 tokens against rows padded to the longest, 8 documents in random order, with
  the loss over whole logits that stock models compute.

Memory is the growth of the process's peak over one step, with gradients allocated before. For
`train_28_memory` the step reuses what the allocator kept from the step before, as in training, so
that logits count and the activations of the layers, equal on both sides, hardly do. The figures
also give the growth from nothing, activations included, with and without activation checkpointing.
"""

from collections.abc import Callable

import torch
from harness import gemm_rate, interleaved, peak_growth, print_result, quick_asked
from packed_rows import contestants as packed_contestants
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForCausalLM,
    MM1ForConditionalGeneration,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.planning.flops import flop_model

VOCABULARY = 32_000
IMAGE_TOKEN = VOCABULARY - 1
TILE, PATCH, TILES, TEXT_TOKENS = 378, 14, 5, 64
Step = Callable[[], object]


def step(model: torch.nn.Module, inputs: dict) -> Step:
    """One training step, its gradients added to those of the step before."""
    return lambda: model(**inputs).loss.backward()


def forward(model: torch.nn.Module, inputs: dict) -> Step:
    inputs = {name: value for name, value in inputs.items() if name != "labels"}

    def run() -> torch.Tensor:
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits

    return run


def train_28(*, tokens: int, layers: int) -> tuple[dict[str, Step], tuple]:
    """Steps of both decoders on the same weights, whose gradients must agree; and the decoders."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "tie_word_embeddings": False,
    }
    ours = MM1ForCausalLM(MM1TextConfig(**sizes)).train()
    config = LlamaConfig(**sizes, rope_parameters=ours.config.rope_parameters)
    config.rms_norm_eps, config.pad_token_id = ours.config.rms_norm_eps, ours.config.pad_token_id
    theirs = LlamaForCausalLM(config).train()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(VOCABULARY, (1, tokens))
    labels = ids.masked_fill(torch.rand(ids.shape) >= 0.28, -100)
    inputs = {"input_ids": ids, "labels": labels}
    works = {
        "ours": step(ours, inputs),
        "transformers": step(theirs, inputs | {"use_cache": False}),
    }
    for work in works.values():
        work()
    for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        error = (found.grad - expected.grad).norm() / expected.grad.norm()
        assert error <= 1e-5, f"the gradients of {name} differ by {error}"
    return works, (ours, theirs)


def towers(layers: int) -> tuple[dict, dict]:
    """Sizes of the vision tower and of the decoder."""
    vision = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "image_size": TILE,
        "patch_size": PATCH,
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    }
    return vision, text


def mm1(vision, text) -> MM1ForConditionalGeneration:
    connector = MM1ConnectorConfig(hidden_size=512)
    config = MM1Config(
        vision_config=vision,
        text_config=text,
        connector_config=connector,
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=False,
    )
    return MM1ForConditionalGeneration(config).train()


def image_inputs(num_image_tokens: int, pixel_values: torch.Tensor) -> dict:
    """An image and then text, every token of which is a label."""
    text = torch.randint(IMAGE_TOKEN, (1, TEXT_TOKENS))
    ids = torch.cat([torch.full((1, num_image_tokens), IMAGE_TOKEN), text], dim=1)
    labels = ids.masked_fill(ids == IMAGE_TOKEN, -100)
    return {"input_ids": ids, "labels": labels, "pixel_values": pixel_values}


def llava_next(layers: int) -> tuple[torch.nn.Module, dict]:
    """LlavaNext and its inputs for the same image; every patch is a token."""
    vision, text = towers(layers)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text),
        image_token_id=IMAGE_TOKEN,
        image_grid_pinpoints=[[2 * TILE, 2 * TILE]],
        vision_feature_layer=-1,
    )
    patches = (TILE // PATCH) ** 2
    rows = 2 * TILE // PATCH
    num_tokens = patches + rows * (rows + 1)  # the overview, and the grid with a token per row
    inputs = image_inputs(num_tokens, torch.randn(1, TILES, 3, TILE, TILE))
    inputs["image_sizes"] = torch.tensor([[1000, 1000]])
    return LlavaNextForConditionalGeneration(config).train(), inputs


def share_of_peak(
    model: MM1ForConditionalGeneration, inputs: dict, *, seconds: float, rate: float
) -> float:
    """The operations of a forward per second, as a share of the rate of matrix products.

    By the planner's formula: torch's counter does not see the fused attention of a CPU, which is a
    fifth of the work. Only pairs that a causal kernel computes count.
    """
    num_tokens = inputs["input_ids"].numel()
    work = flop_model(model.config).forward(
        num_tokens=num_tokens,
        num_tiles=len(inputs["pixel_values"]),
        num_supervised=num_tokens,  # a forward without labels projects every position
    )
    return work.total / seconds / rate


def measure_decoder(quick: bool) -> tuple[dict, dict]:
    works, models = train_28(tokens=512 if quick else 2048, layers=1 if quick else 4)
    seconds = interleaved(works, rounds=1 if quick else 7)
    mebibytes = {}
    for name, work in works.items():
        work()
        mebibytes[name] = peak_growth(work, kept="reused")
    whole = {name: peak_growth(work) for name, work in works.items()}
    for model in models:
        # Newer transformers warn at the old name, 5.19 does not know the new one.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    for work in works.values():
        work()
    checkpointed = {name: peak_growth(work) for name, work in works.items()}
    ratios = {
        "train_28_speed": round(seconds["transformers"] / seconds["ours"], 2),
        "train_28_memory": round(mebibytes["transformers"] / mebibytes["ours"], 1),
    }
    figures = {
        "seconds": rounded(seconds),
        "peak_mib": rounded(mebibytes, 0),
        "peak_mib_from_nothing": rounded(whole, 0),
        "peak_mib_from_nothing_checkpointed": rounded(checkpointed, 0),
    }
    return ratios, figures


def measure_image(quick: bool) -> tuple[dict, dict]:
    layers = 1 if quick else 12
    vision, text = towers(layers)
    ours = mm1(MM1VisionConfig(**vision), MM1TextConfig(**text))
    foreign = mm1(CLIPVisionConfig(**vision), LlamaConfig(**text))
    tokens = ours.config.num_image_tokens * TILES
    inputs = image_inputs(tokens, torch.randn(TILES, 3, TILE, TILE))
    peer, peer_inputs = llava_next(layers)
    rounds = 1 if quick else 5
    rate = gemm_rate()
    forwards = {
        "ours": forward(ours, inputs),
        "clip_and_llama": forward(foreign, inputs),
        "llava_next": forward(peer, peer_inputs),
    }
    forward_seconds = interleaved(forwards, rounds=rounds)
    rate = max(rate, gemm_rate())
    steps = {"ours": step(ours, inputs), "llava_next": step(peer, peer_inputs)}
    step_seconds = interleaved(steps, rounds=max(1, rounds // 2))
    mebibytes = {name: peak_growth(work) for name, work in steps.items()}
    ratios = {
        "image_forward": forward_seconds["llava_next"] / forward_seconds["ours"],
        "image_step": step_seconds["llava_next"] / step_seconds["ours"],
        "image_memory": mebibytes["llava_next"] / mebibytes["ours"],
        "mfu_forward": share_of_peak(ours, inputs, seconds=forward_seconds["ours"], rate=rate),
    }
    figures = {
        "forward_seconds": rounded(forward_seconds),
        "forward_against_clip_and_llama": round(
            forward_seconds["clip_and_llama"] / forward_seconds["ours"], 3
        ),
        "step_seconds": rounded(step_seconds),
        "peak_mib": rounded(mebibytes, 0),
        "gemm_gigaflops": round(rate / 1e9, 1),
    }
    return rounded(ratios, 2), figures


def measure_packs(quick: bool) -> tuple[dict, dict]:
    contest = packed_contestants(num_packs=1 if quick else 6)
    works = contest.works
    if quick:
        works = {name: works[name] for name in ("packs", "padded")}
    seconds = interleaved(works, rounds=1 if quick else 3)
    rates = {name: contest.targets / taken for name, taken in seconds.items()}
    figures = {"supervised_tokens_per_second": rounded(rates, 0), **contest.figures}
    return {"packed_tokens": round(rates["packs"] / rates["padded"], 2)}, figures


def rounded(values: dict[str, float], digits: int = 3) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


def main() -> None:
    quick = quick_asked(__doc__, help="fewer layers, packs and rounds")
    ratios, figures = {}, {}
    for part in (measure_decoder, measure_image, measure_packs):
        found, figures[part.__name__.removeprefix("measure_")] = part(quick)
        ratios |= found
        print(found)
    print_result("step", ratios=ratios, figures=figures)


if __name__ == "__main__":
    main()
