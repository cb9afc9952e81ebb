"""How the routers of a sparse decoder spread tokens: what is logged of it, and its picture.

A router that sends everything to a few experts trains the others on nothing; the loss hardly shows
it. Padding is not counted.

Letters: B rows, T tokens, E experts, K chosen experts.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mm1_hf.model.moe_mm1 import choose_experts, valid_tokens

# The numbers of each layer, and of all layers as their mean.
_NUMBERS = ("busiest", "idle", "entropy", "dropped")


class LayerHealth(NamedTuple):
    """How one layer's router spread its tokens.

    Attributes:
        loads: For each expert, how often it was chosen, as a multiple of the average.
        dropped: Share of choices that found no room; 0 without a capacity.
    """

    loads: list[float]
    dropped: float

    @property
    def busiest(self) -> float:
        """Load of the busiest expert; 1 in perfect balance, E / K at most."""
        return max(self.loads)

    @property
    def idle(self) -> float:
        """Share of experts that were never chosen."""
        return sum(load == 0 for load in self.loads) / len(self.loads)

    @property
    def entropy(self) -> float:
        """Entropy of the loads, as a share of that of perfect balance, 1."""
        shares = [load / len(self.loads) for load in self.loads if load > 0]
        return -sum(share * math.log(share) for share in shares) / math.log(len(self.loads))


class RouterMeter:
    """Counts choices since the last log, on this rank.

    Args:
        each_expert: Whether to log the load of each expert too, which is a number per expert and
            sparse layer.
    """

    def __init__(self, *, each_expert: bool = False):
        self.each_expert = each_expert
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._chosen: dict[str, torch.Tensor] = {}
        self._dropped: dict[str, torch.Tensor] = {}

    def add(
        self,
        router_logits: Sequence[torch.Tensor],
        *,
        text_config: Any,
        batch: Mapping[str, Any],
    ) -> None:
        """Count the choices of a batch.

        Args:
            router_logits: For each sparse layer, `(B * T, E)`.
            text_config: Configuration of the decoder.
            batch: Arguments of the forward, with `labels` `(B, T)`.
        """
        labels = batch["labels"]
        shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[..., 1:]
        valid = valid_tokens(
            attention_mask=batch.get("attention_mask"),
            position_ids=batch.get("position_ids"),
            shift_labels=shifted,
            length=labels.shape[-1],
        )
        if valid is None:
            valid = torch.ones_like(labels, dtype=torch.bool)
        names = _layer_names(text_config, len(router_logits))
        for name, logits in zip(names, router_logits, strict=True):
            where = valid.to(logits.device)
            choices = choose_experts(
                logits.detach().float().view(*labels.shape, -1),
                num_chosen=text_config.num_experts_per_tok,
                capacity_factor=getattr(text_config, "router_capacity_factor", None),
                valid=where,
            )
            num_experts = logits.shape[-1]
            counted = torch.bincount(choices.experts[where].flatten(), minlength=num_experts)
            dropped = (~choices.kept[where]).sum()
            self._chosen[name] = self._chosen.get(name, 0) + counted
            self._dropped[name] = self._dropped.get(name, 0) + dropped

    def told(self) -> dict[str, tuple[list[int], int]]:
        """What was counted, as plain data: by layer, choices of each expert and dropped ones."""
        return {
            name: (counts.tolist(), int(self._dropped[name]))
            for name, counts in self._chosen.items()
        }

    def report(self, told: Iterable[dict[str, tuple[list[int], int]]]) -> dict[str, float]:
        """Entries of a log, of what all ranks told.

        Returns:
            For each sparse layer `router/layer_N/busiest`, `…/idle`, `…/entropy`, `…/dropped` (see
            `LayerHealth`), their means over layers as `router/busiest` and so on; with
            `each_expert` also `router/layer_N/expert_M`. Nothing for a dense decoder.
        """
        layers = _add_up(told)
        logs = {}
        for number in _NUMBERS if layers else ():
            found = {name: getattr(layer, number) for name, layer in layers.items()}
            logs[f"router/{number}"] = sum(found.values()) / len(found)
            logs |= {f"router/{name}/{number}": value for name, value in found.items()}
        if self.each_expert:
            for name, layer in layers.items():
                loads = enumerate(layer.loads)
                logs |= {f"router/{name}/expert_{expert}": load for expert, load in loads}
        return logs


def _layer_names(text_config: Any, count: int) -> list[str]:
    """Names of the sparse layers, by their place in the decoder where that is known."""
    kinds = getattr(text_config, "mlp_layer_types", None) or []
    places = [place for place, kind in enumerate(kinds) if kind == "sparse"]
    return [f"layer_{place}" for place in (places if len(places) == count else range(count))]


def _add_up(told: Iterable[dict[str, tuple[list[int], int]]]) -> dict[str, LayerHealth]:
    chosen: dict[str, list[int]] = {}
    dropped: Counter[str] = Counter()
    for one in told:
        for name, (counts, lost) in one.items():
            before = chosen.get(name, [0] * len(counts))
            chosen[name] = [a + b for a, b in zip(before, counts, strict=True)]
            dropped[name] += lost
    return {
        name: LayerHealth(
            [count * len(counts) / sum(counts) for count in counts], dropped[name] / sum(counts)
        )
        for name, counts in chosen.items()
        if sum(counts)
    }


def plot_router_health(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw what was logged of routers: a curve for each sparse layer, and the last loads.

    Args:
        log_history: `trainer.state.log_history`, or that of a saved `trainer_state.json`.
        path: Where the picture goes; its suffix says which kind.

    Returns:
        `path`.

    Raises:
        ValueError: If nothing of routers was logged.
    """
    from matplotlib.figure import Figure

    entries = [entry for entry in log_history if "router/busiest" in entry]
    if not entries:
        raise ValueError(
            "Nothing of routers was logged. Train a sparse decoder (num_experts) with MM1Trainer, "
            "and pass trainer.state.log_history."
        )
    names = _logged_layers(entries[-1])
    loads = [_logged_loads(entries[-1], name) for name in names]
    panels = len(_NUMBERS) + any(loads)
    figure = Figure(figsize=(4 * panels, 3.2), layout="constrained")
    axes = figure.subplots(1, panels)
    steps = [entry["step"] for entry in entries]
    for axis, number in zip(axes, _NUMBERS, strict=False):
        for name in names:
            values = [entry.get(f"router/{name}/{number}", math.nan) for entry in entries]
            axis.plot(steps, values, label=name.replace("_", " "), linewidth=1)
        axis.set(title=number, xlabel="step")
    axes[0].legend(fontsize="x-small")
    if any(loads):
        picture = axes[-1].imshow(loads, aspect="auto", interpolation="nearest", vmin=0)
        axes[-1].set(title=f"load at step {steps[-1]}", xlabel="expert")
        axes[-1].set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        figure.colorbar(picture, ax=axes[-1])
    figure.savefig(path)
    return Path(path)


def _logged_layers(entry: Mapping[str, Any]) -> list[str]:
    parts = [name.split("/") for name in entry if name.startswith("router/layer_")]
    found = {layer for _, layer, number in parts if number == "busiest"}
    return sorted(found, key=lambda layer: int(layer.rpartition("_")[2]))


def _logged_loads(entry: Mapping[str, Any], layer: str) -> list[float]:
    prefix = f"router/{layer}/expert_"
    found = {int(name[len(prefix) :]): load for name, load in entry.items() if prefix in name}
    return [found[expert] for expert in sorted(found)]


__all__ = ["LayerHealth", "RouterMeter", "plot_router_health"]
