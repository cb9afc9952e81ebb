"""Packed documents never see each other, whatever back end attends; ours builds no T x T mask."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import MistralConfig
from transformers.masking_utils import (
    create_causal_mask,
    create_sliding_window_causal_mask,
    sdpa_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.model import packed_attention_mm1
from mm1_hf.model.packed_attention_mm1 import PACKED_SDPA, packed_sdpa_mask

from . import tiny

BACK_ENDS = ["eager", "sdpa", PACKED_SDPA]
# Images of each document; the longest has the most that a pack holds by default.
IMAGES = [0, 1, 0, 16, 3, 2]
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def model(
    attention: str | dict[str, str], *, text: str = "own", **changes
) -> MM1ForConditionalGeneration:
    torch.manual_seed(0)
    config = tiny.config(text_config=tiny.text_configs()[text], **changes)
    config.text_config.attention_dropout = 0.0
    return MM1ForConditionalGeneration._from_config(config, attn_implementation=attention).eval()


def document(images: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Text, then alternating images and text; one pack of one document."""
    generator = torch.Generator().manual_seed(seed)

    def text() -> list[int]:
        length = int(torch.randint(1, 6, (), generator=generator))
        return torch.randint(3, tiny.IMAGE, (length,), generator=generator).tolist()

    pieces = [text()]
    for _ in range(images):
        pieces += ["image", text()]
    ids = torch.tensor([tiny.prompt(*pieces)])
    labels = ids.masked_fill(ids == tiny.IMAGE, -100)
    labels[:, 0] = -100
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(ids.shape[1])[None]}
    if images:
        shape = (images, 3, tiny.SIDE, tiny.SIDE)
        batch["pixel_values"] = torch.randn(shape, generator=generator)
    return batch


def documents() -> list[dict[str, torch.Tensor]]:
    return [document(images, seed=seed) for seed, images in enumerate(IMAGES)]


def pack(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    tiles = [part["pixel_values"] for part in parts if "pixel_values" in part]
    packed = {
        name: torch.cat([part[name] for part in parts], dim=1)
        for name in ("input_ids", "labels", "position_ids")
    }
    return packed | ({"pixel_values": torch.cat(tiles)} if tiles else {})


def cumulative(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def lengths_of(parts: list[dict[str, torch.Tensor]]) -> list[int]:
    return [part["input_ids"].shape[1] for part in parts]


def logits(of: MM1ForConditionalGeneration, batch: dict[str, torch.Tensor], **kwargs):
    with torch.no_grad():
        return of(**{"use_cache": False, **batch, **kwargs}).logits


def check_packed_equals_alone(
    of: MM1ForConditionalGeneration, *, alone: MM1ForConditionalGeneration | None = None
) -> None:
    parts = documents()
    packed = logits(of, pack(parts)).split(lengths_of(parts), dim=1)
    for part, found in zip(parts, packed, strict=True):
        torch.testing.assert_close(found, logits(alone or of, part), **TOLERANCE)


@pytest.mark.parametrize("attention", BACK_ENDS)
def test_packed_logits_equal_those_of_each_document_alone(attention):
    check_packed_equals_alone(model(attention))


@pytest.mark.slow
# torch's compiler and transformers' call of it warn about themselves.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packed_logits_equal_those_of_each_document_alone_on_flex():
    # Only the forward pass: flex has no backward on a CPU. It compiles for each length anew, so the
    # documents alone take another back end.
    check_packed_equals_alone(model({"text_config": "flex_attention"}), alone=model("eager"))


@pytest.mark.parametrize("text", ["llama", "qwen2", "mixtral"])
def test_foreign_decoders_keep_documents_apart_too(text):
    check_packed_equals_alone(model({"text_config": PACKED_SDPA}, text=text))


@pytest.mark.parametrize("attention", BACK_ENDS)
def test_changing_one_document_leaves_the_others_bit_equal(attention):
    of, parts = model(attention), documents()
    before = logits(of, pack(parts)).split(lengths_of(parts), dim=1)
    changed = parts[3]["input_ids"]
    text = changed != tiny.IMAGE
    changed[text] = (changed[text] + 1) % tiny.IMAGE
    parts[3]["pixel_values"] = -parts[3]["pixel_values"]
    after = logits(of, pack(parts)).split(lengths_of(parts), dim=1)
    equal = [torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert equal == [True, True, True, False, True, True]


@pytest.mark.parametrize("attention", BACK_ENDS)
def test_loss_and_gradients_of_a_pack_are_sums_over_its_documents(attention):
    parts = documents()
    total = sum(int((part["labels"] != -100).sum()) for part in parts)
    together, alone = model(attention), model(attention)
    loss = together(**pack(parts), num_items_in_batch=total).loss
    loss.backward()
    sum_alone = torch.zeros(())
    for part in parts:
        part_loss = alone(**part, num_items_in_batch=total).loss
        part_loss.backward()
        sum_alone += part_loss.detach()
    torch.testing.assert_close(loss, sum_alone, **TOLERANCE)
    for (name, found), expected in zip(
        together.named_parameters(), alone.parameters(), strict=True
    ):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("attention", BACK_ENDS)
def test_several_packs_in_one_call_equal_each_alone(attention):
    of = model(attention)
    packs = [
        pack([document(images, seed=seed) for seed, images in enumerate(chosen)])
        for chosen in ([2, 0, 1], [0, 3], [4])
    ]
    length = min(one["input_ids"].shape[1] for one in packs)
    # Without tiles: packs cut to one length would cut images.
    embeddings = torch.randn(len(packs), length, tiny.TEXT_SIZES["hidden_size"])
    positions = torch.cat([one["position_ids"][:, :length] for one in packs])
    with torch.no_grad():
        together = of(inputs_embeds=embeddings, position_ids=positions, use_cache=False).logits
        for row, found in enumerate(together):
            one = {"inputs_embeds": embeddings[[row]], "position_ids": positions[[row]]}
            torch.testing.assert_close(found[None], of(**one, use_cache=False).logits, **TOLERANCE)


class _Layer(torch.nn.Module):
    is_causal = True
    num_key_value_groups = 2


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize(("attention", "square"), [("sdpa", True), (PACKED_SDPA, False)])
def test_no_tensor_of_a_packed_step_is_as_large_as_the_square_of_its_length(attention, square):
    lengths = [300, 41, 200, 83]
    batch = {
        "input_ids": torch.randint(3, tiny.IMAGE, (1, sum(lengths))),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
    }
    batch["labels"] = batch["input_ids"]
    with _Largest() as largest:
        model(attention)(**batch).loss.backward()
    assert (largest.elements >= sum(lengths) ** 2) == square


def test_documents_are_found_once_per_forward(monkeypatch):
    calls, real = [], packed_attention_mm1._cumulative_lengths

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(packed_attention_mm1, "_cumulative_lengths", counted)
    logits(model(PACKED_SDPA), pack(documents()))
    assert len(calls) == 1


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_changes_no_gradient(use_reentrant):
    plain, thrifty = model(PACKED_SDPA), model(PACKED_SDPA)
    # Older versions of transformers know only the second name.
    enable = getattr(thrifty, "activation_checkpointing_enable", None)
    (enable or thrifty.gradient_checkpointing_enable)({"use_reentrant": use_reentrant})
    for one in (plain, thrifty):
        one.train()(**pack(documents())).loss.backward()
    for expected, found in zip(plain.parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("use_cache", [True, False])
def test_given_cumulative_lengths_part_documents_whatever_the_positions(use_cache):
    of, parts = model(PACKED_SDPA), documents()
    batch = pack(parts)
    expected = logits(of, batch)
    del batch["position_ids"]
    borders = cumulative(lengths_of(parts))
    found = logits(of, batch, cu_seq_lens_q=borders, use_cache=use_cache)
    # Rotary positions are relative: counting on through the pack only rounds differently.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_given_cumulative_lengths_win_over_positions():
    of, parts = model(PACKED_SDPA), documents()
    whole = torch.tensor([0, sum(lengths_of(parts))], dtype=torch.int32)
    positions = {"position_ids": pack(parts)["position_ids"], "labels": None}
    batch = pack(parts) | positions
    assert not torch.allclose(logits(of, batch), logits(of, batch, cu_seq_lens_q=whole), atol=1e-2)


@pytest.mark.parametrize(
    ("borders", "reason"),
    [
        ([0, 3, 8], "must rise from 0 to the 12 tokens"),
        ([1, 6, 12], "must rise from 0 to the 12 tokens"),
        ([0, 9, 6, 12], "must rise from 0 to the 12 tokens"),
        ([], "must rise from 0 to the 12 tokens"),
        ([0, 4, 12], "runs across the end of a pack"),
    ],
)
def test_cumulative_lengths_that_do_not_fit_are_refused(borders, reason):
    ids = torch.randint(3, tiny.IMAGE, (2, 6))
    with pytest.raises(ValueError, match=reason):
        model(PACKED_SDPA)(input_ids=ids, cu_seq_lens_q=torch.tensor(borders, dtype=torch.int32))


def test_empty_documents_in_cumulative_lengths_are_passed_over():
    of, ids = model(PACKED_SDPA), torch.randint(3, tiny.IMAGE, (1, 9))
    borders = [torch.tensor(b, dtype=torch.int32) for b in ([0, 4, 9], [0, 0, 4, 4, 9, 9])]
    expected, found = (logits(of, {"input_ids": ids}, cu_seq_lens_q=b) for b in borders)
    assert torch.equal(found, expected)


def test_keys_from_a_cache_make_cumulative_lengths_void():
    of, ids = model(PACKED_SDPA), torch.randint(3, tiny.IMAGE, (1, 9))
    expected = logits(of, {"input_ids": ids})[:, 5:]
    with torch.no_grad():
        cache = of(input_ids=ids[:, :5], use_cache=True).past_key_values
        borders = torch.tensor([0, 2, 4], dtype=torch.int32)
        found = of(input_ids=ids[:, 5:], past_key_values=cache, cu_seq_lens_q=borders).logits
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_dense_masks_longer_keys_and_looking_both_ways_make_cumulative_lengths_void():
    layer, borders = _Layer(), torch.tensor([0, 4, 9], dtype=torch.int32)
    query = torch.randn(1, 4, 9, 8)
    key, value = torch.randn(2, 1, 2, 9, 8)
    ours, sdpa = (ALL_ATTENTION_FUNCTIONS[name] for name in (PACKED_SDPA, "sdpa"))
    dense = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    expected, _ = sdpa(layer, query, key, value, dense)
    found, _ = ours(layer, query, key, value, dense, cu_seq_lens_q=borders)
    assert torch.equal(found, expected)
    # What a static cache holds at first: keys of no token at the end.
    longer = [F.pad(tensor, (0, 0, 0, 3)) for tensor in (key, value)]
    expected, _ = sdpa(layer, query, *longer, None)
    found, _ = ours(layer, query, *longer, None, cu_seq_lens_q=borders)
    assert torch.equal(found, expected)
    layer.is_causal = False
    expected, _ = sdpa(layer, query, key, value, None)
    found, _ = ours(layer, query, key, value, None, cu_seq_lens_q=borders)
    assert torch.equal(found, expected)


def left_padded() -> dict[str, torch.Tensor]:
    part = document(1, seed=1)
    ids = F.pad(torch.cat([part["input_ids"]] * 2), (2, 0))
    mask = torch.ones_like(ids)
    mask[:, :2] = 0
    ids[1, :2], mask[1, :2] = 5, 1
    pixels = torch.cat([part["pixel_values"], -part["pixel_values"]])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@pytest.mark.parametrize("batch", [document(2, seed=0), left_padded()], ids=["single", "padded"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_what_is_not_packed_is_bit_equal_to_sdpa(batch, use_cache):
    expected, found = (model(name)(**batch, use_cache=use_cache) for name in ("sdpa", PACKED_SDPA))
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_is_that_of_sdpa(cache):
    expected, found = (
        model(name).generate(
            **left_padded(),
            max_new_tokens=6,
            do_sample=False,
            cache_implementation=cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for name in ("sdpa", PACKED_SDPA)
    )
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("vision", ["own", "clip", "siglip", "aimv2"])
def test_the_vision_side_attends_as_under_sdpa(vision):
    changes = {
        "vision_config": tiny.vision_configs()[vision],
        "connector_config": tiny.connector_config("attention_pool"),
    }
    pixels = tiny.tiles(3)
    expected, found = (
        model(name, **changes).get_image_features(pixels).pooler_output
        for name in ("sdpa", PACKED_SDPA)
    )
    assert torch.equal(found, expected)


def test_it_is_chosen_like_any_other_back_end():
    alone = model({"text_config": PACKED_SDPA})
    assert alone.config.text_config._attn_implementation == PACKED_SDPA
    assert alone.config.vision_config._attn_implementation == "sdpa"
    alone.set_attn_implementation("sdpa")
    assert alone.config.text_config._attn_implementation == "sdpa"
    alone.set_attn_implementation(PACKED_SDPA)
    assert alone.config.text_config._attn_implementation == PACKED_SDPA


def mask(make: Callable = create_causal_mask, *, lengths: list[int], **kwargs):
    config = MistralConfig(sliding_window=6)
    config._attn_implementation = PACKED_SDPA
    embeddings = torch.empty(1, sum(lengths), 1)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return make(config, embeddings, None, None, positions, **kwargs)


def test_a_pack_is_described_by_its_cumulative_lengths():
    assert mask(lengths=[4, 1, 6, 2]).tolist() == [0, 4, 5, 11, 13]
    assert mask(lengths=[13]) is None


def test_a_sliding_window_matters_only_to_documents_longer_than_it():
    sliding = create_sliding_window_causal_mask
    assert mask(sliding, lengths=[4, 1, 6, 2]).tolist() == [0, 4, 5, 11, 13]
    dense = mask(sliding, lengths=[4, 7, 2])
    assert dense.shape == (1, 1, 13, 13)
    assert not dense[0, 0, 10, 4], "the seventh token of a document must not see its first"


def test_masks_that_are_more_than_packs_stay_dense():
    together = torch.tensor([[-1, 0, 0, -1, -1, -1]])  # two tokens that see each other
    assert mask(lengths=[4, 2], block_sequence_ids=together).shape == (1, 1, 6, 6)
    hole = {"and_mask_function": lambda batch, head, query, key: (query != 3) | (key != 1)}
    assert mask(lengths=[4, 2], **hole)[0, 0, 3, :4].tolist() == [True, False, True, True]


def test_a_compiled_graph_gets_the_dense_mask():
    compiled = torch.compile(create_causal_mask, backend="eager", fullgraph=True)
    assert mask(compiled, lengths=[4, 2]).shape == (1, 1, 6, 6)


@pytest.mark.parametrize(
    "changes",
    [{"attention_mask": torch.tensor([[False, *[True] * 5]])}, {"kv_length": 8}],
    ids=["padding", "longer keys"],
)
def test_padding_and_longer_keys_keep_the_dense_mask(changes):
    arguments = {
        "batch_size": 1,
        "q_length": 6,
        "kv_length": 6,
        "mask_function": lambda batch, head, query, key: (key <= query) & (query // 3 == key // 3),
        "allow_is_causal_skip": False,
    }
    expected, found = (make(**arguments | changes) for make in (sdpa_mask, packed_sdpa_mask))
    assert torch.equal(found, expected)


@given(
    rows=st.integers(1, 3).flatmap(
        lambda count: st.lists(
            st.sets(st.integers(1, 11), max_size=11), min_size=count, max_size=count
        )
    )
)
def test_any_packs_are_attended_as_with_a_dense_mask(rows):
    length = 12
    starts = [row * length + start for row, inner in enumerate(rows) for start in {0, *inner}]
    flat = torch.zeros(len(rows) * length, dtype=torch.long)
    flat[starts] = 1
    ids = flat.cumsum(0).view(len(rows), length)
    borders = torch.tensor([*sorted(starts), len(flat)], dtype=torch.int32)
    query = torch.randn(len(rows), length, 4, 8).transpose(1, 2)
    key, value = torch.randn(2, len(rows), length, 2, 8).transpose(2, 3)
    allowed = (ids[:, None, :, None] == ids[:, None, None, :]).tril()
    expected = F.scaled_dot_product_attention(query, key, value, allowed, enable_gqa=True)
    found, _ = ALL_ATTENTION_FUNCTIONS[PACKED_SDPA](_Layer(), query, key, value, borders)
    torch.testing.assert_close(found, expected.transpose(1, 2), **TOLERANCE)
