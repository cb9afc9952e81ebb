"""Floating-point operations of a forward and of a training step, from the configuration.

Counted is what any implementation has to do: matrix products and attention. Every weight of a
matrix costs one multiplication and one addition for each position it sees; how many positions that
is in the vision tower and the connector is asked of a forward on the meta device, so foreign towers
and connectors of your own are counted too.

Conventions. (1) A multiplication and an addition are two operations. (2) Norms, activations,
soft-max, pooling and rotations are left out: they are below 1 %. (3) Attention in the decoder
counts the pairs that a causal kernel computes inside each document; `attention="square"` counts
all pairs of a document, as `torch.utils.flop_counter` and many published figures do.
(4) Recomputation counts only if asked for, so that by default the result is "model FLOPs", the
numerator of MFU. (5) The black tile that a text-only batch sees is not counted: it teaches nothing.

Letters: P patches of a tile, S positions of the vision tower (P and its prefix tokens), K visual
tokens of a tile, T tokens, L tokens of one document.
"""

import functools
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from transformers import PreTrainedConfig

from mm1_hf.model.configuration_mm1 import MM1Config, image_height_width
from mm1_hf.planning.parameters import PARTS, active_share, build_on_meta, part_modules

Attention = Literal["causal", "square"]
Recompute = Literal["nothing", "layers"]

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
# Connectors whose first matrix reads the patches as they come, with nothing to learn before it.
_CONNECTORS_THAT_BEGIN_WITH_A_MATRIX = ("average_pool", "mlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations of one forward through a part, told apart by what their backward costs.

    Attributes:
        entry: The first matrix, if nothing learnt stands before it: the gradient to its input is
            needed only if a part before this one learns.
        inner: All other matrices: a gradient to the input and one to the weights.
        attention: Products of queries, keys and values: a gradient to both factors.
        unused: What no gradient reaches, such as the pooling head of a foreign tower.
    """

    entry: float = 0.0
    inner: float = 0.0
    attention: float = 0.0
    unused: float = 0.0

    @property
    def forward(self) -> float:
        """Operations of a forward."""
        return self.entry + self.inner + self.attention + self.unused

    def backward(self, *, learns: bool, input_learns: bool) -> float:
        """Operations of the backward.

        Args:
            learns: Whether the part is trained.
            input_learns: Whether a part before it is.
        """
        if not (learns or input_learns):
            return 0.0
        weights = (self.entry + self.inner) * learns
        return weights + self.entry * input_learns + self.inner + 2 * self.attention

    def times(self, count: float) -> "Work":
        """The same work `count` times."""
        return Work(
            entry=self.entry * count,
            inner=self.inner * count,
            attention=self.attention * count,
            unused=self.unused * count,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCount:
    """Operations, part by part."""

    vision_tower: float
    connector: float
    language_model: float
    lm_head: float

    @property
    def total(self) -> float:
        """Operations of all parts."""
        return sum(getattr(self, part) for part in PARTS)

    def times(self, count: float) -> "FlopCount":
        """The same `count` times."""
        return FlopCount(**{part: getattr(self, part) * count for part in PARTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopModel:
    """The cost of one configuration, ready to be asked for any batch; `flop_model` makes it.

    Attributes:
        tile: Work of the vision tower for one tile.
        connection: Work of the connector for one tile.
        token: Operations of the decoder's active matrices for one token.
        pair: Operations of attention for one pair of query and key in one decoder layer.
        windows: For each decoder layer, how many tokens a query sees; `None` means all.
        head: Operations of the projection to the vocabulary for one position.
        num_image_tokens: Visual tokens of one tile.
    """

    tile: Work
    connection: Work
    token: float
    pair: float
    windows: tuple[int | None, ...]
    head: float
    num_image_tokens: int

    def forward(
        self,
        *,
        num_tokens: int,
        num_tiles: float,
        num_supervised: float | None = None,
        document_lengths: Sequence[int] | None = None,
        attention: Attention = "causal",
    ) -> FlopCount:
        """Operations of a forward; see `training` for the arguments."""
        work = self._work(num_tokens, num_tiles, num_supervised, document_lengths, attention)
        return FlopCount(**{part: work[part].forward for part in PARTS})

    def training(
        self,
        *,
        num_tokens: int,
        num_tiles: float,
        num_supervised: float | None = None,
        document_lengths: Sequence[int] | None = None,
        attention: Attention = "causal",
        frozen: Collection[str] = (),
        recompute: Recompute = "nothing",
    ) -> FlopCount:
        """Operations of forward and backward; three forwards where everything learns.

        Args:
            num_tokens: Positions of the decoder, visual tokens and padding included.
            num_tiles: Tiles that pass the vision tower; a mean may be a fraction.
            num_supervised: Positions with a label, the only ones that reach the vocabulary.
                `None` means all that are no visual tokens.
            document_lengths: Tokens of each packed document, padding being a document too; they
                sum up to `num_tokens`. `None` means one document.
            attention: Which pairs of a document count; see the conventions above.
            frozen: Names of `PARTS` that are not trained. What lies between a trained part and
                the loss still passes gradients on.
            recompute: `"layers"` adds the second forward of gradient checkpointing, for the layers
                of tower and decoder; the connector and the head are not checkpointed.

        Raises:
            ValueError: If a name in `frozen` is unknown or the counts contradict each other.
        """
        unknown = sorted(set(frozen) - set(PARTS))
        if unknown:
            raise ValueError(f"Unknown part {unknown[0]!r} in frozen: parts are {PARTS}.")
        work = self._work(num_tokens, num_tiles, num_supervised, document_lengths, attention)
        costs: dict[str, float] = {}
        input_learns = False
        for part in PARTS:
            learns = part not in frozen
            # The embedding table belongs to the decoder and stands before its first matrix.
            backward = work[part].backward(learns=learns, input_learns=input_learns)
            costs[part] = work[part].forward + backward
            if recompute == "layers" and backward and part in ("vision_tower", "language_model"):
                costs[part] += work[part].inner + work[part].attention
            input_learns = input_learns or learns
        return FlopCount(**costs)

    def _work(
        self,
        num_tokens: int,
        num_tiles: float,
        num_supervised: float | None,
        document_lengths: Sequence[int] | None,
        attention: Attention,
    ) -> dict[str, Work]:
        num_visual = num_tiles * self.num_image_tokens
        if num_visual > num_tokens:
            raise ValueError(
                f"{num_tiles} tiles make {num_visual} visual tokens, but num_tokens is only "
                f"{num_tokens}: it counts all positions of the decoder, visual tokens included."
            )
        if num_supervised is None:
            num_supervised = num_tokens - num_visual
        lengths = [num_tokens] if document_lengths is None else document_lengths
        if sum(lengths) != num_tokens:
            raise ValueError(
                f"document_lengths sum up to {sum(lengths)}, but num_tokens is {num_tokens}. Count "
                "padding as a document of its own, or leave it out of both."
            )
        pairs = sum(
            count_pairs(length, window=window, attention=attention) * self.windows.count(window)
            for window in set(self.windows)
            for length in lengths
        )
        return {
            "vision_tower": self.tile.times(num_tiles),
            "connector": self.connection.times(num_tiles),
            "language_model": Work(inner=self.token * num_tokens, attention=self.pair * pairs),
            "lm_head": Work(entry=self.head * num_supervised),
        }


def count_pairs(length: int, *, window: int | None, attention: Attention) -> int:
    """Pairs of query and key in a document of `length` tokens.

    >>> count_pairs(4, window=None, attention="causal")
    10
    >>> count_pairs(4, window=2, attention="causal")
    7
    >>> count_pairs(4, window=None, attention="square")
    16
    """
    if attention == "square":
        return length * length
    seen = length if window is None else min(length, window)
    return seen * (seen + 1) // 2 + (length - seen) * seen


def flop_model(config: MM1Config, *, tile_size: tuple[int, int] | None = None) -> FlopModel:
    """Work out what the parts of `config` cost.

    Args:
        config: The model.
        tile_size: Height and width of a tile in pixels; `None` means the tower's own.

    Raises:
        ValueError: If a layer of the decoder is neither full nor sliding-window attention.
    """
    model = build_on_meta(config).eval()
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, PreTrainedConfig) and isinstance(text, PreTrainedConfig)
    height, width = tile_size or image_height_width(vision)
    pixels = torch.empty(1, vision.num_channels, height, width, device="meta")
    tower, connector = model.model.vision_tower, model.model.connector
    with torch.no_grad(), _MatrixRecorder(tower) as seen, _MatrixRecorder(connector) as joined:
        visual = model.get_image_features(cast(torch.FloatTensor, pixels), return_dict=True)
    assert visual.pooler_output is not None and visual.last_hidden_state is not None
    return FlopModel(
        tile=_tower_work(seen, vision, config.vision_feature_layer, visual.last_hidden_state),
        connection=_connector_work(joined, config, height=height, width=width),
        token=2.0 * _active_weights(part_modules(model)["language_model"], text),
        pair=2.0 * text.num_attention_heads * sum(_head_widths(text)),
        windows=attention_windows(text),
        head=2.0 * text.hidden_size * text.vocab_size,
        num_image_tokens=visual.pooler_output.shape[1],
    )


def training_flops(
    config: MM1Config,
    *,
    num_tokens: int,
    num_tiles: float,
    num_supervised: float | None = None,
    document_lengths: Sequence[int] | None = None,
    attention: Attention = "causal",
    frozen: Collection[str] = (),
    recompute: Recompute = "nothing",
    tile_size: tuple[int, int] | None = None,
) -> float:
    """Operations of forward and backward of one batch; see `FlopModel.training`.

    The model behind a configuration is worked out once and remembered.
    """
    model = _remembered(config.to_json_string(use_diff=False), tile_size)
    return model.training(
        num_tokens=num_tokens,
        num_tiles=num_tiles,
        num_supervised=num_supervised,
        document_lengths=document_lengths,
        attention=attention,
        frozen=frozen,
        recompute=recompute,
    ).total


@functools.lru_cache(maxsize=16)
def _remembered(config_json: str, tile_size: tuple[int, int] | None) -> FlopModel:
    return flop_model(MM1Config.from_dict(json.loads(config_json)), tile_size=tile_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matrix:
    """One matrix as a forward met it: operations, and whether it learns."""

    name: str
    flops: float
    learns: bool


class _MatrixRecorder:
    """While open, notes every matrix product that a module's layers compute."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.matrices: list[_Matrix] = []
        self._handles: list = []

    def __enter__(self) -> "_MatrixRecorder":
        for name, layer in self.module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                hook = functools.partial(self._note_weight, name)
            elif isinstance(layer, nn.MultiheadAttention):
                hook = functools.partial(self._note_attention, name)
            else:
                continue
            self._handles.append(layer.register_forward_hook(hook))
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()

    def _note_weight(self, name: str, layer: nn.Linear | nn.Conv2d, inputs, output) -> None:
        positions = output.numel() // layer.weight.shape[0]
        flops = 2.0 * layer.weight.numel() * positions
        self.matrices.append(_Matrix(name=name, flops=flops, learns=layer.weight.requires_grad))

    def _note_attention(self, name: str, layer: nn.MultiheadAttention, inputs, output) -> None:
        queries, keys = (tensor.numel() // layer.embed_dim for tensor in inputs[:2])
        projections = 4.0 * layer.embed_dim**2 * (queries + keys)
        flops = projections + 4.0 * layer.embed_dim * queries * keys
        learns = layer.out_proj.weight.requires_grad
        self.matrices.append(_Matrix(name=name, flops=flops, learns=learns))


def _tower_work(
    seen: _MatrixRecorder,
    vision: PreTrainedConfig,
    feature_layer: int | None,
    hidden_states: torch.Tensor,
) -> Work:
    """Work for one tile; the first matrix is the patch embedding, which reads pixels."""
    num_layers = getattr(vision, "num_built_layers", vision.num_hidden_layers)
    num_used = num_layers if feature_layer is None else feature_layer % (num_layers + 1)

    def is_used(matrix: _Matrix) -> bool:
        layer = _LAYER.search(matrix.name)
        return matrix.learns and (layer is None or int(layer[1]) < num_used)

    patches, *others = seen.matrices
    positions = hidden_states.shape[1]
    attention = 4.0 * positions**2 * vision.hidden_size
    unused = sum(matrix.flops for matrix in others if not is_used(matrix))
    return Work(
        entry=patches.flops,
        inner=sum(matrix.flops for matrix in others if is_used(matrix)),
        attention=attention * num_used,
        unused=unused + attention * (num_layers - num_used),
    )


def _connector_work(joined: _MatrixRecorder, config: MM1Config, *, height: int, width: int) -> Work:
    connector, vision = config.connector_config, config.vision_config
    assert isinstance(connector, PreTrainedConfig) and isinstance(vision, PreTrainedConfig)
    flops = [matrix.flops for matrix in joined.matrices]
    begins = connector.connector_type in _CONNECTORS_THAT_BEGIN_WITH_A_MATRIX
    attention = 0.0
    if connector.connector_type == "attention_pool":
        num_patches = (height // vision.patch_size) * (width // vision.patch_size)
        attention = 4.0 * connector.num_image_tokens * num_patches * connector.hidden_size
    return Work(entry=sum(flops[:begins]), inner=sum(flops[begins:]), attention=attention)


def _active_weights(decoder: nn.Module, text: PreTrainedConfig) -> float:
    """Weights of the decoder's matrices that one token meets; tables are looked up, not multiplied.

    Of experts, which are stacked into tensors of three axes, the chosen ones count.
    """
    tables = {
        f"{name}.weight"
        for name, layer in decoder.named_modules()
        if isinstance(layer, nn.Embedding)
    }
    return sum(
        parameter.numel() * active_share(name, text)
        for name, parameter in decoder.named_parameters()
        if parameter.ndim > 1 and name not in tables and not name.endswith("bias")
    )


def _head_widths(text: PreTrainedConfig) -> tuple[int, int]:
    """Widths of a query or key, and of a value, in one head."""
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return getattr(text, "qk_head_dim", None) or width, getattr(text, "v_head_dim", None) or width


def attention_windows(text_config: PreTrainedConfig) -> tuple[int | None, ...]:
    """For each decoder layer, how many tokens a query sees; `None` means all before it.

    Raises:
        ValueError: If a layer is of a kind that has no such number.
    """
    num_layers = text_config.num_hidden_layers
    window = getattr(text_config, "sliding_window", None)
    kinds = getattr(text_config, "layer_types", None)
    if kinds is None:
        slides = window is not None and getattr(text_config, "use_sliding_window", True)
        kinds = ["sliding_attention" if slides else "full_attention"] * num_layers
    known = {"full_attention": None, "sliding_attention": window}
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise ValueError(
            f"{type(text_config).__name__} has layers of the kind {unknown[0]!r}. The planner "
            f"knows {', '.join(known)}: plan with a decoder of those."
        )
    return tuple(known[kind] for kind in kinds)


__all__ = [
    "FlopCount",
    "FlopModel",
    "Work",
    "attention_windows",
    "count_pairs",
    "flop_model",
    "training_flops",
]
