"""MM1's sparse feed-forward block: a router, experts, and the losses that keep them busy.

A router in fp32, without bias, sends each token to its best experts (two in MM1); their outputs are
summed, weighted by their probabilities, which are renormalised over the chosen ones. No token is
dropped, unless a capacity is asked for.

Router losses are pure functions of returned router logits and a mask of valid tokens. They are
means over the tokens of a row, and rows are added up by their number of labels: so they, and their
gradients, do not depend on how the rows of a step are spread over passes and ranks.

Letters: B rows, T tokens, N = B * T, D width, I inner width, E experts, K experts of one token.

Source: MM1, arXiv 2403.09611, section 3.4 (top-2, weights of the losses); AXLearn's public top-2
gating for what the paper leaves open. Asking for balance in each row is our choice.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation

from .configuration_mm1 import MM1TextConfig

BalanceDefinition = Literal["first_choice", "all_choices"]


class Choices(NamedTuple):
    """Where tokens go.

    Attributes:
        weights: `(B, T, K)`, fp32: what each expert's output counts; 0 where it was dropped.
        experts: `(B, T, K)`, int64, the best one first.
        kept: `(B, T, K)`, bool: whether the expert had room.
    """

    weights: torch.Tensor
    experts: torch.Tensor
    kept: torch.Tensor


class RouterLosses(NamedTuple):
    """Losses of all sparse layers, scalars in fp32, not yet multiplied by their coefficients."""

    balance: torch.Tensor
    z: torch.Tensor


def choose_experts(
    router_logits: torch.Tensor,
    *,
    num_chosen: int,
    capacity_factor: float | None = None,
    valid: torch.Tensor | None = None,
) -> Choices:
    """Choose the experts of each token.

    With a capacity, an expert takes at most `ceil(capacity_factor * tokens / E)` tokens of a row;
    all first choices are placed before any second choice, early tokens before late ones. A dropped
    choice adds nothing, and the others keep their weights.

    Args:
        router_logits: `(B, T, E)`, fp32.
        num_chosen: K.
        capacity_factor: Room of an expert as a multiple of the average number of tokens; 2.0 just
            holds both choices of perfectly balanced tokens. None: no limit.
        valid: `(B, T)`, false for padding, which takes no room.

    Source: AXLearn's top-2 gating (GShard, arXiv 2006.16668).
    """
    probabilities = router_logits.softmax(-1)
    best, experts = probabilities.topk(num_chosen, dim=-1)
    weights = best / best.sum(-1, keepdim=True)
    if capacity_factor is None:
        return Choices(weights, experts, torch.ones_like(experts, dtype=torch.bool))
    kept = _with_room(
        experts, num_experts=router_logits.shape[-1], factor=capacity_factor, valid=valid
    )
    return Choices(weights * kept, experts, kept)


def _with_room(
    experts: torch.Tensor, *, num_experts: int, factor: float, valid: torch.Tensor | None
) -> torch.Tensor:
    """Which choices `(B, T, K)` find room."""
    rows, length, num_chosen = experts.shape
    if valid is None:
        valid = torch.ones(rows, length, dtype=torch.bool, device=experts.device)
    room = torch.ceil(factor * valid.sum(-1) / num_experts)  # (B,)
    # First choices of all tokens, then second choices.
    in_turn = F.one_hot(experts.transpose(1, 2).reshape(rows, -1), num_experts)
    in_turn = in_turn * valid.repeat(1, num_chosen)[..., None]  # (B, K * T, E)
    place = (in_turn.cumsum(1) * in_turn).sum(-1)  # 1 for the first to come, 0 for padding
    kept = (place > 0) & (place <= room[:, None])
    return kept.view(rows, num_chosen, length).transpose(1, 2)


def balance_loss(
    router_logits: torch.Tensor,
    *,
    num_chosen: int,
    valid: torch.Tensor | None = None,
    definition: BalanceDefinition = "first_choice",
) -> torch.Tensor:
    """How unevenly one layer's tokens are spread over its experts, row by row.

    `E * sum over experts of f * P`, with P the mean probability of an expert, and f the share of
    tokens whose first choice it is (`"first_choice"`: 1 for balanced routing, E if all tokens go to
    one expert for sure), or for which it is among the K choices (`"all_choices"`: K for balanced
    routing, and E at most).

    Args:
        router_logits: `(B, T, E)`.
        num_chosen: K, for `"all_choices"`.
        valid: `(B, T)`, false for tokens that are not counted.
        definition: See above.

    Returns:
        `(B,)`, fp32; 0 for a row without valid tokens.

    Source: GShard, arXiv 2006.16668, and AXLearn for the first; transformers' Mixtral for the
    second. MM1 does not say which one it used: the first is our choice.
    """
    if definition not in get_args(BalanceDefinition):
        known = ", ".join(map(repr, get_args(BalanceDefinition)))
        raise ValueError(f"The balance loss is called {definition!r}, but must be one of: {known}.")
    probabilities = router_logits.float().softmax(-1)
    counted = 1 if definition == "first_choice" else num_chosen
    chosen = router_logits.topk(counted, dim=-1).indices  # (B, T, 1 or K)
    hits = torch.zeros_like(probabilities).scatter_(-1, chosen, 1.0)
    num_experts = router_logits.shape[-1]
    return num_experts * (_row_mean(hits, valid) * _row_mean(probabilities, valid)).sum(-1)


def z_loss(router_logits: torch.Tensor, *, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of `logsumexp(logits)²`, row by row, which keeps the logits small.

    Args:
        router_logits: `(B, T, E)`.
        valid: `(B, T)`, false for tokens that are not counted.

    Returns:
        `(B,)`, fp32.

    Source: ST-MoE, arXiv 2202.08906, section 2.2; MM1, arXiv 2403.09611, section 3.4.
    """
    return _row_mean(router_logits.float().logsumexp(-1).square()[..., None], valid)[..., 0]


def _row_mean(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Mean of `(B, T, X)` over the valid tokens of each row: `(B, X)`."""
    if valid is None:
        return values.mean(1)
    counted = valid.to(values.dtype)[..., None]
    return (values * counted).sum(1) / counted.sum(1).clamp(min=1)


def valid_tokens(
    *,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    shift_labels: torch.Tensor | None,
    length: int,
    ignore_index: int = -100,
) -> torch.Tensor | None:
    """Which tokens a router answers for: not padding.

    With an attention mask, those it shows. In packed rows, which have none, a document begins where
    positions restart at 0, and one without any label is not counted: padding is such a document,
    and any other trains nothing either.

    Args:
        attention_mask: `(B, T)` or wider by what stands in the cache, or None.
        position_ids: `(B, T)`, or None.
        shift_labels: `(B, T)`: the token that follows each position, or None.
        length: T.
        ignore_index: The label that means none.

    Returns:
        `(B, T)`, bool; None if all tokens are valid.
    """
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        return attention_mask[:, -length:].bool()
    if position_ids is None or shift_labels is None or position_ids.shape != shift_labels.shape:
        return None
    document = (position_ids == 0).cumsum(-1).to(shift_labels.device)  # 0: begun in the cache
    labels = (shift_labels != ignore_index).to(torch.int64)
    counts = torch.zeros(len(labels), length + 1, dtype=torch.int64, device=labels.device)
    return counts.scatter_add_(1, document, labels).gather(1, document) > 0


def router_losses(
    router_logits: Sequence[torch.Tensor],
    *,
    num_chosen: int,
    shape: tuple[int, int],
    valid: torch.Tensor | None = None,
    shift_labels: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    definition: BalanceDefinition = "first_choice",
    ignore_index: int = -100,
) -> RouterLosses:
    """Both losses: means over sparse layers, sums over rows weighted by their share of the step.

    A row weighs its labels divided by `num_items_in_batch`, as it does in the next-token loss, so
    that passes and ranks add up to what one large batch would give. Without labels it weighs its
    valid tokens.

    Args:
        router_logits: For each sparse layer, `(B * T, E)`.
        num_chosen: K.
        shape: B and T.
        valid: `(B, T)`; see `valid_tokens`.
        shift_labels: `(B, T)`, or None.
        num_items_in_batch: Labels of the whole step; by default those given here.
        definition: See `balance_loss`.
        ignore_index: The label that means none.
    """
    device = router_logits[0].device
    valid = None if valid is None else valid.to(device)
    if shift_labels is not None:
        weights = (shift_labels.to(device) != ignore_index).sum(-1).float()  # (B,)
    elif valid is not None:
        weights = valid.sum(-1).float()
    else:
        weights = torch.ones(shape[0], device=device)
    if num_items_in_batch is None or shift_labels is None:
        weights = weights / weights.sum().clamp(min=1)
    else:
        whole = torch.as_tensor(num_items_in_batch, device=device)
        weights = weights / whole.clamp(min=1)
    balance, z = weights.new_zeros(()), weights.new_zeros(())
    for layer in router_logits:
        logits = layer.to(device).view(*shape, -1)
        found = balance_loss(logits, num_chosen=num_chosen, valid=valid, definition=definition)
        balance = balance + (weights * found).sum()
        z = z + (weights * z_loss(logits, valid=valid)).sum()
    return RouterLosses(balance / len(router_logits), z / len(router_logits))


class MM1Router(nn.Module):
    """Scores the experts for each token, in fp32 whatever the dtype of the model."""

    def __init__(self, config: MM1TextConfig):
        super().__init__()
        assert config.num_experts is not None
        self.num_chosen = config.num_experts_per_tok
        self.capacity_factor = config.router_capacity_factor
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(
        self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Route tokens `(B, T, D)`.

        A capacity holds in training only: elsewhere what a token becomes would depend on the tokens
        behind it.

        Returns:
            Logits `(N, E)`, fp32; weights and experts of the choices, `(N, K)`.
        """
        with torch.autocast(hidden_states.device.type, enabled=False):
            logits = F.linear(hidden_states.float(), self.weight.float())
        choices = choose_experts(
            logits,
            num_chosen=self.num_chosen,
            capacity_factor=self.capacity_factor if self.training else None,
            valid=token_mask,
        )
        return logits.flatten(0, 1), choices.weights.flatten(0, 1), choices.experts.flatten(0, 1)


@use_experts_implementation
class MM1Experts(nn.Module):
    """The SwiGLU blocks of all experts, stacked into two tensors as transformers expects them."""

    def __init__(self, config: MM1TextConfig):
        super().__init__()
        assert config.num_experts is not None
        self.num_experts = config.num_experts
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(config.num_experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, width, inner))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Run the chosen experts one after the other: the plainest implementation, `"eager"`.

        Args:
            hidden_states: `(N, D)`.
            top_k_index: `(N, K)`; with expert parallelism E stands for experts of other ranks.
            top_k_weights: `(N, K)`.

        Returns:
            `(N, D)`.
        """
        gate: Callable[[torch.Tensor], torch.Tensor] = self._apply_gate  # given by the decorator
        output = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            token, choice = (top_k_index == expert).nonzero(as_tuple=True)
            if not len(token):
                continue
            inner = gate(F.linear(hidden_states[token], self.gate_up_proj[expert]))
            found = F.linear(inner, self.down_proj[expert]) * top_k_weights[token, choice, None]
            output = output.index_add(0, token, found.to(output.dtype))
        return output


class MM1SparseMLP(nn.Module):
    """Sparse feed-forward block: each token passes through K of E experts."""

    def __init__(self, config: MM1TextConfig):
        super().__init__()
        self.gate = MM1Router(config)
        self.experts = MM1Experts(config)

    def forward(
        self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(B, T, D)` to `(B, T, D)`.

        Args:
            hidden_states: `(B, T, D)`.
            token_mask: `(B, T)`, false for padding, which takes no room where room is limited.
        """
        _, weights, experts = self.gate(hidden_states, token_mask)
        return self.experts(hidden_states.flatten(0, 1), experts, weights).view_as(hidden_states)


def init_sparse_weights(module: nn.Module, *, std: float) -> None:
    """Initialise a router or experts; other modules are left alone."""
    if isinstance(module, MM1Router):
        init.normal_(module.weight, mean=0.0, std=std)
    elif isinstance(module, MM1Experts):
        init.normal_(module.gate_up_proj, mean=0.0, std=std)
        init.normal_(module.down_proj, mean=0.0, std=std)


class RouterReport(NamedTuple):
    """What a model with a head returns of its routers.

    Attributes:
        loss: What is added to the next-token loss: a scalar; None out of training.
        balance: See `RouterLosses`; None without router logits.
        z: Likewise.
    """

    loss: torch.Tensor | None = None
    balance: torch.Tensor | None = None
    z: torch.Tensor | None = None


class AnswersForRouters:
    """Mixin of models with an `lm_head`: router logits where they are wanted, and their losses."""

    training: bool

    def routing_inputs(
        self,
        text_config: Any,
        *,
        output_router_logits: bool | None,
        labels: torch.Tensor | None,
        shift_labels: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        ignore_index: int = -100,
    ) -> dict[str, Any]:
        """Arguments for the decoder; none for one without routers.

        Router logits are returned where the caller or the configuration says so, else in training
        with labels. A foreign sparse decoder's configuration always says so or says no.
        """
        if not _num_experts(text_config) or not hasattr(text_config, "output_router_logits"):
            return {}
        supervised = labels is not None or shift_labels is not None
        if output_router_logits is None:
            output_router_logits = text_config.output_router_logits
        if output_router_logits is None:
            output_router_logits = self.training and supervised
        inputs: dict[str, Any] = {"output_router_logits": output_router_logits}
        if self.training and getattr(text_config, "router_capacity_factor", None) is not None:
            shift_labels = _shifted(labels, shift_labels, ignore_index)
            if shift_labels is not None:
                inputs["token_mask"] = valid_tokens(
                    attention_mask=attention_mask,
                    position_ids=position_ids,
                    shift_labels=shift_labels,
                    length=shift_labels.shape[-1],
                    ignore_index=ignore_index,
                )
        return inputs

    def report_routing(
        self,
        text_config: Any,
        router_logits: Sequence[torch.Tensor] | None,
        *,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None,
        shift_labels: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
        ignore_index: int = -100,
    ) -> RouterReport:
        """Losses of the routers, if their logits were returned.

        Raises:
            ValueError: If the logits carry no gradient though a router learns.
        """
        if not router_logits:
            return RouterReport()
        rows, length = hidden_states.shape[:2]
        shift_labels = _shifted(labels, shift_labels, ignore_index)
        losses = router_losses(
            router_logits,
            num_chosen=text_config.num_experts_per_tok,
            shape=(rows, length),
            valid=valid_tokens(
                attention_mask=attention_mask,
                position_ids=position_ids,
                shift_labels=shift_labels,
                length=length,
                ignore_index=ignore_index,
            ),
            shift_labels=shift_labels,
            num_items_in_batch=num_items_in_batch,
            definition=getattr(text_config, "router_balance", "all_choices"),
            ignore_index=ignore_index,
        )
        if not self.training or shift_labels is None:
            return RouterReport(None, *losses)
        self._require_gradient(router_logits)
        coefficients = (
            getattr(text_config, "router_aux_loss_coef", 0.0),
            getattr(text_config, "router_z_loss_coef", 0.0),
        )
        loss = coefficients[0] * losses.balance + coefficients[1] * losses.z
        return RouterReport(loss, *losses)

    def _require_gradient(self, router_logits: Sequence[torch.Tensor]) -> None:
        """Raise if activation checkpointing cut the router logits off from their routers."""
        if not torch.is_grad_enabled() or all(one.requires_grad for one in router_logits):
            return
        assert isinstance(self, nn.Module)
        routers = [one for one in self.modules() if isinstance(one, MM1Router)]
        if any(router.weight.requires_grad for router in routers):
            raise ValueError(
                "The router logits carry no gradient, so the router losses would teach nothing: "
                "re-entrant activation checkpointing hides them. Pass "
                "gradient_checkpointing_kwargs={'use_reentrant': False}."
            )


def _num_experts(text_config: Any) -> int | None:
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((found for name in names if (found := getattr(text_config, name, None))), None)


def _shifted(
    labels: torch.Tensor | None, shift_labels: torch.Tensor | None, ignore_index: int
) -> torch.Tensor | None:
    if shift_labels is not None or labels is None:
        return shift_labels
    return F.pad(labels, (0, 1), value=ignore_index)[..., 1:]


__all__ = [
    "Choices",
    "MM1Experts",
    "MM1Router",
    "MM1SparseMLP",
    "RouterLosses",
    "balance_loss",
    "choose_experts",
    "router_losses",
    "valid_tokens",
    "z_loss",
]
