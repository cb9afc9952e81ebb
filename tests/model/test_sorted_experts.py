"""`sorted_mm` has the values and gradients of the plain implementation, in all circumstances."""

import pytest
import torch
from torch import nn

from mm1_hf import MM1ForCausalLM
from mm1_hf.model import sorted_experts_mm1
from mm1_hf.model.moe_mm1 import MM1Experts

from . import tiny


def make_experts(**changes) -> MM1Experts:
    experts = MM1Experts(tiny.text_config(num_experts=4, moe_every_n_layers=1, **changes))
    experts.config._experts_implementation = "sorted_mm"
    for weight in experts.parameters():
        nn.init.normal_(weight, std=0.3)
    return experts


def routed(tokens: int = 11, *, only: int = 4) -> list[torch.Tensor]:
    """States, two different experts below `only` for each token, and weights."""
    index = torch.stack([torch.randperm(only)[:2] for _ in range(tokens)])
    weights = torch.rand(tokens, 2).requires_grad_()
    return [torch.randn(tokens, 24).requires_grad_(), index, weights]


def gradients(experts: MM1Experts, inputs: list[torch.Tensor], implementation: str):
    experts.config._experts_implementation = implementation
    output = experts(*inputs)
    leaves = [inputs[0], inputs[2], *experts.parameters()]
    return output, torch.autograd.grad((output**2).sum(), leaves)


@pytest.mark.parametrize("only", [4, 2])
@pytest.mark.parametrize("tokens", [1, 11])
def test_it_is_the_plain_implementation_also_where_experts_have_nothing_to_do(tokens, only):
    experts, inputs = make_experts(), routed(tokens, only=only)
    found = gradients(experts, inputs, "sorted_mm")
    expected = gradients(experts, inputs, "eager")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if only == 2:
        assert (found[1][2][2:] == 0).all()


def test_reading_gives_what_training_gives():
    experts, inputs = make_experts(), routed()
    expected = experts(*inputs)
    with torch.no_grad():
        assert torch.equal(experts(*inputs), expected)


def test_bf16_is_near_fp32():
    experts, inputs = make_experts(), routed()
    expected = experts(*inputs)
    found = experts.bfloat16()(inputs[0].bfloat16(), *inputs[1:])
    assert found.dtype == torch.bfloat16
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 0.02


@pytest.mark.parametrize("watched", [False, True])
def test_gradients_add_up_over_passes(watched):
    experts = make_experts()
    seen = []
    if watched:
        for weight in experts.parameters():
            weight.register_hook(lambda grad: seen.append(grad))
    passes = [routed(), routed(), routed()]
    expected = [torch.zeros_like(weight) for weight in experts.parameters()]
    for inputs in passes:
        found = gradients(experts, inputs, "eager")[1][2:]
        expected = [one + other for one, other in zip(expected, found, strict=True)]
    seen.clear()
    experts.config._experts_implementation = "sorted_mm"
    for inputs in passes:
        (experts(*inputs) ** 2).sum().backward()
    found = [weight.grad for weight in experts.parameters()]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # A hook sees the gradient of every pass.
    assert len(seen) == (6 if watched else 0)


def test_a_second_pass_adds_into_the_gradient_in_place(monkeypatch):
    experts = make_experts()
    (experts(*routed()) ** 2).sum().backward()
    made = []
    original = sorted_experts_mm1._gradient_of
    monkeypatch.setattr(
        sorted_experts_mm1,
        "_gradient_of",
        lambda *args, **kwargs: made.append(original(*args, **kwargs)) or made[-1],
    )
    (experts(*routed()) ** 2).sum().backward()
    assert [owns for _, owns in made] == [False, False]
    assert made[0][0] is experts.gate_up_proj.grad


def test_asking_for_gradients_leaves_those_of_parameters_alone():
    experts, inputs = make_experts(), routed()
    (experts(*inputs) ** 2).sum().backward()
    before = [weight.grad.clone() for weight in experts.parameters()]
    found = gradients(experts, inputs, "sorted_mm")[1][2:]
    torch.testing.assert_close(list(found), before)
    assert all(torch.equal(w.grad, b) for w, b in zip(experts.parameters(), before, strict=True))


def test_frozen_experts_pass_gradients_on():
    experts, inputs = make_experts(), routed()
    expected = gradients(experts, inputs, "eager")[1]
    experts.requires_grad_(False)
    experts.config._experts_implementation = "sorted_mm"
    (experts(*inputs) ** 2).sum().backward()
    found = (inputs[0].grad, inputs[2].grad)
    torch.testing.assert_close(found, expected[:2], atol=1e-5, rtol=1e-5)
    assert all(weight.grad is None for weight in experts.parameters())


def test_it_is_the_default_of_our_decoders_and_another_activation_falls_back():
    config = tiny.text_config(num_experts=4, moe_every_n_layers=1)
    assert MM1ForCausalLM(config).config._experts_implementation == "sorted_mm"
    experts, inputs = make_experts(hidden_act="gelu"), routed()
    found, expected = (gradients(experts, inputs, kind) for kind in ("sorted_mm", "eager"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
