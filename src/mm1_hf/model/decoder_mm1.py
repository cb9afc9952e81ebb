"""`MM1TextModel` and `MM1ForCausalLM`: MM1's decoder-only language model.

Pre-norm layers with RMSNorm, rotary positions, grouped-query attention and a SwiGLU feed-forward
block, which in the sparse layers of `config.mlp_layer_types` is one of several experts. The names
of a dense decoder's parameters are those of transformers' Llama, Mistral and Qwen, so that such
checkpoints convert by renaming only.

Letters: B batch, T tokens, D width, H query heads, G key and value heads, V vocabulary.

Source: MM1, arXiv 2403.09611, does not publish its decoder; this is the public decoder of the same
house (AXLearn), our choice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .base_mm1 import MM1PreTrainedModel
from .configuration_mm1 import MM1TextConfig
from .loss_mm1 import PredictsTokens, VocabularyHead
from .moe_mm1 import AnswersForRouters, MM1Router, MM1SparseMLP, init_sparse_weights, valid_tokens
from .packed_attention_mm1 import register_packed_sdpa
from .sorted_experts_mm1 import SORTED_MM, register_sorted_mm

register_packed_sdpa()
register_sorted_mm()


@dataclass
class MM1TextOutputWithPast(CausalLMOutputWithPast):
    """Output of `MM1ForCausalLM`.

    Attributes:
        loss: Next-token loss, in training with that of the routers, when labels are given.
        logits: `(B, kept, V)`; None where they were skipped, as in training with labels.
        past_key_values: Cache of keys and values.
        hidden_states: Hidden states, one per layer and the input.
        attentions: Attention weights, one per layer.
        aux_loss: Balance loss before its coefficient; see `moe_mm1.router_losses`.
        z_loss: The routers' z-loss before its coefficient.
        router_logits: For each sparse layer, `(B * T, E)` in fp32.
    """

    aux_loss: torch.FloatTensor | None = None
    z_loss: torch.FloatTensor | None = None
    router_logits: tuple[torch.FloatTensor, ...] | None = None


class MM1TextAttention(nn.Module):
    """Causal self-attention with grouped keys and values and optional QK-norm."""

    def __init__(self, config: MM1TextConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, config.num_attention_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, width, bias=bias)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend; `(B, T, D)` to `(B, T, D)` and, with eager attention, the weights."""
        batch_and_length = hidden_states.shape[:-1]
        per_head = (*batch_and_length, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(per_head)  # (B, T, H, D / H)
        key = self.k_proj(hidden_states).view(per_head)  # (B, T, G, D / H)
        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)
        if self.config.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = apply_rotary_pos_emb(
            query.transpose(1, 2), key.transpose(1, 2), *position_embeddings
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*batch_and_length, -1).contiguous()), weights


class MM1TextMLP(nn.Module):
    """Dense SwiGLU feed-forward block."""

    def __init__(self, config: MM1TextConfig):
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, T, D)` to `(B, T, D)`."""
        gate = self.act_fn(self.gate_proj(hidden_states))
        return self.down_proj(gate * self.up_proj(hidden_states))


class MM1TextLayer(GradientCheckpointingLayer):
    """One pre-norm decoder layer: attention, then a feed-forward block."""

    def __init__(self, config: MM1TextConfig, layer_idx: int):
        super().__init__()
        self.self_attn = MM1TextAttention(config, layer_idx)
        kinds = config.mlp_layer_types
        self.is_sparse = kinds is not None and kinds[layer_idx] == "sparse"
        self.mlp = MM1SparseMLP(config) if self.is_sparse else MM1TextMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`(B, T, D)` to `(B, T, D)`; `token_mask` `(B, T)` is false for padding."""
        hidden_states = (
            hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        )
        normed = self.post_attention_layernorm(hidden_states)
        if self.is_sparse:
            return hidden_states + self.mlp(normed, token_mask)
        return hidden_states + self.mlp(normed)


class MM1TextModel(MM1PreTrainedModel):
    """MM1's decoder without a head: tokens or embeddings in, hidden states out.

    Packed documents: give `position_ids` that restart at 0 for each document, no `attention_mask`
    and `use_cache=False`; then no document sees another.
    """

    config: MM1TextConfig
    input_modalities = ("text",)
    _no_split_modules = ["MM1TextLayer"]
    _default_experts_implementation = SORTED_MM
    _can_record_outputs = {
        "hidden_states": MM1TextLayer,
        "attentions": MM1TextAttention,
        "router_logits": OutputRecorder(MM1Router, index=0),
    }

    def __init__(self, config: MM1TextConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.layers = nn.ModuleList(
            MM1TextLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        init_sparse_weights(module, std=self.config.initializer_range)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        token_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoeModelOutputWithPast:
        """Run the decoder.

        Args:
            input_ids: `(B, T)`; or else `inputs_embeds`.
            attention_mask: `(B, T)`, 1 for real tokens and 0 for padding.
            position_ids: `(B, T)`; by default they count on from the cache.
            past_key_values: Cache of earlier keys and values.
            inputs_embeds: `(B, T, D)` in place of `input_ids`.
            use_cache: Whether to return a cache; `config.use_cache` by default.
            token_mask: `(B, T)`, false for padding, which takes no room of experts where room is
                limited; what `attention_mask` says by default.
            **kwargs: `output_hidden_states`, `output_attentions`, `output_router_logits`, arguments
                of the attention backend.

        Returns:
            `last_hidden_state` `(B, T, D)` after the final norm, `past_key_values`, and where asked
            for `router_logits`, for each sparse layer `(B * T, E)`.

        Raises:
            ValueError: If both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = (position_ids + past_length).unsqueeze(0)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if token_mask is None and self.config.num_experts is not None:
            token_mask = valid_tokens(
                attention_mask=attention_mask,
                position_ids=None,
                shift_labels=None,
                length=inputs_embeds.shape[1],
            )
        position_embeddings = self.rotary_emb(inputs_embeds, position_ids=position_ids)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=causal_mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                token_mask=token_mask,
                **kwargs,
            )
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class MM1ForCausalLM(PredictsTokens, AnswersForRouters, MM1PreTrainedModel, GenerationMixin):
    """MM1's decoder with its language-modelling head, for text alone."""

    config: MM1TextConfig
    input_modalities = ("text",)
    _default_experts_implementation = SORTED_MM
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: MM1TextConfig):
        super().__init__(config)
        self.model = MM1TextModel(config)
        self.lm_head = VocabularyHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MM1TextOutputWithPast:
        """Run the decoder and project to the vocabulary.

        Args:
            input_ids: `(B, T)`; or else `inputs_embeds`.
            attention_mask: `(B, T)`, 1 for real tokens and 0 for padding.
            position_ids: `(B, T)`.
            past_key_values: Cache of earlier keys and values.
            inputs_embeds: `(B, T, D)` in place of `input_ids`.
            labels: `(B, T)`, not shifted; -100 where no loss is wanted.
            num_items_in_batch: Labels in the whole batch, over which `Trainer` wants the loss to be
                averaged; by default those given here.
            use_cache: Whether to return a cache. With labels the default is no, since a cache makes
                transformers ignore the borders of packed documents.
            logits_to_keep: Compute only the last so many logits (0: all), or those at these
                indices.
            skip_logits: Whether to leave the logits out. By default they are left out in training
                with labels, where they would cost more than the rest of the decoder.
            output_router_logits: Whether to return those of the sparse layers; see `MM1TextConfig`.
            **kwargs: `shift_labels`, which are shifted already, in place of `labels`; everything
                else that `MM1TextModel.forward` takes.
        """
        targets, use_cache = self.part_targets(
            labels, kwargs, use_cache=use_cache, past_key_values=past_key_values
        )
        shown = {"attention_mask": attention_mask, "position_ids": position_ids}
        outputs = self.model(
            input_ids=input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **shown,
            **self.routing_inputs(
                self.config, output_router_logits=output_router_logits, **targets, **shown
            ),
            **kwargs,
        )
        loss, logits, _ = self.predict(
            outputs.last_hidden_state,
            num_items_in_batch=num_items_in_batch,
            logits_to_keep=logits_to_keep,
            skip_logits=skip_logits,
            vocab_size=self.config.vocab_size,
            **targets,
            **kwargs,
        )
        routing = self.report_routing(
            self.config,
            outputs.router_logits,
            hidden_states=outputs.last_hidden_state,
            num_items_in_batch=num_items_in_batch,
            **targets,
            **shown,
        )
        return MM1TextOutputWithPast(
            loss=loss if routing.loss is None else loss + routing.loss.to(loss.device),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            aux_loss=routing.balance,
            z_loss=routing.z,
            router_logits=outputs.router_logits,
        )


__all__ = ["MM1ForCausalLM", "MM1TextModel"]
