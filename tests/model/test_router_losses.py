"""Router losses have the values of their definitions, and depend on nothing else."""

import pytest
import torch
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from mm1_hf import MM1ForCausalLM, MM1ForConditionalGeneration
from mm1_hf.model.moe_mm1 import balance_loss, router_losses, valid_tokens, z_loss

from . import tiny

SPARSE = {"num_experts": 4, "moe_every_n_layers": 1, "num_hidden_layers": 2}
DEFINITIONS = ("first_choice", "all_choices")


def decoder(**changes) -> MM1ForCausalLM:
    model = tiny.randomised(MM1ForCausalLM(tiny.text_config(**{**SPARSE, **changes})))
    return model.train()


def one_hot_logits(tokens: int, experts: int, *, strength: float) -> torch.Tensor:
    """Each token prefers the next expert, and the one after it second."""
    turn = torch.arange(tokens) % experts
    logits = torch.zeros(tokens, experts)
    logits[torch.arange(tokens), turn] = 2 * strength
    logits[torch.arange(tokens), (turn + 1) % experts] = strength
    return logits[None]


# Values.


@pytest.mark.parametrize(("definition", "expected"), [("first_choice", 1.0), ("all_choices", 2.0)])
@pytest.mark.parametrize("strength", [0.1, 5.0])
def test_balanced_routing_has_the_least_loss(definition, expected, strength):
    logits = one_hot_logits(16, 8, strength=strength)
    found = balance_loss(logits, num_chosen=2, definition=definition)
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_all_tokens_at_one_expert_have_the_loss_of_their_number(definition):
    logits = torch.zeros(1, 16, 8)
    logits[..., 3] = 200
    found = balance_loss(logits, num_chosen=2, definition=definition)
    torch.testing.assert_close(found, torch.tensor([8.0]))


def test_all_choices_is_mixtrals_loss():
    logits = torch.randn(1, 40, 8)
    expected = load_balancing_loss_func((logits[0],), 8, 2)
    found = balance_loss(logits, num_chosen=2, definition="all_choices")
    torch.testing.assert_close(found[0], expected)


def test_an_unknown_definition_is_refused():
    with pytest.raises(ValueError, match="'mean', but must be one of: 'first_choice'"):
        balance_loss(torch.zeros(1, 2, 3), num_chosen=2, definition="mean")  # type: ignore


def test_the_z_loss_is_the_mean_square_of_the_partition_function():
    logits = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])
    expected = (torch.tensor([1.0, 2.0]).logsumexp(0) ** 2 + torch.tensor(2.0).log() ** 2) / 2
    torch.testing.assert_close(z_loss(logits)[0], expected)


def test_losses_are_means_over_layers():
    layers = [torch.randn(12, 4) for _ in range(3)]
    apart = [router_losses([one], num_chosen=2, shape=(3, 4)) for one in layers]
    together = router_losses(layers, num_chosen=2, shape=(3, 4))
    for name in ("balance", "z"):
        mean = torch.stack([getattr(one, name) for one in apart]).mean()
        torch.testing.assert_close(getattr(together, name), mean)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_step_down_the_gradient_lowers_the_loss(definition):
    logits = (3 * torch.randn(2, 30, 8)).requires_grad_()
    for loss_of in (lambda x: balance_loss(x, num_chosen=2, definition=definition).sum(),):
        before = loss_of(logits)
        before.backward()
        assert logits.grad.abs().max() > 0
        assert loss_of((logits - 0.1 * logits.grad).detach()) < before


def test_the_loss_of_a_model_is_the_weighted_sum():
    model = decoder(router_aux_loss_coef=0.3, router_z_loss_coef=0.2)
    ids = torch.randint(3, 90, (2, 9))
    output = model(ids, labels=ids)
    tokens = model(ids, labels=ids, output_router_logits=False).loss
    assert len(output.router_logits) == 2
    torch.testing.assert_close(output.loss, tokens + 0.3 * output.aux_loss + 0.2 * output.z_loss)


def test_the_weights_are_the_papers():
    config = tiny.text_config(**SPARSE)
    assert (config.router_aux_loss_coef, config.router_z_loss_coef) == (0.01, 0.001)


@pytest.mark.parametrize("coefficient", ["router_aux_loss_coef", "router_z_loss_coef"])
def test_each_loss_reaches_the_router(coefficient):
    ids = torch.randint(3, 90, (2, 9))
    found = []
    for weight in (0.0, 1.0):
        weights = {"router_aux_loss_coef": 0.0, "router_z_loss_coef": 0.0, coefficient: weight}
        torch.manual_seed(0)
        model = decoder(**weights)
        model(ids, labels=ids).loss.backward()
        found.append(model.model.layers[0].mlp.gate.weight.grad)
    # From the answer of the tokens alone, and from the loss in addition.
    assert found[0].abs().max() > 0
    assert not torch.allclose(*found, rtol=0.01)


def test_a_foreign_sparse_decoder_keeps_its_own_loss():
    text = MixtralConfig(
        **tiny.TEXT_SIZES,
        num_local_experts=4,
        num_experts_per_tok=2,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    )
    config = tiny.config(text_config=text)
    model = tiny.randomised(MM1ForConditionalGeneration(config)).train()
    ids = torch.randint(3, 90, (1, 9))
    output = model(ids, labels=ids)
    # One row and one layer at a time, as we average over layers.
    layers = [load_balancing_loss_func((one,), 4, 2) for one in output.router_logits]
    torch.testing.assert_close(output.aux_loss, sum(layers) / 2)
    tokens = model(ids, labels=ids, output_router_logits=False).loss
    torch.testing.assert_close(output.loss, tokens + 0.5 * output.aux_loss)


# What is counted.


def test_rows_of_different_lengths_count_by_their_labels():
    logits = [torch.randn(2 * 6, 4)]
    mask = torch.tensor([[1] * 6, [1] * 2 + [0] * 4])
    labels = torch.arange(12).view(2, 6).masked_fill(mask == 0, -100)
    labels[:, -1] = -100
    found = router_losses(
        logits, num_chosen=2, shape=(2, 6), valid=mask.bool(), shift_labels=labels
    )
    whole, part = logits[0][:6][None], logits[0][6:8][None]
    alone = [balance_loss(one, num_chosen=2)[0] for one in (whole, part)]
    torch.testing.assert_close(found.balance, (5 * alone[0] + 2 * alone[1]) / 7)


def test_documents_without_a_label_are_not_counted():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2], [3, 4, 0, 1, 2, 3, 4, 0]])
    labels = torch.full((2, 8), -100)
    labels[0, [0, 6]] = 5
    labels[1, [1, 3]] = 5
    found = valid_tokens(attention_mask=None, position_ids=positions, shift_labels=labels, length=8)
    expected = [[1, 1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0]]
    assert found.int().tolist() == expected


def test_a_mask_says_what_is_counted():
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    arguments = {"position_ids": None, "shift_labels": None, "length": 3}
    assert valid_tokens(attention_mask=mask, **arguments).tolist() == [[True] * 3]
    assert valid_tokens(attention_mask=None, **arguments) is None


@pytest.mark.parametrize("padding", ["left", "right", "pack"])
def test_padding_changes_neither_losses_nor_gradients(padding):
    model = decoder()
    ids = [5, 6, 7, 8, 9, 10]
    rows = [3, 4, *ids] if padding == "left" else [*ids, 3, 4]
    unpadded, padded = torch.tensor([ids]), torch.tensor([rows])
    shown = torch.isin(padded, unpadded)
    if padding == "pack":
        kwargs = {"position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1]])}
    else:
        kwargs = {"attention_mask": shown.long()}
    found = []
    for inputs in (
        {"input_ids": unpadded},
        {"input_ids": padded, **kwargs},
    ):
        model.zero_grad()
        # The first token has no label: nothing real stands in front of it.
        tokens = inputs["input_ids"]
        labels = tokens.masked_fill((tokens <= ids[0]), -100)
        output = model(**inputs, labels=labels)
        output.loss.backward()
        gradient = model.model.layers[1].mlp.gate.weight.grad
        found.append((output.loss, output.aux_loss, output.z_loss, gradient))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_a_batch_without_labels_has_no_loss_and_no_missing_gradient():
    model = decoder()
    ids = torch.randint(3, 90, (2, 9))
    output = model(ids, labels=torch.full_like(ids, -100))
    assert output.loss == 0
    output.loss.backward()
    assert tiny.parameters_without_gradient(model) == []
    assert all((one.grad == 0).all() for one in model.parameters())


# How the rows of a step are spread.


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("pieces", [[[0, 1], [2, 3]], [[0], [1, 2, 3]], [[3], [1], [2], [0]]])
def test_losses_and_gradients_do_not_depend_on_how_rows_are_spread(pieces, definition):
    model = decoder(router_balance=definition, router_aux_loss_coef=1.0, router_z_loss_coef=1.0)
    ids = torch.randint(3, 90, (4, 12))
    labels = ids.masked_fill(torch.rand(4, 12) < torch.tensor([0.1, 0.8, 0.5, 0.3])[:, None], -100)
    num_items = (labels[:, 1:] != -100).sum()
    whole = model(ids, labels=labels, num_items_in_batch=num_items)
    whole.loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    losses = []
    for piece in pieces:
        output = model(ids[piece], labels=labels[piece], num_items_in_batch=num_items)
        output.loss.backward()
        losses.append(output.loss.detach())
    torch.testing.assert_close(sum(losses), whole.loss.detach())
    torch.testing.assert_close(
        [parameter.grad for parameter in model.parameters()], expected, atol=1e-6, rtol=1e-4
    )
    assert len({int((labels[piece][:, 1:] != -100).sum()) for piece in pieces}) > 1


def test_the_number_of_items_defaults_to_the_labels_given():
    model = decoder()
    ids = torch.randint(3, 90, (2, 9))
    given = model(ids, labels=ids, num_items_in_batch=torch.tensor(16))
    torch.testing.assert_close(given.loss, model(ids, labels=ids).loss)
