"""Configurations of MM1 and its parts, and every check on their values.

`MM1Config` nests one configuration per part (`vision_config`, `connector_config`, `text_config`),
so that the configuration tree mirrors the module tree. A number belongs to exactly one of them;
what two parts share (the widths a connector joins, the patch grid it reads) is copied down by
`MM1Config` and checked there.
"""

import copy
import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .field_checks_mm1 import refuse_unknown_keywords, require_multiple, require_positive

# Source: OpenAI's CLIP, used by DFN's ViT-H/14, the public stand-in for MM1's encoder.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@strict
class MM1VisionConfig(PreTrainedConfig):
    """Configuration of `MM1VisionModel`, a CLIP-style vision transformer.

    The defaults are MM1's final encoder, ViT-H/14 at 378 px (published), with the inner sizes of
    the public stand-in `apple/DFN5B-CLIP-ViT-H-14-378`.

    Args:
        hidden_size: Width of a patch token.
        intermediate_size: Width inside the feed-forward blocks.
        num_hidden_layers: Number of transformer blocks.
        num_attention_heads: Attention heads; must divide `hidden_size`.
        num_channels: Channels of a picture.
        image_size: Side of a tile in pixels, or `[height, width]`.
        patch_size: Side of a patch in pixels. A remainder at the border is not seen.
        hidden_act: `"quick_gelu"` (OpenAI's and DFN's CLIP) or any name transformers knows.
        layer_norm_eps: Epsilon of all layer norms.
        attention_dropout: Dropout on attention weights, in training only.
        initializer_range: Standard deviation of the initial weights (our choice).
        use_class_token: Whether a class token stands before the patches.
        use_pre_layernorm: Whether a layer norm stands before the first block (CLIP yes, SigLIP no).
        patch_bias: Whether the patch embedding has a bias (CLIP no, SigLIP yes).
        feature_layer: Index of the hidden state that the model returns: 0 is the embedding, `n` the
            output of block `n`, negative values count from the end. Blocks behind it are not built.
            Which layer MM1 takes is not public; the last one is our choice.
        use_final_norm: Whether the returned features pass the final layer norm (our choice).

    Source: MM1, arXiv 2403.09611, section 3 (encoder, resolution).
    """

    model_type = "mm1_vision"
    base_config_key = "vision_config"
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.fc1": "colwise",
        "layers.*.mlp.fc2": "rowwise",
    }
    base_model_fsdp_plan = {"layers.*": "free_full_weight"}

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int | list[int] | tuple[int, ...] = 378
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    use_class_token: bool = True
    use_pre_layernorm: bool = True
    patch_bias: bool = False
    feature_layer: int = -1
    use_final_norm: bool = True

    def __post_init__(self, **kwargs):
        refuse_unknown_keywords(self, kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raise if the sizes do not fit each other."""
        require_positive(
            self, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
        )
        require_positive(self, "num_channels", "patch_size")
        require_multiple(self, whole="hidden_size", part="num_attention_heads")
        if min(patch_grid(self)) < 1:
            raise ValueError(
                f"MM1VisionConfig.image_size ({self.image_size}) holds no patch of patch_size "
                f"{self.patch_size} px: choose a larger image or a smaller patch."
            )
        if not -self.num_hidden_layers - 1 <= self.feature_layer <= self.num_hidden_layers:
            raise ValueError(
                f"MM1VisionConfig.feature_layer is {self.feature_layer}, but with "
                f"{self.num_hidden_layers} layers it must lie between "
                f"{-self.num_hidden_layers - 1} and {self.num_hidden_layers}."
            )

    @property
    def num_built_layers(self) -> int:
        """Number of transformer blocks in front of the feature layer."""
        return self.feature_layer % (self.num_hidden_layers + 1)


def image_height_width(vision_config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width of a tile in pixels, for our own and for foreign vision configurations."""
    size = vision_config.image_size
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"image_size must be one side or [height, width], but it is {size}.")
    return int(size[0]), int(size[1])


def patch_grid(vision_config: PreTrainedConfig) -> tuple[int, int]:
    """Rows and columns of patches of one tile; patches of 378 px at 14 px give `(27, 27)`."""
    height, width = image_height_width(vision_config)
    return height // vision_config.patch_size, width // vision_config.patch_size


@strict
class MM1ConnectorConfig(PreTrainedConfig):
    """Configuration of `MM1Connector`, which turns patch tokens into few visual tokens.

    The default is MM1's: a C-Abstractor with 144 tokens per tile (published). Depth and width of
    MM1's C-Abstractor are not public; Honeybee's defaults are used (arXiv 2312.06742).

    Args:
        connector_type: A key of `CONNECTORS`: `"c_abstractor"`, `"attention_pool"`,
            `"average_pool"` or `"mlp"`.
        num_image_tokens: Visual tokens per tile. `None` means 144, or for `"mlp"`, which keeps one
            token per patch, the number of patches. A square for the two pooling grids.
        hidden_size: Width inside the connector. Unused by `"average_pool"` and `"mlp"`.
        depth: Residual blocks in each of the two stages of the C-Abstractor.
        mlp_depth: Linear layers of the C-Abstractor's read-out and of `"mlp"`.
        num_attention_heads: Heads of `"attention_pool"` (our choice); must divide `hidden_size`.
        layer_norm_eps: Epsilon of all layer norms.
        initializer_range: Standard deviation of the initial weights.
        vision_hidden_size: Width of the patch tokens; `MM1Config` fills it in.
        text_hidden_size: Width of the decoder; `MM1Config` fills it in.
        patch_grid: `[rows, columns]` of patches; `MM1Config` fills it in.

    Source: MM1, arXiv 2403.09611, section 3.1 (types and token counts); Honeybee for the block.
    """

    model_type = "mm1_connector"
    base_config_key = "connector_config"
    base_model_fsdp_plan = {}

    connector_type: str = "c_abstractor"
    num_image_tokens: int | None = None
    hidden_size: int = 1024
    depth: int = 3
    mlp_depth: int = 2
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    vision_hidden_size: int | None = None
    text_hidden_size: int | None = None
    patch_grid: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs):
        refuse_unknown_keywords(self, kwargs)
        if self.num_image_tokens is None:
            if self.connector_type != "mlp":
                self.num_image_tokens = 144
            elif self.patch_grid is not None:
                self.num_image_tokens = math.prod(self.patch_grid)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raise if the sizes do not fit each other or the connector's type."""
        require_positive(self, "num_image_tokens", "hidden_size", "depth", "mlp_depth")
        require_positive(self, "num_attention_heads", "vision_hidden_size", "text_hidden_size")
        if self.connector_type in ("average_pool", "c_abstractor"):
            side = math.isqrt(self.num_image_tokens)
            if side * side != self.num_image_tokens:
                raise ValueError(
                    f"{self.connector_type!r} pools to a square grid, so num_image_tokens must be "
                    f"a square such as 64 or 144, but it is {self.num_image_tokens}. "
                    f"Use {side * side} or {(side + 1) ** 2}, or connector_type='attention_pool'."
                )
        if self.connector_type == "attention_pool":
            require_multiple(self, whole="hidden_size", part="num_attention_heads")
        if self.patch_grid is None:
            return
        if len(self.patch_grid) != 2 or min(self.patch_grid) < 1:
            raise ValueError(f"patch_grid must be [rows, columns], but it is {self.patch_grid}.")
        num_patches = math.prod(self.patch_grid)
        if self.connector_type == "mlp" and self.num_image_tokens != num_patches:
            raise ValueError(
                f"'mlp' keeps one token per patch, so num_image_tokens must be {num_patches} for a "
                f"grid of {list(self.patch_grid)}, but it is {self.num_image_tokens}. "
                "Leave it out, or choose a pooling connector."
            )


@strict
class MM1TextConfig(PreTrainedConfig):
    """Configuration of `MM1TextModel`, a decoder-only language model.

    The shapes of MM1's language models are not public. The defaults are a 3B decoder consistent
    with MM1's names and the totals of its sparse models (derived); RMSNorm, SwiGLU and rotary
    positions are those of the public decoders of the same house (AXLearn).

    Args:
        vocab_size: Rows of the embedding table.
        hidden_size: Width of a token.
        intermediate_size: Width inside the SwiGLU feed-forward blocks.
        num_hidden_layers: Number of decoder layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads; must divide the query heads. `None` means as many.
        head_dim: Width of a head; `None` means `hidden_size // num_attention_heads`.
        hidden_act: Activation of the gate.
        max_position_embeddings: Longest sequence the rotary positions are meant for.
        rms_norm_eps: Epsilon of all RMS norms.
        rope_parameters: transformers' rotary settings, such as
            `{"rope_type": "default", "rope_theta": 10000.0}`.
        attention_bias: Whether the attention projections have a bias.
        mlp_bias: Whether the feed-forward projections have a bias.
        qk_norm: Whether queries and keys pass an RMS norm per head before the rotation.
        attention_dropout: Dropout on attention weights, in training only.
        initializer_range: Standard deviation of the initial weights (our choice).
        use_cache: Whether keys and values are kept by default outside training.
        tie_word_embeddings: Whether the output projection shares the embedding table.
        pad_token_id: Padding token.
        bos_token_id: First token of a document.
        eos_token_id: Last token of a document.
        num_experts: Experts of a sparse layer, each as wide as a dense block; None for a dense
            decoder.
        num_experts_per_tok: Experts of one token; 2 (published).
        moe_every_n_layers: Make every so many-th layer sparse, the last one of each group (as
            AXLearn does; MM1 does not say which). Fills in `mlp_layer_types`.
        mlp_layer_types: `"dense"` or `"sparse"` for each layer; None for a dense decoder.
        router_aux_loss_coef: Weight of the balance loss; `None` means 0.01 (published), and 0 for a
            dense decoder.
        router_z_loss_coef: Weight of the routers' z-loss; `None` means 0.001 (published), and 0 for
            a dense decoder.
        router_balance: Which balance loss, `"first_choice"` or `"all_choices"`; see
            `moe_mm1.balance_loss` (our choice).
        router_capacity_factor: Room of an expert in training, as a multiple of the average number
            of tokens of a row; `None` drops no token (our choice).
        output_router_logits: Whether to return router logits; `None` means in training with labels.
            `False` leaves the router losses out.

    Source: MM1, arXiv 2403.09611 (sizes by name; section 3.4 for sparse layers); everything else is
    our choice.
    """

    model_type = "mm1_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values", "router_logits", "aux_loss", "z_loss"]
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 49_152
    hidden_size: int = 3072
    intermediate_size: int = 8064
    num_hidden_layers: int = 26
    num_attention_heads: int = 24
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    rope_parameters: dict | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    num_experts: int | None = None
    num_experts_per_tok: int = 2
    moe_every_n_layers: int | None = None
    mlp_layer_types: list[str] | tuple[str, ...] | None = None
    router_aux_loss_coef: float | int | None = None
    router_z_loss_coef: float | int | None = None
    router_balance: Literal["first_choice", "all_choices"] = "first_choice"
    router_capacity_factor: float | int | None = None
    output_router_logits: bool | None = None

    def __post_init__(self, **kwargs):
        refuse_unknown_keywords(self, kwargs)
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self.mlp_layer_types = _mlp_layer_types(self)
        # A trainer that reads these must find no loss in a dense decoder.
        sparse = self.num_experts is not None
        if self.router_aux_loss_coef is None:
            self.router_aux_loss_coef = 0.01 if sparse else 0.0
        if self.router_z_loss_coef is None:
            self.router_z_loss_coef = 0.001 if sparse else 0.0
        # An attribute and no property: transformers 5.19 assigns to it.
        self.base_model_tp_plan = self.base_model_tp_plan | _tensor_parallel_plan(self)
        super().__post_init__(**kwargs)

    @property
    def base_model_ep_plan(self) -> dict[str, str]:
        """How expert parallelism spreads the experts, by names of modules."""
        if self.num_experts is None:
            return {}
        return {
            "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
            "layers.*.mlp.experts.down_proj": "grouped_gemm",
            "layers.*.mlp.experts": "ep_dispatch_experts",
        }

    def validate_architecture(self):
        """Raise if the sizes do not fit each other."""
        require_positive(
            self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"
        )
        require_positive(self, "num_attention_heads", "num_key_value_heads", "head_dim")
        require_multiple(self, whole="num_attention_heads", part="num_key_value_heads")
        if self.head_dim % 2:
            raise ValueError(
                f"MM1TextConfig.head_dim must be even for rotary positions, but it is "
                f"{self.head_dim}: change hidden_size or num_attention_heads, or set head_dim."
            )
        require_positive(self, "num_experts", "num_experts_per_tok", "router_capacity_factor")
        _validate_experts(self)


def _tensor_parallel_plan(config: MM1TextConfig) -> dict[str, str]:
    """How tensor parallelism spreads what not every decoder has, by names of modules."""
    plan = {}
    if "dense" in (config.mlp_layer_types or ["dense"]):
        plan["layers.*.mlp.gate_proj"] = "colwise"
        plan["layers.*.mlp.up_proj"] = "colwise"
        plan["layers.*.mlp.down_proj"] = "rowwise"
    if config.num_experts is not None:
        plan["layers.*.mlp.experts.gate_up_proj"] = "packed_colwise"
        plan["layers.*.mlp.experts.down_proj"] = "rowwise"
        plan["layers.*.mlp.experts"] = "moe_tp_experts"
    if config.qk_norm:
        # Each rank norms its own heads only, so the gradients of the shared weights add up.
        plan["layers.*.self_attn.q_norm"] = "replicated_with_grad_allreduce"
        plan["layers.*.self_attn.k_norm"] = "replicated_with_grad_allreduce"
    return plan


def _mlp_layer_types(config: MM1TextConfig) -> list[str] | None:
    """The kind of each layer, from whichever field says it; None for a dense decoder."""
    every, kinds = config.moe_every_n_layers, config.mlp_layer_types
    if every is None:
        return None if kinds is None else list(kinds)
    require_positive(config, "moe_every_n_layers")
    derived = ["dense" if n % every else "sparse" for n in range(1, config.num_hidden_layers + 1)]
    if kinds is not None and list(kinds) != derived:
        raise ValueError(
            f"MM1TextConfig.moe_every_n_layers is {every}, which makes the layers {derived}, but "
            f"mlp_layer_types says {list(kinds)}. Give one of the two."
        )
    return derived


def _validate_experts(config: MM1TextConfig) -> None:
    """Raise if the kinds of layers are not clear, or contradict the experts."""
    kinds, layers = config.mlp_layer_types, config.num_hidden_layers
    if kinds is not None and (len(kinds) != layers or not set(kinds) <= {"dense", "sparse"}):
        raise ValueError(
            f"MM1TextConfig.mlp_layer_types must say 'dense' or 'sparse' for each of the {layers} "
            f"layers, but it is {kinds}."
        )
    if (config.num_experts is None) != ("sparse" not in (kinds or ())):
        raise ValueError(
            f"MM1TextConfig.num_experts is {config.num_experts}, but the kinds of layers are "
            f"{kinds}. For a sparse decoder give num_experts and either moe_every_n_layers or "
            "mlp_layer_types with 'sparse' in it; for a dense one none of them."
        )
    if config.num_experts is not None and config.num_experts_per_tok > config.num_experts:
        raise ValueError(
            f"MM1TextConfig.num_experts_per_tok is {config.num_experts_per_tok}, but there are "
            f"only {config.num_experts} experts."
        )
    if config.num_experts is not None and config.mlp_bias:
        raise ValueError("MM1TextConfig.mlp_bias must be False: experts have no bias.")


@strict
class MM1Config(PreTrainedConfig):
    """Configuration of `MM1Model` and `MM1ForConditionalGeneration`.

    Args:
        vision_config: `MM1VisionConfig`, or any vision configuration that `AutoModel` knows (CLIP,
            SigLIP, AIMv2, DINOv2 ...), as object or dict. `None` means MM1's ViT-H/14 at 378 px.
        connector_config: `MM1ConnectorConfig` as object or dict. `None` means MM1's C-Abstractor.
        text_config: `MM1TextConfig`, or any decoder configuration that `AutoModel` knows (Llama,
            Qwen, Gemma, Mixtral ...), as object or dict. `None` means a 3B decoder.
        image_token_id: Vocabulary id of the placeholder that a visual token replaces. The tokenizer
            owns this number; `MM1Processor.from_parts` fills in a `None`.
        image_mean: Mean per channel, on the scale of 0 to 1, that normalises `pixel_values` which
            arrive as uint8; `MM1Processor.from_parts` takes it from here. OpenAI CLIP's by default.
        image_std: Standard deviation per channel, likewise.
        vision_feature_layer: For foreign towers only: index of the hidden state to read; `None`
            means the tower's own last hidden state. `MM1VisionConfig.feature_layer` for ours.
        tie_word_embeddings: Whether `lm_head` shares the embedding table; `None` means as
            `text_config` says.
        use_cache: Whether the decoder keeps keys and values by default outside training.
        initializer_range: Standard deviation of the initial weights of `lm_head`.

    Configuration objects are copied, never changed: the connector's copy receives the widths and
    the patch grid of its neighbours.

    Raises:
        ValueError: If a field is misspelt or two parts disagree about a shared number.
    """

    model_type = "mm1"
    # Built in `__post_init__` by hand: the declaration that builds them differs between the oldest
    # supported transformers and the newest, this form works on all.
    sub_configs = {
        "vision_config": AutoConfig,
        "connector_config": MM1ConnectorConfig,
        "text_config": AutoConfig,
    }
    keys_to_ignore_at_inference = ["past_key_values", "router_logits", "aux_loss", "z_loss"]
    # Whole parts: `generate` calls them without the model around them.
    base_model_fsdp_plan = {
        "vision_tower": "free_full_weight",
        "connector": "free_full_weight",
    }
    attribute_map = {"image_token_index": "image_token_id"}

    vision_config: dict | PreTrainedConfig | None = None
    connector_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int | None = None
    image_mean: list[float] | tuple[float, ...] = CLIP_MEAN
    image_std: list[float] | tuple[float, ...] = CLIP_STD
    vision_feature_layer: int | None = None
    tie_word_embeddings: bool | None = None
    use_cache: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        refuse_unknown_keywords(self, kwargs)
        saved_by = self.transformers_version
        vision = _part(
            self.vision_config, name="vision_config", own=MM1VisionConfig, saved_by=saved_by
        )
        text = _part(self.text_config, name="text_config", own=MM1TextConfig, saved_by=saved_by)
        self.vision_config = getattr(vision, "vision_config", vision)
        self.text_config = text.get_text_config(decoder=True)
        connector = _part(
            self.connector_config,
            name="connector_config",
            own=MM1ConnectorConfig,
            saved_by=saved_by,
        )
        self.connector_config = _join_connector(connector, self.vision_config, self.text_config)
        self.image_mean, self.image_std = list(self.image_mean), list(self.image_std)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raise if the placeholder does not fit the vocabulary or two fields exclude each other."""
        vocab_size = self.text_config.vocab_size
        if self.image_token_id is not None and not 0 <= self.image_token_id < vocab_size:
            raise ValueError(
                f"MM1Config.image_token_id is {self.image_token_id}, but text_config.vocab_size is "
                f"{vocab_size}: the placeholder needs a row of its own in the vocabulary."
            )
        channels = getattr(self.vision_config, "num_channels", 3)
        if len(self.image_mean) != channels or len(self.image_std) != channels:
            raise ValueError(
                f"MM1Config.image_mean ({self.image_mean}) and image_std ({self.image_std}) must "
                f"have one number for each of the {channels} channels."
            )
        if self.vision_feature_layer is not None and self.vision_config.model_type == "mm1_vision":
            raise ValueError(
                "MM1Config.vision_feature_layer is for foreign vision towers. Set our own tower's "
                f"field: MM1VisionConfig(feature_layer={self.vision_feature_layer})."
            )

    @property
    def num_image_tokens(self) -> int:
        """Visual tokens per tile."""
        return self.connector_config.num_image_tokens


def _part(
    value: Any, *, name: str, own: type[PreTrainedConfig], saved_by: str | None
) -> PreTrainedConfig:
    """Build or copy one nested configuration.

    A dict is ours unless its `model_type` says otherwise; of a saved configuration (`saved_by` is
    the version of transformers) the parts were saved too, though only the whole names the version.
    """
    if value is None:
        return own()
    if isinstance(value, PreTrainedConfig):
        return copy.deepcopy(value)
    if not isinstance(value, dict):
        raise TypeError(
            f"MM1Config.{name} must be a configuration, a dict or None, but it is a "
            f"{type(value).__name__}."
        )
    keywords = copy.deepcopy(value)
    model_type = keywords.get("model_type", own.model_type)
    if saved_by is not None:
        keywords.setdefault("transformers_version", saved_by)
    if model_type == own.model_type:
        return own(**keywords)
    keywords.pop("model_type")
    return AutoConfig.for_model(model_type, **keywords)


def _join_connector(
    connector: PreTrainedConfig, vision: PreTrainedConfig, text: PreTrainedConfig
) -> PreTrainedConfig:
    """Fill the connector's shared numbers from its neighbours, or raise where they disagree."""
    shared = {
        "vision_hidden_size": (vision.hidden_size, "vision_config.hidden_size"),
        "text_hidden_size": (text.hidden_size, "text_config.hidden_size"),
        "patch_grid": (list(patch_grid(vision)), "the patch grid of vision_config"),
    }
    for name, (value, owner) in shared.items():
        found = getattr(connector, name)
        found = list(found) if isinstance(found, tuple) else found
        if found is not None and found != value:
            raise ValueError(
                f"MM1Config.connector_config.{name} is {found}, but {owner} is {value}. "
                f"Leave {name} out: MM1Config fills it in."
            )
        setattr(connector, name, value)
    if connector.num_image_tokens is None:
        connector.num_image_tokens = math.prod(connector.patch_grid)
    connector.validate_architecture()
    return connector


__all__ = ["MM1Config", "MM1ConnectorConfig", "MM1TextConfig", "MM1VisionConfig"]
