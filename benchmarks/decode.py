"""How long does a token take, with 800 and with 3800 tokens in front of it, on one CPU thread?

Decoders of the same weights, one token at a time, as `generate` calls them: transformers' Llama
with the cache it makes by default, ours with the cache that is allocated once
(`cache_implementation="static"`), and ours with int8 weights and that cache. The default cache
copies all keys and values for every token. Bytes per token and the rate at which this machine reads
memory say how near each is to what is possible.
"""

import os
from collections.abc import Callable

# Read when torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from harness import cpu_seconds, interleaved, print_result, quick_asked
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel, StaticCache
from transformers.cache_utils import Cache

from mm1_hf import MM1ForCausalLM, MM1TextConfig
from mm1_hf.quantisation import quantise_int8

HEADS, HEAD_WIDTH = 12, 64
SIZES = {
    "vocab_size": 32_000,
    "hidden_size": HEADS * HEAD_WIDTH,
    "intermediate_size": 2048,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
}
# 5 tiles of 144 visual tokens and a question; 5 tiles of 729 (LLaVA-NeXT's) and a question.
CONTEXTS = (800, 3800)
ROOM = 64


class Decoding:
    """One decoder somewhere in an answer: each call makes one more token."""

    def __init__(self, model: PreTrainedModel, cache: Cache, *, context: int):
        self.model, self.cache, self.context = model, cache, context
        self.position, self.token = context, torch.zeros(1, 1, dtype=torch.long)
        generator = torch.Generator().manual_seed(0)
        shape = (1, HEADS, context, HEAD_WIDTH)
        for layer in range(model.config.num_hidden_layers):
            states = [torch.randn(shape, generator=generator) for _ in range(2)]
            cache.update(*states, layer)

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        """Logits `(1, 1, V)`."""
        assert self.position < self.context + ROOM, "the cache is full: fewer rounds, or more room"
        logits = self.model(
            input_ids=self.token,
            position_ids=torch.tensor([[self.position]]),
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.position += 1
        self.token = logits[:, -1:].argmax(-1)
        return logits


def decoders(layers: int) -> dict[str, PreTrainedModel]:
    """The same weights three times."""
    ours = MM1ForCausalLM(MM1TextConfig(**SIZES, num_hidden_layers=layers)).eval()
    theirs = LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=layers)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    int8 = MM1ForCausalLM(ours.config).eval()
    int8.load_state_dict(ours.state_dict())
    quantise_int8(int8, keep=())
    return {"transformers": theirs, "ours": ours, "int8": int8}


def contestants(models: dict[str, PreTrainedModel], context: int) -> dict[str, Decoding]:
    def static(name: str) -> Decoding:
        cache = StaticCache(config=models[name].config, max_cache_len=context + ROOM)
        return Decoding(models[name], cache, context=context)

    theirs = models["transformers"]
    return {
        "transformers": Decoding(theirs, DynamicCache(config=theirs.config), context=context),
        "transformers_static": static("transformers"),
        "ours": static("ours"),
        "int8": static("int8"),
    }


def require_agreement(found: dict[str, Decoding]) -> None:
    """The first token must be that of transformers: to rounding, and for int8 nearly so."""
    logits = {name: decoding().flatten() for name, decoding in found.items()}
    expected = logits["transformers"]
    torch.testing.assert_close(logits["ours"], expected, rtol=0, atol=1e-4)
    similarity = torch.cosine_similarity(logits["int8"], expected, dim=0).item()
    assert similarity > 0.99, f"int8 answers differently: cosine {similarity}"


def bytes_per_token(model: PreTrainedModel, context: int) -> int:
    """Read for each token: all weights but the embedding table, and all keys and values."""
    table = model.get_input_embeddings()
    held = {id(one): one for one in (*model.parameters(), *model.buffers())}
    weights = sum(one.nbytes for one in held.values()) - table.weight.nbytes
    return weights + 2 * 4 * model.config.num_hidden_layers * SIZES["hidden_size"] * context


def read_rate() -> float:
    """Bytes per CPU second at which weights of fp32 are read at best."""
    matrix, vector = torch.randn(32_000, 768), torch.randn(768)
    out = torch.empty(32_000)
    work: Callable[[], object] = lambda: torch.mv(matrix, vector, out=out)  # noqa: E731
    work()
    return matrix.nbytes / min(cpu_seconds(work) for _ in range(9))


def main() -> None:
    quick = quick_asked(__doc__, help="fewer layers and rounds")
    layers, rounds = (4, 8) if quick else (12, 40)
    models = decoders(layers)
    milliseconds, in_bytes = {}, {}
    for context in CONTEXTS:
        found = contestants(models, context)
        require_agreement(found)
        seconds = interleaved(found, rounds=rounds)
        milliseconds[context] = {name: round(1000 * one, 2) for name, one in seconds.items()}
        in_bytes[context] = {name: bytes_per_token(models[name], context) for name in models}
        shown = ", ".join(f"{name} {one:.1f}" for name, one in milliseconds[context].items())
        print(f"{context} tokens in front: milliseconds per token: {shown}")
    ratios = {
        f"context_{context}": round(found["transformers"] / found["ours"], 2)
        for context, found in milliseconds.items()
    }
    int8 = milliseconds[CONTEXTS[0]]
    ratios[f"int8_{CONTEXTS[0]}"] = round(int8["transformers"] / int8["int8"], 2)
    figures = {
        "milliseconds": milliseconds,
        "bytes_per_token": in_bytes,
        "read_bytes_per_second": round(read_rate()),
        "layers": layers,
        "sizes": SIZES,
    }
    print_result("decode", ratios=ratios, figures=figures)


if __name__ == "__main__":
    main()
