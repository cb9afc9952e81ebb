import pytest
import torch

from mm1_hf import MM1ForCausalLM, MM1TextModel

from . import tiny

GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
DOCUMENTS = [[5, 6, 7, 8, 9], [10, 11, 12], [20, 21, 22, 23]]


def decoder(**changes) -> MM1ForCausalLM:
    return tiny.randomised(MM1ForCausalLM(tiny.text_config(**changes)))


def packed(documents: list[list[int]] = DOCUMENTS) -> dict[str, torch.Tensor]:
    """One row with positions that restart, and no label on a document's first token."""
    labels = [label for document in documents for label in [-100, *document[1:]]]
    return {
        "input_ids": torch.tensor([[token for document in documents for token in document]]),
        "position_ids": torch.tensor([[i for d in documents for i in range(len(d))]]),
        "labels": torch.tensor([labels]),
    }


def test_left_padding_changes_nothing():
    model = decoder()
    short, long = [5, 6, 7], [8, 9, 10, 11, 12]
    ids = torch.tensor([[0, 0, *short], long])
    mask = (ids != 0).long()
    found = model.generate(ids, attention_mask=mask, **GREEDY)
    for row, sample in zip(found, (short, long), strict=True):
        alone = model.generate(torch.tensor([sample]), **GREEDY)
        assert row[5:].tolist() == alone[0, len(sample) :].tolist()


def test_right_padding_changes_no_real_position():
    model = decoder()
    ids = torch.tensor([[5, 6, 7, 0, 0]])
    found = model(ids, attention_mask=(ids != 0).long()).logits[:, :3]
    torch.testing.assert_close(found, model(ids[:, :3]).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_packed_documents_are_read_as_if_alone(implementation):
    model = decoder()
    model.set_attn_implementation(implementation)
    found = model(**packed()).logits.split([len(d) for d in DOCUMENTS], dim=1)
    for logits, document in zip(found, DOCUMENTS, strict=True):
        expected = model(torch.tensor([document])).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_packed_gradients_are_the_sum_of_separate_ones():
    model = decoder()
    num_items = sum(len(document) - 1 for document in DOCUMENTS)
    model(**packed(), num_items_in_batch=num_items).loss.backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for document in DOCUMENTS:
        ids = torch.tensor([document])
        model(ids, labels=ids, num_items_in_batch=num_items).loss.backward()
    expected = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_changing_one_packed_document_changes_no_bit_of_the_others(changed, training):
    """With labels and the default `use_cache`, which would hide the borders."""
    model = decoder().train(training)
    documents = [list(document) for document in DOCUMENTS]
    documents[changed][0] = 50
    lengths = [len(document) for document in documents]
    before = model(**packed(), skip_logits=False).logits.split(lengths, dim=1)
    after = model(**packed(documents), skip_logits=False).logits.split(lengths, dim=1)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [index != changed for index in range(3)]


def test_training_keeps_no_cache_and_reading_does():
    model = decoder()
    ids = torch.tensor([[5, 6, 7]])
    assert model(ids, labels=ids).past_key_values is None
    assert model(ids).past_key_values is not None
    assert model(ids, labels=ids, use_cache=True).past_key_values is not None


def test_the_cache_changes_nothing():
    model = decoder()
    ids = torch.randint(3, 90, (2, 9))
    whole = model(ids, use_cache=False).logits
    first = model(ids[:, :5])
    rest = model(ids[:, 5:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, atol=1e-5, rtol=1e-5)


def test_a_static_cache_generates_what_a_dynamic_one_does():
    model = decoder()
    ids = torch.randint(3, 90, (2, 5))
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids, **GREEDY, **static), model.generate(ids, **GREEDY))


@pytest.mark.parametrize("seen", [3, 7])
def test_no_token_sees_the_future(seen):
    model = decoder()
    ids = torch.randint(3, 90, (1, 9))
    changed = ids.clone()
    changed[:, seen:] = 4
    before, after = model(ids).logits[:, :seen], model(changed).logits[:, :seen]
    torch.testing.assert_close(before, after, atol=0, rtol=0)


def test_activation_checkpointing_changes_no_gradient():
    model = decoder().train()
    ids = torch.randint(3, 90, (2, 9))
    model(ids, labels=ids).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    tiny.enable_activation_checkpointing(model)
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    model(ids, labels=ids).loss.backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_embeddings_in_place_of_tokens_change_nothing():
    model = decoder()
    ids = torch.randint(3, 90, (2, 9))
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embeds).logits, model(ids).logits)


def test_tokens_and_embeddings_exclude_each_other():
    model = MM1TextModel(tiny.text_config())
    for arguments in ({}, {"input_ids": torch.ones(1, 1), "inputs_embeds": torch.ones(1, 1, 24)}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**arguments)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4])])
def test_logits_are_computed_only_where_wanted(keep):
    model = decoder()
    ids = torch.randint(3, 90, (2, 6))
    wanted = slice(-keep, None) if isinstance(keep, int) else keep
    found = model(ids, logits_to_keep=keep).logits
    torch.testing.assert_close(found, model(ids).logits[:, wanted], atol=1e-5, rtol=1e-5)


def test_what_is_recorded_has_the_shapes_of_llamas():
    model = decoder()
    model.set_attn_implementation("eager")
    output = model(torch.ones(2, 5).long(), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, 5, 24)] * 3
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, 4, 5, 5)] * 2


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_saves_and_loads(tied, tmp_path):
    model = decoder(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    again = MM1ForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(3, 90, (1, 6))
    assert torch.equal(again(ids).logits, model(ids).logits)
    shared = again.lm_head.weight is again.model.embed_tokens.weight
    assert shared is tied


def test_a_new_decoder_starts_near_the_uniform_distribution():
    model = MM1ForCausalLM(tiny.text_config())
    ids = torch.randint(3, 90, (4, 50))
    uniform = torch.tensor(float(tiny.VOCABULARY)).log()
    torch.testing.assert_close(model(ids, labels=ids).loss, uniform, atol=0.1, rtol=0)
