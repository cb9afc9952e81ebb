"""What the processes of one run tell each other; each function does nothing special for one."""

from typing import TypeVar

import torch
from torch import distributed

Told = TypeVar("Told")


def largest_of_ranks(number: int, *, device: torch.device) -> int:
    """The largest number that any rank passes."""
    if not _are_many():
        return number
    shared = torch.tensor(number, device=device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return int(shared)


def told_by_ranks(mine: Told) -> list[Told]:
    """What every rank passes, in the order of ranks; for small objects, now and then."""
    if not _are_many():
        return [mine]
    told: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, mine)
    return told


def raise_on_all_ranks(error: Exception | None, *, device: torch.device) -> None:
    """Raise, on every rank, the error of the first rank that has one.

    A rank that raised alone would leave the others waiting for it. Costs the exchange of one
    number where there is no error.
    """
    if largest_of_ranks(int(error is not None), device=device):
        raise next(one for one in told_by_ranks(error) if one is not None)


def wait_for_ranks() -> None:
    """Return when every rank is here."""
    if _are_many():
        distributed.barrier()


def _are_many() -> bool:
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )
