"""Sums over the steps between two logs, and what is logged of them.

Everything is kept as sums and counts, of this rank, and added up over ranks before anything is
divided: so accumulation, uneven batches and many ranks give what one large batch would. Losses stay
on their device until a log asks for them.

Letters: B rows, T tokens, G sources.
"""

import inspect
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import nn

from mm1_hf.data.collators import PackedBatch
from mm1_hf.training.flop_meter import num_targets, num_tokens
from mm1_hf.training.ranks import told_by_ranks
from mm1_hf.training.router_health import RouterMeter

ShareOf = Literal["tokens", "pieces", "sequences"]

SHARES_OF: tuple[str, ...] = get_args(ShareOf)


class TrainingMeter:
    """What happened since the last log.

    Args:
        share_of: What the shares of sources are counted in: `"tokens"`, `"pieces"` (documents and
            parts of them), or `"sequences"` (a pack counts for each of its sources).
        peak_flops: Operations per second that one device could do at best, in the precision of the
            run; without it there is no `mfu`.
        each_expert: Whether to report the load of each expert too.

    Raises:
        ValueError: If `share_of` is unknown.
    """

    def __init__(
        self,
        *,
        share_of: ShareOf = "tokens",
        peak_flops: float | None = None,
        each_expert: bool = False,
    ):
        if share_of not in SHARES_OF:
            known = ", ".join(map(repr, SHARES_OF))
            raise ValueError(f"share_of is {share_of!r}, but it must be one of: {known}.")
        self.share_of: ShareOf = share_of
        self.peak_flops = peak_flops
        self.router = RouterMeter(each_expert=each_expert)
        self.reset()

    def reset(self) -> None:
        """Forget everything, and stop the clock."""
        self._sources: list[str] = []
        self._started: float | None = None
        self._is_paused = False
        self._forget()

    def start(self) -> None:
        """Start the clock, unless it runs."""
        if self._started is None:
            self._started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside (saving, evaluating) out of the time, once."""
        if self._is_paused:
            yield
            return
        begin = time.perf_counter()
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False
            if self._started is not None:
                self._started += time.perf_counter() - begin

    def add_batch(self, batch: Mapping[str, Any], *, flops: float) -> None:
        """Count a batch: by source if it is a `PackedBatch`.

        Args:
            batch: Arguments of the forward.
            flops: Operations of its forward and backward.
        """
        self._sums["flops"] += flops
        self._sums["tiles"] += len(batch.get("pixel_values", ()))
        origins = batch.origins if isinstance(batch, PackedBatch) else ()
        if not origins:
            self._sums["tokens"] += num_tokens(batch)
            self._sums["targets"] += num_targets(batch)
        for origin in origins:
            self._sums["tokens"] += origin.tokens
            self._sums["images"] += origin.images or 0
            self._sums["packs_without_image_count"] += origin.images is None
            for source in {piece.source for piece in origin.pieces}:
                self._by_source[source, "sequences"] += 1
            for piece in origin.pieces:
                self._sums["targets"] += piece.targets
                self._by_source[piece.source, "pieces"] += 1
                self._by_source[piece.source, "tokens"] += piece.tokens
                self._by_source[piece.source, "targets"] += piece.targets

    def add_losses(self, batch: PackedBatch, token_losses: torch.Tensor) -> None:
        """Add up losses by source.

        Args:
            batch: The batch.
            token_losses: `(B, T)`: the loss of predicting the following token, 0 without a label.
        """
        seen = {piece.source for origin in batch.origins for piece in origin.pieces}
        self._sources += sorted(seen - set(self._sources))
        ids = batch.source_ids(self._sources).roll(-1, dims=-1).flatten()  # of the token predicted
        ids = ids.to(token_losses.device, non_blocking=True)
        sums = token_losses.new_zeros(len(self._sources) + 1, dtype=torch.float32)
        # The last place takes what has no source, -1.
        sums.index_add_(0, ids.remainder(len(sums)), token_losses.detach().flatten().float())
        missing = len(self._sources) - len(self._losses)
        losses = torch.cat([self._losses.to(sums.device), sums.new_zeros(missing)])
        self._losses = losses + sums[:-1]

    def report(self) -> dict[str, float]:
        """What all ranks counted since the last call, as entries of a log; all ranks must call it.

        Returns:
            `tokens_per_second`, `supervised_tokens_per_second`, `tiles_per_second`,
            `images_per_second` where packs know their images, `mfu` where the peak is known; for
            every source `loss/NAME` (mean over its supervised tokens), `tokens/NAME`,
            `supervised_tokens/NAME` and `share/NAME`; of a sparse decoder what `RouterMeter.report`
            lists.
        """
        now = time.perf_counter()
        mine = {
            "seconds": now - (now if self._started is None else self._started),
            "sums": {name: float(value) for name, value in self._sums.items()},
            "by_source": self._by_source,
            "losses": dict(zip(self._sources, self._losses.tolist(), strict=False)),
            "routed": self.router.told(),
        }
        told = told_by_ranks(mine)
        self._started = now
        self._forget()
        routed = self.router.report(one["routed"] for one in told)
        return self._speeds(told) | self._by_sources(told) | routed

    def _speeds(self, told: list[dict]) -> dict[str, float]:
        seconds = max(one["seconds"] for one in told)
        sums = _total(one["sums"] for one in told)
        if seconds <= 0:
            return {}
        speeds = {
            "tokens_per_second": sums["tokens"] / seconds,
            "supervised_tokens_per_second": sums["targets"] / seconds,
            "tiles_per_second": sums["tiles"] / seconds,
        }
        if "images" in sums and not sums["packs_without_image_count"]:
            speeds["images_per_second"] = sums["images"] / seconds
        if self.peak_flops is not None:
            speeds["mfu"] = sums["flops"] / seconds / self.peak_flops / len(told)
        return speeds

    def _by_sources(self, told: list[dict]) -> dict[str, float]:
        counts = _total(one["by_source"] for one in told)
        losses = _total(one["losses"] for one in told)
        names = sorted({source for source, _ in counts})
        whole = sum(counts[name, self.share_of] for name in names)
        logs = {}
        for name in names:
            if name in losses and counts[name, "targets"]:
                logs[f"loss/{name}"] = losses[name] / counts[name, "targets"]
            logs[f"tokens/{name}"] = counts[name, "tokens"]
            logs[f"supervised_tokens/{name}"] = counts[name, "targets"]
            logs[f"share/{name}"] = counts[name, self.share_of] / whole
        return logs

    def _forget(self) -> None:
        self._sums: Any = Counter()  # of numbers, also on a device
        self._by_source: Counter[tuple[str, str]] = Counter()
        self._losses = torch.zeros(0)
        self.router.forget()


def tells_token_losses(model: nn.Module) -> bool:
    """Whether the forward of an MM1, also inside wrappers, can return the loss of every token."""
    forwards = (type(one).forward for one in model.modules() if "lm_head" in one._modules)
    return any("return_token_losses" in inspect.signature(one).parameters for one in forwards)


def rates_beside(logs: Mapping[str, float], optimizer: Any) -> dict[str, float]:
    """`learning_rate/PART` of every part whose rate is not the one that `Trainer` logs."""
    first, *others = optimizer.param_groups
    if "learning_rate" not in logs or not (base := first.get("initial_lr", first["lr"])):
        return {}
    # The scheduler, which scales all groups alike, has moved on since that one was read.
    scales = {
        group["name"].partition(".")[0]: group.get("initial_lr", group["lr"]) / base
        for group in others
        if "name" in group
    }
    return {
        f"learning_rate/{part}": logs["learning_rate"] * scale
        for part, scale in scales.items()
        if scale != 1
    }


def _total(counters: Iterable[Mapping]) -> Counter:
    total: Counter = Counter()
    for counter in counters:
        total.update(counter)
    return total
