"""Experts on a CPU: tokens sorted by expert, one matrix product after the other.

An implementation of transformers' experts interface, called `"sorted_mm"`, and the default of MM1's
sparse decoders. On other devices, under `torch.compile` and with expert parallelism it is
transformers' `"grouped_mm"`.

The time of a step goes into reading all experts' weights, and into the first touch of as much fresh
memory for their gradients. So weights are read once in each direction, each expert's activations
stay in the cache, and where a gradient buffer exists (gradient accumulation, or
`zero_grad(set_to_none=False)`) the products are added into it in place.

Letters: N tokens, K experts of one token, S = N * K, D width, I inner width, E experts.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

SORTED_MM = "sorted_mm"


def register_sorted_mm() -> None:
    """Make `"sorted_mm"` known to transformers."""
    ALL_EXPERTS_FUNCTIONS.register(SORTED_MM, sorted_mm_experts_forward)


def sorted_mm_experts_forward(
    self: nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Run the chosen experts of each token.

    Args:
        self: Experts with `gate_up_proj` `(E, 2I, D)` and `down_proj` `(E, D, I)`.
        hidden_states: `(N, D)`.
        top_k_index: `(N, K)`.
        top_k_weights: `(N, K)`.

    Returns:
        `(N, D)`.
    """
    gate_up, down = self.gate_up_proj, self.down_proj
    assert isinstance(gate_up, torch.Tensor) and isinstance(down, torch.Tensor)
    if not _is_plain(self, hidden_states, gate_up, down):
        grouped_mm = ALL_EXPERTS_FUNCTIONS["grouped_mm"]
        return grouped_mm(self, hidden_states, top_k_index, top_k_weights)
    experts = top_k_index.flatten()
    order = experts.argsort(stable=True)
    counts = experts.bincount(minlength=len(gate_up)).tolist()
    with torch.autocast("cpu", enabled=False):
        output = _SortedExperts.apply(
            hidden_states.to(gate_up.dtype),
            gate_up,
            down,
            top_k_weights.flatten()[order].to(gate_up.dtype),
            order,
            counts,
            torch.is_grad_enabled(),
        )
    return output.to(hidden_states.dtype)


def _is_plain(experts: nn.Module, *tensors: torch.Tensor) -> bool:
    """Whether this is a CPU without anything that has to see through the loop."""
    return (
        not torch.compiler.is_compiling()
        and tensors[0].shape[0] > 0
        and not getattr(experts, "_is_expert_parallel", False)
        and getattr(getattr(experts, "config", None), "hidden_act", None) == "silu"
        and all(
            one.device.type == "cpu" and type(one) in (torch.Tensor, nn.Parameter)
            for one in tensors
        )
    )


class _SortedExperts(torch.autograd.Function):
    """SwiGLU experts, their weighted sum, and all gradients."""

    @staticmethod
    def forward(ctx, states, gate_up, down, weights, order, counts, keeps):
        num_chosen = len(order) // len(states)
        keeps = keeps and any(ctx.needs_input_grad[:4])
        rows = states.index_select(0, order // num_chosen)  # (S, D)
        largest, inner = max(counts), down.shape[-1]
        projected = rows.new_empty(len(rows) if keeps else largest, 2 * inner)
        active = rows.new_empty(largest, inner)
        output = torch.empty_like(rows)
        for expert, piece in _pieces(counts):
            size = piece.stop - piece.start
            inside = projected[piece] if keeps else projected[:size]
            torch.mm(rows[piece], gate_up[expert].t(), out=inside)
            gate, up = inside.chunk(2, -1)
            torch.mul(F.silu(gate), up, out=active[:size])
            torch.mm(active[:size], down[expert].t(), out=output[piece])
        if keeps:
            ctx.save_for_backward(rows, gate_up, down, weights, order, projected)
            ctx.counts = counts
        return _by_token(output.mul_(weights[:, None]), order, num_chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        rows, gate_up, down, weights, order, projected = ctx.saved_tensors
        num_chosen = len(order) // len(grad_output)
        needs = ctx.needs_input_grad
        grad_gate_up, owns_gate_up = _gradient_of(gate_up, needed=needs[1], counts=ctx.counts)
        grad_down, owns_down = _gradient_of(down, needed=needs[2], counts=ctx.counts)
        grad_rows, grad_weights = torch.empty_like(rows), torch.empty_like(weights)
        largest, inner = max(ctx.counts), down.shape[-1]
        buffers = rows.new_empty(3, largest, inner)
        inside_buffer = rows.new_empty(largest, 2 * inner)
        grads = grad_output.index_select(0, order // num_chosen)  # (S, D)
        for expert, piece in _pieces(ctx.counts):
            size = piece.stop - piece.start
            grad, weight = grads[piece], weights[piece, None]
            gate, up = projected[piece].chunk(2, -1)
            grad_active, sigmoid, active = buffers[:, :size]
            grad_inside = inside_buffer[:size]
            grad_gate, grad_up = grad_inside.chunk(2, -1)
            torch.mm(grad, down[expert], out=grad_active)
            torch.sigmoid(gate, out=sigmoid)
            torch.mul(gate, sigmoid, out=grad_gate)  # silu
            torch.mul(grad_gate, up, out=active)
            torch.linalg.vecdot(grad_active, active, out=grad_weights[piece])
            grad_active *= weight
            torch.mul(grad_gate, grad_active, out=grad_up)
            # The slope of silu: sigmoid + silu * (1 - sigmoid).
            grad_gate.addcmul_(grad_gate, sigmoid, value=-1).add_(sigmoid)
            grad_gate.mul_(up).mul_(grad_active)
            if grad_down is not None:
                grad.mul_(weight)
                _put_product(grad_down[expert], grad.t(), active, add=not owns_down)
            if grad_gate_up is not None:
                _put_product(
                    grad_gate_up[expert], grad_inside.t(), rows[piece], add=not owns_gate_up
                )
            torch.mm(grad_inside, gate_up[expert], out=grad_rows[piece])
        return (
            _by_token(grad_rows, order, num_chosen) if needs[0] else None,
            grad_gate_up if owns_gate_up else None,
            grad_down if owns_down else None,
            grad_weights,
            None,
            None,
            None,
        )


def _pieces(counts: list[int]) -> list[tuple[int, slice]]:
    """Experts that were chosen, and their rows among the sorted ones."""
    pieces, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            pieces.append((expert, slice(start, start + count)))
        start += count
    return pieces


def _by_token(rows: torch.Tensor, order: torch.Tensor, num_chosen: int) -> torch.Tensor:
    """Sum of the K rows of each token: `(S, D)`, sorted by expert, to `(N, D)`."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return rows.index_select(0, place).view(-1, num_chosen, rows.shape[-1]).sum(1)


def _put_product(
    target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, add: bool
) -> None:
    if add:
        target.addmm_(left, right)
    else:
        torch.mm(left, right, out=target)


def _gradient_of(
    weight: torch.Tensor, *, needed: bool, counts: list[int]
) -> tuple[torch.Tensor | None, bool]:
    """Where a weight's gradient goes, and whether that is ours to hand out (or the weight's own).

    Added into in place is a gradient that nobody watches: hooks, as distributed training sets them,
    would not see it.
    """
    if not needed:
        return None, False
    if _may_add_to_gradient(weight):
        return weight.grad, False
    gradient = torch.empty_like(weight)
    for expert, count in enumerate(counts):
        if not count:
            gradient[expert].zero_()
    return gradient, True


def _may_add_to_gradient(weight: torch.Tensor) -> bool:
    grad = weight.grad if weight.is_leaf else None
    if grad is None or grad.dtype != weight.dtype or not grad.is_contiguous():
        return False
    if grad.requires_grad:
        return False
    if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
        return False
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return False
    try:
        # Raises for leaves under `torch.autograd.grad`, which leaves `.grad` alone.
        return torch._C._will_engine_execute_node(torch.autograd.graph.get_gradient_edge(weight)[0])
    except RuntimeError:
        return False


__all__ = ["SORTED_MM", "register_sorted_mm", "sorted_mm_experts_forward"]
