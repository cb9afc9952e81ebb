"""How much faster are packed documents when each is attended alone, on one CPU thread?

One layer's attention over a pack of 4096 tokens: ours, SDPA with the dense mask that transformers
builds for the same pack, and a loop over documents written by hand. Times are CPU seconds, the
least of several rounds in which all take turns, so that other work on the machine disturbs little.
"""

import os
from collections.abc import Callable
from types import SimpleNamespace

# Read when torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from harness import cpu_seconds, print_result, quick_asked
from transformers import LlamaConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mm1_hf.model.packed_attention_mm1 import PACKED_SDPA, register_packed_sdpa

# A pack drawn from a mix of captions, web documents and text.
DOCUMENTS = [204, 2257, 165, 392, 175, 168, 470, 192, 73]
HEADS, HEAD_WIDTH = 8, 64


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What one would write for this pack alone: `(1, H, T, D)` to `(1, T, H, D)`."""
    outputs = [
        F.scaled_dot_product_attention(*document, is_causal=True).transpose(1, 2)
        for document in zip(*(x.split(DOCUMENTS, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=1)


def mask_of(implementation: str) -> torch.Tensor:
    """The mask a decoder makes once per forward for this pack."""
    config = LlamaConfig(hidden_size=HEADS * HEAD_WIDTH, num_attention_heads=HEADS)
    config._attn_implementation = implementation
    mask = create_causal_mask(
        config=config,
        inputs_embeds=torch.empty(1, sum(DOCUMENTS), 1),
        attention_mask=None,
        past_key_values=None,
        position_ids=torch.cat([torch.arange(length) for length in DOCUMENTS])[None],
    )
    assert mask is not None, "the documents were not found"
    return mask


def through_interface(implementation: str) -> Callable[..., torch.Tensor]:
    """One back end as a decoder calls it, with its mask already made."""
    attention = ALL_ATTENTION_FUNCTIONS[implementation]
    layer = SimpleNamespace(is_causal=True, num_key_value_groups=1)
    mask = mask_of(implementation)
    return lambda query, key, value: attention(layer, query, key, value, mask)[0]


def inputs() -> list[torch.Tensor]:
    """Query, key and value `(1, H, T, D)`, laid out as a decoder's projections leave them."""
    shape = (1, sum(DOCUMENTS), HEADS, HEAD_WIDTH)
    return [torch.randn(shape).transpose(1, 2).requires_grad_() for _ in range(3)]


def time_forward(attention: Callable[..., torch.Tensor]) -> float:
    tensors = inputs()
    with torch.no_grad():
        return cpu_seconds(lambda: attention(*tensors))


def time_step(attention: Callable[..., torch.Tensor]) -> float:
    tensors = inputs()
    return cpu_seconds(lambda: attention(*tensors).sum().backward())


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Least milliseconds of forward and step, by contestant, after checking that all agree."""
    contestants = {
        "ours": through_interface(PACKED_SDPA),
        "dense_mask": through_interface("sdpa"),
        "by_hand": by_hand,
    }
    with torch.no_grad():
        example = inputs()
        expected = by_hand(*example)
        for attention in contestants.values():
            torch.testing.assert_close(attention(*example), expected, rtol=0, atol=1e-5)
    seconds = {name: {"forward": [], "step": []} for name in contestants}
    for _ in range(rounds):
        for name, attention in contestants.items():
            seconds[name]["forward"].append(time_forward(attention))
            seconds[name]["step"].append(time_step(attention))
    return {
        name: {kind: round(1000 * min(times), 2) for kind, times in kinds.items()}
        for name, kinds in seconds.items()
    }


def main() -> None:
    rounds = 4 if quick_asked(__doc__) else 16
    register_packed_sdpa()
    milliseconds = measure(rounds)
    ours, dense, loop = (milliseconds[name] for name in ("ours", "dense_mask", "by_hand"))
    for name, kinds in milliseconds.items():
        print(f"{name:>10}: forward {kinds['forward']:7.1f} ms, step {kinds['step']:7.1f} ms")
    figures = {
        "milliseconds": milliseconds,
        "mask_milliseconds": {
            name: round(1000 * min(cpu_seconds(lambda n=name: mask_of(n)) for _ in range(5)), 2)
            for name in (PACKED_SDPA, "sdpa")
        },
        "mask_bytes": {name: mask_of(name).nbytes for name in (PACKED_SDPA, "sdpa")},
        "documents": DOCUMENTS,
        "heads": HEADS,
        "head_width": HEAD_WIDTH,
    }
    ratios = {
        "packed_forward": round(dense["forward"] / ours["forward"], 2),
        "packed_step": round(dense["step"] / ours["step"], 2),
        # The worse of the two.
        "against_loop": round(min(loop[kind] / ours[kind] for kind in ours), 3),
    }
    print_result("attention", ratios=ratios, figures=figures)


if __name__ == "__main__":
    main()
