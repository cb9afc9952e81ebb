"""The next-token loss, computed only where there is a label and never with whole logits.

Half of MM1's positions are visual tokens, which carry no label; projecting them to the vocabulary
is wasted work. The supervised rest is taken in chunks: logits of a few hundred positions at a time,
turned into gradients on the spot, so that the backward pass finds them ready.

Letters: B batch, T tokens, S supervised positions, D width, V vocabulary.

The idea of gradients in the forward pass is that of Liger Kernel (arXiv 2410.10989), here in plain
PyTorch for any device.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache
from transformers.loss.loss_utils import ForCausalLMLoss

Rescale = Callable[[torch.Tensor], torch.Tensor]


class Prediction(NamedTuple):
    """What a head makes of hidden states.

    Attributes:
        loss: A scalar, with labels.
        logits: `(B, kept, V)`, if wanted.
        token_losses: `(B, T)`, fp32 and without gradient, if wanted: the loss of predicting what
            follows each position, not divided by anything; 0 where there is no label.
    """

    loss: torch.Tensor | None
    logits: torch.Tensor | None
    token_losses: torch.Tensor | None = None


class Losses(NamedTuple):
    """Losses of S positions: their sum, with a gradient, and each, `(S,)`, without."""

    total: torch.Tensor
    each: torch.Tensor


class VocabularyHead(nn.Linear):
    """Linear layer to the vocabulary, which with labels returns their loss in place of logits."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None = None,
        rescale: Rescale | None = None,
    ) -> torch.Tensor | Losses:
        """Project, or project and compare.

        The loss is computed in here, not by whoever holds the weight: FSDP, ZeRO-3 and offloading
        put the weight in place when the module is called, and all ranks of a sharded model must
        call it equally often, however many labels they have.

        Args:
            hidden_states: `(…, D)`; with labels `(S, D)`.
            labels: `(S,)`, already shifted, none to be ignored.
            rescale: What the decoder does to logits before the soft-max.

        Returns:
            Logits `(…, V)`, not rescaled; with labels their losses.
        """
        if labels is None:
            return super().forward(hidden_states)
        return _summed_loss(hidden_states, self.weight, self.bias, labels, rescale)


class PredictsTokens:
    """Mixin of models with an `lm_head`: the loss over chunks, logits where they are wanted."""

    lm_head: nn.Module
    loss_function: Callable
    training: bool

    def set_output_embeddings(self, new_embeddings: nn.Module):
        """Replace `lm_head`; a plain linear layer, as resizing makes it, becomes one of ours."""
        # A hook of accelerate lives in the `forward` of the very module it was put on.
        if type(new_embeddings) is nn.Linear and not hasattr(new_embeddings, "_hf_hook"):
            new_embeddings = _as_vocabulary_head(new_embeddings)
        self.lm_head = new_embeddings

    def part_targets(
        self,
        labels: torch.Tensor | None,
        kwargs: dict,
        *,
        use_cache: bool | None,
        past_key_values: Cache | None,
    ) -> tuple[dict[str, torch.Tensor | None], bool | None]:
        """Labels, shifted or not, and whether to keep a cache beside them.

        `shift_labels` are taken out of `kwargs`: as an argument with a name in `forward` they would
        become one of the labels that `Trainer` demands of every batch.
        """
        targets = {"labels": labels, "shift_labels": kwargs.pop("shift_labels", None)}
        supervised = any(given is not None for given in targets.values())
        if supervised and use_cache is None and past_key_values is None:
            use_cache = False
        return targets, use_cache

    def predict(
        self,
        hidden_states: torch.Tensor,
        *,
        labels: torch.Tensor | None,
        shift_labels: torch.Tensor | None,
        logits_to_keep: int | torch.Tensor,
        skip_logits: bool | None,
        vocab_size: int,
        rescale: Rescale | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_token_losses: bool = False,
        **kwargs,
    ) -> Prediction:
        """Loss and logits of the decoder's last hidden states.

        Args:
            hidden_states: `(B, T, D)`.
            labels: `(B, T)`, not shifted.
            shift_labels: `(B, T)`, shifted already, in place of `labels`.
            logits_to_keep: The last so many positions (0: all), or indices.
            skip_logits: Whether to leave the logits out; by default in training with labels, unless
                `logits_to_keep` names positions.
            vocab_size: V.
            rescale: What the decoder does to logits before the soft-max.
            num_items_in_batch: Labels in the whole batch over which the loss is averaged; by
                default those given here.
            return_token_losses: Whether to return the loss of each token too; a `loss_function` of
                somebody's own has none.
            **kwargs: `ignore_index`, and the arguments of another `loss_function`.

        Raises:
            ValueError: If logits are to be skipped and there is nothing else to compute.
        """
        supervised = labels is not None or shift_labels is not None
        if skip_logits is None:
            skip_logits = self.training and supervised and _means_all(logits_to_keep)
        if skip_logits and not supervised:
            raise ValueError(
                "skip_logits=True without labels leaves nothing to compute. Give labels, or call "
                "the model without its head (model.model) for hidden states alone."
            )
        if supervised and self.loss_function is not ForCausalLMLoss:
            # Somebody's own loss reads whole logits.
            logits = _project(self.lm_head, hidden_states, rescale)
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                shift_labels=shift_labels,
                vocab_size=vocab_size,
                num_items_in_batch=num_items_in_batch,
                **kwargs,
            )
            return Prediction(loss, keep_positions(logits, logits_to_keep))
        logits = None
        if not skip_logits:
            kept = keep_positions(hidden_states, logits_to_keep)
            logits = _project(self.lm_head, kept, rescale)
        if not supervised:
            return Prediction(None, logits)
        ignore_index = kwargs.get("ignore_index", -100)
        if shift_labels is None:
            shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        losses, positions = _supervised_losses(
            self.lm_head,
            hidden_states,
            shift_labels,
            ignore_index=ignore_index,
            rescale=rescale,
            logits=logits if _means_all(logits_to_keep) else None,
        )
        loss = _divide(losses.total, num_items_in_batch, default=len(positions))
        token_losses = None
        if return_token_losses:
            token_losses = losses.each.new_zeros(shift_labels.shape)
            token_losses.view(-1)[positions] = losses.each
        return Prediction(loss, logits, token_losses)


def next_token_loss(
    head: nn.Module,
    hidden_states: torch.Tensor,
    shift_labels: torch.Tensor,
    *,
    ignore_index: int = -100,
    rescale: Rescale | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of the supervised positions, equal to that of whole logits in fp32.

    Without any label the loss is 0, and every gradient is 0 and not missing.

    Args:
        head: The layer that maps `(S, D)` to logits `(S, V)`.
        hidden_states: `(B, T, D)`.
        shift_labels: `(B, T)`: the token that follows each position.
        ignore_index: The label that means none.
        rescale: What the decoder does to logits before the soft-max.
        num_items_in_batch: Divides the sum; by default the number of supervised positions.
        logits: `(B, T, V)`, rescaled, if they exist already: then nothing is projected twice.

    Returns:
        A scalar in fp32.
    """
    losses, positions = _supervised_losses(
        head,
        hidden_states,
        shift_labels,
        ignore_index=ignore_index,
        rescale=rescale,
        logits=logits,
    )
    return _divide(losses.total, num_items_in_batch, default=len(positions))


# The number of rows follows from the data: one graph break here, and all the rest compiles.
@torch.compiler.disable()
def _supervised_losses(
    head: nn.Module,
    hidden_states: torch.Tensor,
    shift_labels: torch.Tensor,
    *,
    ignore_index: int,
    rescale: Rescale | None,
    logits: torch.Tensor | None,
) -> tuple[Losses, torch.Tensor]:
    """Losses of the supervised positions, and where those are in the flat batch, `(S,)`."""
    shift_labels = shift_labels.to(hidden_states.device).flatten()
    positions = (shift_labels != ignore_index).nonzero().flatten()  # (S,)
    targets = shift_labels[positions]
    states = hidden_states if logits is None else logits
    rows = states.flatten(0, -2).index_select(0, positions)  # (S, D) or (S, V)
    if logits is not None:
        losses = _losses_of_logits(rows, targets)
    elif _computes_loss(head):
        losses = head(rows, labels=targets, rescale=rescale)
    else:
        losses = _summed_loss_of_module(head, rows, targets, rescale)
    return losses, positions


def _losses_of_logits(logits: torch.Tensor, targets: torch.Tensor) -> Losses:
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return Losses(losses.sum(), losses.detach())


def _divide(
    loss: torch.Tensor, num_items_in_batch: torch.Tensor | int | None, *, default: int
) -> torch.Tensor:
    if num_items_in_batch is None:
        return loss / max(default, 1)
    if torch.is_tensor(num_items_in_batch):
        num_items = num_items_in_batch.to(loss.device)
        return loss / num_items.masked_fill(num_items == 0, 1)
    return loss / (num_items_in_batch or 1)


def keep_positions(states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Select the positions whose logits are wanted; `(B, T, D)` to `(B, kept, D)`.

    Args:
        states: `(B, T, D)`.
        logits_to_keep: The last so many positions (0: all), or the indices to keep.
    """
    if isinstance(logits_to_keep, int):
        return states[:, -logits_to_keep:] if logits_to_keep else states
    return states[:, logits_to_keep]


def _means_all(logits_to_keep: int | torch.Tensor) -> bool:
    return isinstance(logits_to_keep, int) and logits_to_keep == 0


def _project(head: nn.Module, states: torch.Tensor, rescale: Rescale | None) -> torch.Tensor:
    logits = head(states)
    return logits if rescale is None else rescale(logits)


def _as_vocabulary_head(linear: nn.Linear) -> VocabularyHead:
    """The same parameters in a head of ours."""
    head = VocabularyHead(
        linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
    )
    head.weight, head.bias = linear.weight, linear.bias
    # Otherwise a later `post_init` would fill what was resized with noise.
    head._is_hf_initialized = getattr(linear, "_is_hf_initialized", False)
    return head.train(linear.training)


def _computes_loss(head: nn.Module) -> bool:
    """Whether the head may be called with labels: ours, its weight plain or put in place by FSDP.

    Tensor parallelism gathers the output of a module as if it were logits. Its weights are DTensors
    as FSDP's are, but FSDP changes the class of the module too; attributes tell without an import.
    """
    if not isinstance(head, VocabularyHead):
        return False
    if type(head.weight) in (nn.Parameter, torch.Tensor):
        return True
    mesh = getattr(head.weight, "device_mesh", None)
    return mesh is not None and hasattr(head, "unshard") and "tp" not in (mesh.mesh_dim_names or ())


def _summed_loss_of_module(
    head: nn.Module, rows: torch.Tensor, targets: torch.Tensor, rescale: Rescale | None
) -> Losses:
    """Losses through a head of any kind (LoRA, tensor parallel, quantised).

    Logits are computed again in the backward pass, chunk by chunk. Ranks call a sharded head
    equally often only if there is one chunk, so in a distributed run there is one.
    """

    def compare(rows: torch.Tensor, targets: torch.Tensor) -> Losses:
        return _losses_of_logits(_project(head, rows, rescale), targets)

    chunk = len(rows)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        chunk = _chunk_rows(rows.device)
    pieces = zip(rows.split(max(chunk, 1)), targets.split(max(chunk, 1)), strict=True)
    losses = [checkpoint(compare, *piece, use_reentrant=False) for piece in pieces]
    return Losses(
        torch.stack([one.total for one in losses]).sum(), torch.cat([one.each for one in losses])
    )


def _summed_loss(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    rescale: Rescale | None,
) -> Losses:
    """Losses, in the dtype in which a linear layer would compute here."""
    device = rows.device.type
    dtype = weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        parameters = (rows.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        return Losses(*_SummedLoss.apply(*parameters, targets, rescale, torch.is_grad_enabled()))


def _chunk_rows(device: torch.device) -> int:
    """Positions per chunk: a CPU is fastest while the logits stay in its cache; our choice."""
    return 128 if device.type == "cpu" else 2048


class _SummedLoss(torch.autograd.Function):
    """Sum of cross-entropies whose gradients are computed together with it.

    The gradients are those of the sum; the backward pass scales them, in place, as nobody else
    holds them. That keeps fp16 within range, whatever number the sum is divided by.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, targets, rescale, with_gradients):
        wanted = [with_gradients and needed for needed in ctx.needs_input_grad[:3]]
        # Chunks add up in fp32 at least.
        wide = torch.promote_types(weight.dtype, torch.float32)
        losses = torch.empty(len(rows), dtype=wide, device=rows.device)
        grads = [
            torch.empty_like(rows) if wanted[0] else None,
            torch.zeros_like(weight, dtype=wide) if wanted[1] else None,
            torch.zeros_like(bias, dtype=wide) if wanted[2] else None,
        ]
        chunk = min(_chunk_rows(rows.device), max(len(rows), 1))
        buffer = torch.empty(chunk, len(weight), dtype=wide, device=rows.device)
        for start in range(0, len(rows), chunk):
            piece = slice(start, start + chunk)
            logits = _logits(rows[piece], weight, bias, out=buffer[: len(rows[piece])])
            losses[piece] = _losses_and_gradient_(
                logits, targets[piece], rescale, gradient=any(wanted)
            )
            if not any(wanted):
                continue
            gradient = logits.to(weight.dtype)
            if grads[0] is not None:
                torch.mm(gradient, weight, out=grads[0][piece])
            if grads[1] is not None:
                _accumulate_product_(grads[1], gradient.t(), rows[piece])
            if grads[2] is not None:
                grads[2] += logits.sum(0)
        ctx.dtypes = (rows.dtype, weight.dtype, weight.dtype)
        ctx.gradients = grads
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx, grad_loss, _):
        if ctx.gradients is None:
            raise RuntimeError(
                "The gradients of this loss were handed out already: its backward pass runs once. "
                "Call the model again in place of backward(retain_graph=True)."
            )
        grads, ctx.gradients = ctx.gradients, None
        scaled = [
            None if grad is None else grad.mul_(grad_loss).to(dtype)
            for grad, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None, None


def _logits(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, out: torch.Tensor
) -> torch.Tensor:
    """Logits of one chunk, written into `out`, whose dtype may be wider than the weight's."""
    if out.dtype == weight.dtype:
        torch.mm(rows, weight.t(), out=out)
    else:
        out.copy_(rows @ weight.t())
    return out if bias is None else out.add_(bias)


def _accumulate_product_(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _losses_and_gradient_(
    logits: torch.Tensor, targets: torch.Tensor, rescale: Rescale | None, *, gradient: bool
) -> torch.Tensor:
    """Losses of one chunk `(rows, V)`; its logits are overwritten with the gradient of the sum."""
    scaled = None
    raw = logits
    if rescale is not None:
        with torch.set_grad_enabled(gradient):
            raw = logits.clone().requires_grad_(gradient)
            scaled = rescale(raw)
        logits.copy_(scaled.detach())
    targets = targets[:, None]
    logits.sub_(logits.amax(1, keepdim=True))
    picked = logits.gather(1, targets)
    total = logits.exp_().sum(1, keepdim=True)
    if gradient:
        logits.div_(total).scatter_add_(1, targets, logits.new_full(targets.shape, -1.0))
        if scaled is not None:
            logits.copy_(torch.autograd.grad(scaled, raw, logits)[0])
    return (total.log() - picked).squeeze(1)


__all__ = ["PredictsTokens", "VocabularyHead", "keep_positions", "next_token_loss"]
