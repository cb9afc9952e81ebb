"""What a run takes before it starts: tokens, operations, memory, days, money."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedConfig

from mm1_hf.model.configuration_mm1 import MM1Config, image_height_width
from mm1_hf.model.tiling_mm1 import num_image_tokens, plan_tiles
from mm1_hf.planning.flops import FlopCount, FlopModel, Recompute, flop_model
from mm1_hf.planning.holdings import Layout, Optimizer, Precision
from mm1_hf.planning.memory import TrainingMemory, training_memory
from mm1_hf.planning.parameters import ParameterCount, count_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator.

    Attributes:
        peak_flops: Operations per second of dense bf16 matrix products, without sparsity.
        memory: Bytes.
    """

    peak_flops: float
    memory: float


# Source: NVIDIA's data sheets of the SXM versions.
DEVICES = {
    "a100": Device(peak_flops=312e12, memory=80e9),
    "h100": Device(peak_flops=989e12, memory=80e9),
    "h200": Device(peak_flops=989e12, memory=141e9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a run reads; the defaults are MM1's pre-training.

    Attributes:
        steps: Optimizer steps.
        sequences_per_step: Sequences of one step, over all devices.
        sequence_length: Tokens of a sequence, visual tokens included.
        tiles_per_sequence: Tiles of a sequence, on average. `None` means that half of the positions
            are visual tokens: MM1's million of each per step (as reported; not re-verified).
        supervised_per_sequence: Positions with a label, on average. `None` means all that are no
            visual tokens.
        document_lengths: Tokens of the packed documents of a typical sequence; they sum up to
            `sequence_length`. `None` means one document, the dearest case.

    Source: MM1, arXiv 2403.09611, section 3.3.
    """

    steps: int = 200_000
    sequences_per_step: int = 512
    sequence_length: int = 4096
    tiles_per_sequence: float | None = None
    supervised_per_sequence: float | None = None
    document_lengths: tuple[int, ...] | None = None

    def tiles(self, num_image_tokens: int) -> float:
        """Tiles of a sequence, on average."""
        if self.tiles_per_sequence is not None:
            return self.tiles_per_sequence
        return self.sequence_length / 2 / num_image_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCost:
    """What one image takes.

    Attributes:
        tiles: Tiles it is cut into, an overview included.
        tokens: Positions it takes in the sequence.
        flops: Operations of vision tower and connector in a forward.
    """

    tiles: int
    tokens: int
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run takes.

    Attributes:
        parameters: Parameters, part by part.
        flops_per_step: Operations of one optimizer step, without recomputation.
        recomputed_per_step: Operations of the same step with recomputation.
        tokens: Tokens of the whole run, visual tokens included.
        tiles: Tiles of the whole run.
        accumulation: Forwards of each device per optimizer step.
        memory: Memory of one device.
        device_memory: Memory that one device has, in bytes.
        step_seconds: Time of a step.
        days: Time of the run.
        device_hours: Time of the run, over all devices.
        cost: Price of the run in the currency of the price given; `None` without one.
    """

    parameters: ParameterCount
    flops_per_step: FlopCount
    recomputed_per_step: float
    tokens: float
    tiles: float
    accumulation: int
    memory: TrainingMemory
    device_memory: float
    step_seconds: float
    days: float
    device_hours: float
    cost: float | None

    @property
    def fits(self) -> bool:
        """Whether the peak is at most 90 % of the device's memory; the margin is our choice."""
        return self.memory.peak <= 0.9 * self.device_memory

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        derived = {
            "parameters": self.parameters.to_dict(),
            "flops_per_step": asdict(self.flops_per_step) | {"total": self.flops_per_step.total},
            "fits": self.fits,
        }
        return asdict(self) | derived

    def table(self) -> str:
        """The plan as a table to read."""
        count, memory, step = self.parameters, self.memory, self.flops_per_step
        rows = [("parameters", _billions(count.total), "")]
        for name in ("vision_tower", "connector", "language_model", "lm_head"):
            part = getattr(count, name)
            share = f"{getattr(step, name) / step.total:.1%} of the operations"
            rows.append((f"  {name}", _billions(part.total), share))
        if count.active != count.total:
            rows.append(("  active per token", _billions(count.active), ""))
        rows += [
            ("tokens", f"{self.tokens / 1e9:.4g} B", "visual tokens included"),
            ("tiles", f"{self.tiles / 1e9:.4g} B", ""),
            ("operations per step", f"{step.total / 1e15:.4g} PFLOP", _recomputation(self)),
            ("operations of the run", f"{step.total * self._steps / 1e21:.4g} ZFLOP", ""),
            ("memory of a device", _gigabytes(memory.peak), self._verdict()),
        ]
        for name, size in memory.to_dict().items():
            if size and name != "peak":
                rows.append((f"  {name.replace('_', ' ')}", _gigabytes(size), ""))
        rows += [
            ("forwards per step", str(self.accumulation), "of each device"),
            ("time of a step", f"{self.step_seconds:.3g} s", ""),
            ("time of the run", f"{self.days:.4g} days", f"{self.device_hours:,.0f} device hours"),
        ]
        if self.cost is not None:
            rows.append(("cost", f"{self.cost:,.0f}", "in the currency of the price"))
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines = (f"{name:<{first}}  {value:>{second}}  {note}" for name, value, note in rows)
        return "\n".join(line.rstrip() for line in lines)

    @property
    def _steps(self) -> float:
        return self.days * 86_400 / self.step_seconds

    def _verdict(self) -> str:
        word = "fits into" if self.fits else "does NOT fit into"
        return f"{word} {_gigabytes(self.device_memory)}"


def image_cost(
    config: MM1Config,
    *,
    height: int,
    width: int,
    tiling: str = "none",
    tile_size: tuple[int, int] | None = None,
    costs: FlopModel | None = None,
) -> ImageCost:
    """What an image of `height` x `width` pixels takes.

    Args:
        config: The model.
        height: Height of the upright image in pixels.
        width: Width of the upright image in pixels.
        tiling: How images are cut; see `tiling_mm1.plan_tiles`.
        tile_size: Height and width of a tile in pixels; `None` means the tower's own.
        costs: The model's costs, if they are worked out already.
    """
    assert isinstance(config.vision_config, PreTrainedConfig)
    costs = costs or flop_model(config, tile_size=tile_size)
    tile_height, tile_width = tile_size or image_height_width(config.vision_config)
    tiles = plan_tiles(
        height, width, tile_height=tile_height, tile_width=tile_width, tiling=tiling
    ).num_tiles
    return ImageCost(
        tiles=tiles,
        tokens=num_image_tokens(tiles, costs.num_image_tokens),
        flops=tiles * (costs.tile.forward + costs.connection.forward),
    )


def plan_run(
    config: MM1Config,
    *,
    workload: Workload | None = None,
    device: Device = DEVICES["h100"],
    layout: Layout | None = None,
    mfu: float = 0.4,
    price_per_hour: float | None = None,
    sequences_per_device: int = 1,
    precision: Precision = "autocast",
    optimizer: Optimizer = "adamw",
    frozen: Collection[str] = (),
    recompute: Recompute = "nothing",
    tile_size: tuple[int, int] | None = None,
) -> Plan:
    """Work out what a run takes.

    Args:
        config: The model.
        workload: What it reads; `None` means MM1's pre-training.
        device: The accelerator.
        layout: How many of them, and how the model lies on them; `None` means one.
        mfu: Model FLOPs utilisation: operations of the model, without recomputation, per second, as
            a share of the peak. The default is our choice; measure your own.
        price_per_hour: Price of one device for an hour.
        sequences_per_device: Sequences that a data-parallel device sees at once.
        precision: See `training_memory`.
        optimizer: See `training_memory`.
        frozen: Names of `PARTS` that are not trained.
        recompute: `"layers"` means gradient checkpointing. It saves memory; the time it takes lies
            in the MFU that you reach with it.
        tile_size: Height and width of a tile in pixels; `None` means the tower's own.

    Raises:
        ValueError: If a number is out of range, or the batch does not divide.
    """
    workload, layout = workload or Workload(), layout or Layout()
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is {mfu}, but it is a share of the peak: give it as 0.4 for 40 %.")
    accumulation = _accumulation(workload, layout, sequences_per_device)
    costs = flop_model(config, tile_size=tile_size)
    tiles = workload.tiles(costs.num_image_tokens)
    plain, recomputed = (
        _step_flops(costs, workload, tiles=tiles, frozen=frozen, recompute=kind)
        for kind in ("nothing", recompute)
    )
    supervised = workload.supervised_per_sequence
    memory = training_memory(
        config,
        num_tiles=round(tiles * sequences_per_device),
        num_sequences=sequences_per_device,
        sequence_length=workload.sequence_length,
        num_supervised=None if supervised is None else round(supervised * sequences_per_device),
        precision=precision,
        optimizer=optimizer,
        layout=layout,
        frozen=frozen,
        recompute=recompute,
        accumulation=accumulation,
        tile_size=tile_size,
    )
    seconds = plain.total / (layout.devices * device.peak_flops * mfu)
    hours = seconds * workload.steps / 3600
    sequences = workload.steps * workload.sequences_per_step
    return Plan(
        parameters=count_parameters(config),
        flops_per_step=plain,
        recomputed_per_step=recomputed.total,
        tokens=sequences * workload.sequence_length,
        tiles=sequences * tiles,
        accumulation=accumulation,
        memory=memory,
        device_memory=device.memory,
        step_seconds=seconds,
        days=hours / 24,
        device_hours=hours * layout.devices,
        cost=None if price_per_hour is None else hours * layout.devices * price_per_hour,
    )


def _accumulation(workload: Workload, layout: Layout, sequences_per_device: int) -> int:
    """Forwards of each device in one step."""
    at_once = sequences_per_device * layout.data_parallel
    accumulation, left = divmod(workload.sequences_per_step, at_once)
    if left or not accumulation:
        raise ValueError(
            f"A step of {workload.sequences_per_step} sequences cannot be divided into forwards of "
            f"{at_once} ({layout.data_parallel} data-parallel devices with {sequences_per_device} "
            "each). Change the devices, the sequences per device or the batch."
        )
    return accumulation


def _step_flops(
    costs: FlopModel,
    workload: Workload,
    *,
    tiles: float,
    frozen: Collection[str],
    recompute: Recompute,
) -> FlopCount:
    lengths: Sequence[int] = workload.document_lengths or (workload.sequence_length,)
    supervised = workload.supervised_per_sequence
    sequence = costs.training(
        num_tokens=workload.sequence_length,
        num_tiles=tiles,
        num_supervised=supervised,
        document_lengths=lengths,
        frozen=frozen,
        recompute=recompute,
    )
    return sequence.times(workload.sequences_per_step)


def _recomputation(plan: Plan) -> str:
    extra = plan.recomputed_per_step / plan.flops_per_step.total - 1
    return f"and {extra:.0%} more for recomputation" if extra else ""


def _billions(count: int) -> str:
    return f"{count / 1e9:.3f} B" if count >= 1e8 else f"{count / 1e6:.3f} M"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


__all__ = ["DEVICES", "Device", "ImageCost", "Plan", "Workload", "image_cost", "plan_run"]
