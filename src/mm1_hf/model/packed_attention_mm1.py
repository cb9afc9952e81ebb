"""Attention for packed documents without fast kernels: one SDPA call per document, no T x T mask.

On a CPU, transformers isolates packed documents under `sdpa` with a dense mask, which costs all
T x T products and a mask of that size; under the name `PACKED_SDPA` each document is attended
alone. Choose it as any other back end, `attn_implementation=PACKED_SDPA` or
`{"text_config": PACKED_SDPA}`, for our decoder and for every decoder of transformers that goes
through its attention interface.

The one representation of a pack is that of the varlen kernels: cumulative lengths over the
flattened batch, `[0, length of the first document, ..., B * T]`.

Letters: B packs, T tokens of a pack, H query heads, G key and value heads, D width of a head.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "mm1_packed_sdpa"


def register_packed_sdpa() -> None:
    """Make `PACKED_SDPA` known to transformers; harmless when repeated."""
    AttentionInterface.register(PACKED_SDPA, packed_sdpa_attention_forward)
    AttentionMaskInterface.register(PACKED_SDPA, packed_sdpa_mask)


def packed_sdpa_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **kwargs,
) -> torch.Tensor | None:
    """The mask of one forward: cumulative lengths for packs, else exactly what `sdpa` gets.

    transformers calls this once per forward, with arguments of its choice; it clears
    `allow_is_causal_skip` when positions restart and neither mask nor cache is given.

    Returns:
        For packs, int32 `(documents + 1,)` on the CPU, where the lengths are needed as numbers.
        Otherwise a boolean mask `(B, 1, T, keys)`, or None for plain causal attention.
    """
    # A compiled graph cannot depend on the number of documents.
    whole_pass = q_length == kv_length and attention_mask is None and not use_vmap
    if whole_pass and not allow_is_causal_skip and not torch.compiler.is_compiling():
        cumulative = _cumulative_lengths(
            mask_function, batch_size=batch_size, length=q_length, device=device
        )
        if cumulative is not None:
            return cumulative
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        use_vmap=use_vmap,
        device=device,
        **kwargs,
    )


def _cumulative_lengths(
    mask_function: Callable, *, batch_size: int, length: int, device: torch.device | str
) -> torch.Tensor | None:
    """Read the documents from a mask by asking for O(T) of its T x T entries.

    A document begins where a token does not see the one before it. The mask is a pack only if,
    besides, no token sees the next one and every token sees the first of its document: a sliding
    window shorter than a document, or tokens that see each other, are left to the dense mask.

    Returns:
        int32 `(documents + 1,)` on the CPU, or None if there is one document per row or no pack.
    """
    batch = torch.arange(batch_size, device=device)[:, None]  # (B, 1)
    head = torch.zeros((), dtype=torch.long, device=device)
    tokens = torch.arange(length, device=device).expand(batch_size, -1)  # (B, T)
    earlier, later = tokens[:, :-1], tokens[:, 1:]
    begins = torch.ones(batch_size, length, dtype=torch.bool, device=device)
    begins[:, 1:] = ~mask_function(batch, head, later, earlier)
    if not begins[:, 1:].any() or mask_function(batch, head, earlier, later).any():
        return None
    first = torch.where(begins, tokens, 0).cummax(dim=-1).values  # (B, T)
    if not mask_function(batch, head, tokens, first).all():
        return None
    starts = begins.flatten().nonzero().flatten().to("cpu", torch.int32)
    return torch.cat([starts, starts.new_tensor([batch_size * length])])


def packed_sdpa_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document; exactly `sdpa` where nothing is packed.

    Args:
        module: The attention layer; `is_causal` and `num_key_value_groups` are read from it.
        query: `(B, H, T, D)`.
        key: `(B, G, keys, D)`.
        value: `(B, G, keys, D)`.
        attention_mask: What `packed_sdpa_mask` returned.
        is_causal: In place of `module.is_causal`.
        cu_seq_lens_q: Cumulative lengths `(documents + 1,)`, as for the varlen kernels. Where
            given, they and not the positions part the documents. A dense mask or keys from a cache
            make them void.
        **kwargs: `dropout`, `scaling` and whatever else `sdpa` takes.

    Returns:
        `(B, T, H, D)`, and None in place of weights.

    Raises:
        ValueError: If `cu_seq_lens_q` does not part this batch.
    """
    batch_size, _, length, _ = query.shape
    packed = attention_mask is not None and attention_mask.ndim == 1
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    fresh = causal and key.shape[2] == length and (packed or attention_mask is None)
    lengths: list[int] = []
    if fresh and cu_seq_lens_q is not None:
        lengths = _document_lengths(cu_seq_lens_q, batch_size=batch_size, length=length)
    elif packed:
        lengths = attention_mask.diff().tolist()
    if len(lengths) <= batch_size:
        mask = None if packed else attention_mask
        return sdpa_attention_forward(
            module, query, key, value, mask, is_causal=is_causal, **kwargs
        )
    # `split` and not slices: its backward writes the gradient once, not once per document.
    queries, keys, values = (
        _flatten_batch(tensor).split(lengths, dim=2) for tensor in (query, key, value)
    )
    outputs = [
        sdpa_attention_forward(module, *document, attention_mask=None, is_causal=True, **kwargs)[0]
        for document in zip(queries, keys, values, strict=True)
    ]  # (1, tokens of the document, H, D) each
    return torch.cat(outputs, dim=1).unflatten(1, (batch_size, length)).squeeze(0), None


def _flatten_batch(tensor: torch.Tensor) -> torch.Tensor:
    """`(B, heads, T, D)` to `(1, heads, B * T, D)`; a view for one pack."""
    return tensor.transpose(1, 2).flatten(0, 1).transpose(0, 1).unsqueeze(0)


def _document_lengths(cumulative: torch.Tensor, *, batch_size: int, length: int) -> list[int]:
    """Lengths of the documents of a batch, checked against its shape."""
    borders = cumulative.tolist()
    lengths = [end - start for start, end in pairwise(borders)]
    rows = range(0, batch_size * length + 1, length)
    if borders[:1] != [0] or borders[-1] != rows[-1] or min(lengths) < 0:
        raise ValueError(
            f"cu_seq_lens_q is {borders}, but must rise from 0 to the {rows[-1]} tokens of the "
            f"batch ({batch_size} packs of {length}). Give the cumulative lengths of the documents "
            "over the flattened batch, the padding at the end of a pack counting as a document."
        )
    if not set(rows) <= set(borders):
        raise ValueError(
            f"cu_seq_lens_q is {borders}: a document runs across the end of a pack; packs end at "
            f"{list(rows[1:])}. End the last document of each pack with it."
        )
    return [count for count in lengths if count]


__all__ = [
    "PACKED_SDPA",
    "packed_sdpa_attention_forward",
    "packed_sdpa_mask",
    "register_packed_sdpa",
]
