"""`MM1Model` (see, connect, read) and `MM1ForConditionalGeneration` (loss, generate).

Letters: B batch, T tokens, N tiles in the whole batch, P patches, K visual tokens per tile, D width
of the decoder, V vocabulary.

Source: MM1, arXiv 2403.09611, section 3: visual tokens take ordinary places in the sequence and
never carry a label.
"""

import copy
import functools
import inspect
import math
from dataclasses import dataclass

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, torch_compilable_check
from transformers.utils.generic import accepts_precomputed_kwargs, merge_with_config_defaults

from .base_mm1 import MM1PreTrainedModel
from .composition_mm1 import (
    PartSource,
    composed_dtype,
    connector_part,
    copy_decoder,
    copy_weights,
    text_part,
    vision_part,
)
from .configuration_mm1 import MM1Config, image_height_width, patch_grid
from .connectors_mm1 import MM1Connector
from .decoder_mm1 import MM1TextModel
from .interleaving_mm1 import add_image_token
from .loss_mm1 import PredictsTokens, Rescale, VocabularyHead
from .moe_mm1 import AnswersForRouters
from .vision_mm1 import MM1VisionModel, resize_tower

# Parts of foreign towers that serve only their pooled output. They never see a gradient here, so
# they are frozen: a trainable parameter without gradient stops distributed training.
POOLING_PARTS = {
    "aimv2_vision_model": ("head",),
    "clip_vision_model": ("post_layernorm",),
    "siglip_vision_model": ("head",),
}

# Arguments that only sparse decoders know.
_FOR_DECODER = ("output_router_logits", "token_mask")


@dataclass
class MM1ModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `MM1Model`.

    Attributes:
        last_hidden_state: `(B, T, D)` after the decoder's final norm.
        past_key_values: Cache of keys and values.
        hidden_states: Hidden states of the decoder, one per layer and the input.
        attentions: Attention weights of the decoder, one per layer.
        image_hidden_states: Visual tokens `(N, K, D)` as they entered the decoder.
        router_logits: For each sparse layer of the decoder `(B * T, E)`, where asked for.
    """

    image_hidden_states: torch.FloatTensor | None = None
    router_logits: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class MM1CausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of `MM1ForConditionalGeneration`.

    Attributes:
        loss: Next-token loss, in training with that of the routers, when labels are given.
        logits: `(B, kept, V)`; None where they were skipped, as in training with labels.
        past_key_values: Cache of keys and values.
        hidden_states: Hidden states of the decoder, one per layer and the input.
        attentions: Attention weights of the decoder, one per layer.
        image_hidden_states: Visual tokens `(N, K, D)` as they entered the decoder.
        token_losses: `(B, T)`, if asked for: the loss of predicting what follows each position, not
            divided by anything; 0 where there is no label.
        aux_loss: Balance loss before its coefficient; see `moe_mm1.router_losses`.
        z_loss: The routers' z-loss before its coefficient.
        router_logits: For each sparse layer of the decoder, `(B * T, E)`.
    """

    image_hidden_states: torch.FloatTensor | None = None
    token_losses: torch.FloatTensor | None = None
    aux_loss: torch.FloatTensor | None = None
    z_loss: torch.FloatTensor | None = None
    router_logits: tuple[torch.FloatTensor, ...] | None = None


def _build_part(config: PreTrainedConfig, *, own: type[PreTrainedModel]) -> PreTrainedModel:
    """Build a tower or a decoder: our class for our configuration, else what `AutoModel` knows.

    Compared by `model_type`, as a configuration loaded from the Hub is of another class. The dtype
    is the surrounding one: a nested configuration's own would give a model of mixed dtypes.
    """
    if config.model_type == own.config_class.model_type:
        return own._from_config(config, dtype=torch.get_default_dtype())
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())


class MM1Model(MM1PreTrainedModel):
    """Vision tower, connector and decoder, without a language-modelling head.

    Every tile is one row of `pixel_values` and becomes a constant number of visual tokens, which
    replace the placeholders `config.image_token_id` in order.
    """

    config: MM1Config
    base_model_prefix = "model"
    input_modalities = ("image", "text")

    def __init__(self, config: MM1Config):
        super().__init__(config)
        self.vision_tower = _build_part(config.vision_config, own=MM1VisionModel)
        for name in POOLING_PARTS.get(config.vision_config.model_type, ()):
            part = getattr(self.vision_tower, name, None)
            if part is not None:
                part.requires_grad_(False)
        parameters = inspect.signature(self.vision_tower.forward).parameters
        self._tower_takes_interpolation = "interpolate_pos_encoding" in parameters
        self.connector = MM1Connector._from_config(
            config.connector_config, dtype=torch.get_default_dtype()
        )
        self.language_model = _build_part(config.text_config, own=MM1TextModel)
        self.post_init()

    @can_return_tuple
    @accepts_precomputed_kwargs("image")
    def get_image_features(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Encode tiles and map them to visual tokens.

        Args:
            pixel_values: `(N, channels, height, width)`: floats, normalised, or uint8, which is
                normalised here, with `config.image_mean` and `config.image_std`.
            **kwargs: `output_hidden_states`, `output_attentions` of the vision tower.

        Returns:
            The vision tower's output, with the visual tokens `(N, K, D)` as `pooler_output`.
        """
        if pixel_values.dtype == torch.uint8:
            pixel_values = self._normalise(pixel_values)
        pixel_values = pixel_values.to(self.vision_tower.dtype)  # not every foreign tower does it
        height, width = pixel_values.shape[-2:]
        patch_size = self.config.vision_config.patch_size
        grid = (height // patch_size, width // patch_size)
        native = (height, width) == image_height_width(self.config.vision_config)
        if not native:
            self._require_native(height, width)
            if self._tower_takes_interpolation:
                kwargs["interpolate_pos_encoding"] = True
        layer = self.config.vision_feature_layer
        if layer is not None:
            kwargs["output_hidden_states"] = True
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._tower_learns(pixel_values)):
            outputs = self.vision_tower(pixel_values, **{**kwargs, "return_dict": True})
        features = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
        # Towers put class and register tokens in front of the patches.
        features = features[:, features.shape[1] - math.prod(grid) :].contiguous()
        outputs.pooler_output = self.connector(features, grid=grid)
        return outputs

    def _tower_learns(self, pixel_values: torch.Tensor) -> bool:
        """Whether anything in front of the tower's output needs a gradient.

        Otherwise no graph is kept, though `enable_input_require_grads`, which adapters of the
        decoder need under activation checkpointing, also marks the tower's patch embeddings.
        """
        parameters = self.vision_tower.parameters()
        return pixel_values.requires_grad or any(one.requires_grad for one in parameters)

    def resize_image(self, size: int | tuple[int, int]) -> None:
        """Make another tile size the native one: MM1's way to higher resolution.

        The model computes what it computed with such tiles before, when it interpolated its
        positions at every call; now tower and connector own the interpolated positions, learn them,
        and the saved configuration says so. Nothing happens at the native size.

        Call it before the optimizer is made, and make the processor anew, since it owns the size of
        tiles (and with the `"mlp"` connector their number of tokens changes):
        `MM1Processor.from_parts(tokenizer=processor.tokenizer, config=model.config)`.

        Args:
            size: Side of a tile in pixels, or height and width; multiples of the patch size.

        Raises:
            ValueError: If the size does not suit the tower; see `resize_tower`.

        Source: MM1, arXiv 2403.09611, section 4 (448, 560 and 672 px during fine-tuning).
        """
        resize_tower(self.vision_tower, size)
        self.connector.resize_grid(patch_grid(self.vision_tower.config))

    def _require_native(self, height: int, width: int) -> None:
        """Raise for a tile size the tower has no positions for; AIMv2 cannot interpolate them."""
        vision = self.config.vision_config
        if vision.model_type != "aimv2_vision_model" or vision.is_native:
            return
        raise ValueError(
            f"The tiles have {height} x {width} px, but this AIMv2 tower knows positions for "
            f"{vision.image_size} x {vision.image_size} px only. Call model.resize_image, or make "
            "the processor with MM1Processor.from_parts(tokenizer=…, config=model.config)."
        )

    def _normalise(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 tiles on their device: a quarter of the bytes travel there."""
        mean = torch.tensor(self.config.image_mean, device=pixel_values.device)[:, None, None]
        std = torch.tensor(self.config.image_std, device=pixel_values.device)[:, None, None]
        return pixel_values * (1 / (255 * std)) - mean / std

    def get_placeholder_mask(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.FloatTensor,
        image_features: torch.FloatTensor,
    ) -> torch.Tensor:
        """Find the placeholders and check that there is one for each visual token.

        Args:
            input_ids: `(B, T)`, or None to compare `inputs_embeds` with the placeholder's
                embedding.
            inputs_embeds: `(B, T, D)`.
            image_features: Visual tokens `(N, K, D)`.

        Returns:
            `(B, T, 1)`, true at placeholders.

        Raises:
            ValueError: If the counts differ, or `config.image_token_id` is not set.
        """
        if self.config.image_token_id is None:
            raise ValueError(
                "config.image_token_id is not set, so visual tokens have no place to go. Build the "
                "processor with MM1Processor.from_parts(tokenizer=…, config=model.config), which "
                "sets it, or set it to the id of the tokenizer's image token."
            )
        if input_ids is None:
            placeholder = torch.full((), self.config.image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(placeholder)).all(-1)
        else:
            mask = input_ids == self.config.image_token_id
        num_tokens = mask.sum()
        num_features = image_features.shape[0] * image_features.shape[1]
        torch_compilable_check(
            num_tokens == num_features,
            f"Image features and image tokens do not match, tokens: {num_tokens}, features: "
            f"{num_features} ({image_features.shape[0]} tiles of {image_features.shape[1]} visual "
            "tokens). Make input_ids and pixel_values with one call of the same MM1Processor, and "
            "never truncate a sequence inside an image.",
        )
        return mask.unsqueeze(-1).to(inputs_embeds.device)

    def _require_no_placeholder(
        self, input_ids: torch.LongTensor | None, past_key_values: Cache | None
    ) -> None:
        """Raise if a text without tiles has placeholders: they would pass as an untrained word.

        Later steps of a generation are exempt: their tiles stand in the cache.
        """
        image_token_id = self.config.image_token_id
        if input_ids is None or image_token_id is None or torch.compiler.is_compiling():
            return
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            return
        num_tokens = (input_ids == image_token_id).sum()
        if num_tokens:
            raise ValueError(
                f"Image features and image tokens do not match, tokens: {num_tokens}, features: 0 "
                "(no tiles). Pass the pixel_values that the processor made with these input_ids."
            )

    def _see(self, pixel_values, mm_encoder_outputs, **kwargs) -> torch.Tensor | None:
        """Visual tokens `(N, K, D)` of the batch, computed here unless `generate` already did."""
        encoded = (mm_encoder_outputs or {}).get("image")
        if encoded is None and pixel_values is not None:
            encoded = self.get_image_features(pixel_values, return_dict=True, **kwargs)
        return None if encoded is None else encoded.pooler_output

    def _see_nothing(self, inputs_embeds: torch.Tensor, **kwargs) -> torch.Tensor:
        """Run the vision tower on one black tile and add the result with weight zero.

        Ranks of a sharded model must all call the tower equally often; a text-only batch that skips
        it would stop the run (and 10 % of MM1's sequences are text only).
        """
        vision = self.config.vision_config
        tile = inputs_embeds.new_zeros(1, vision.num_channels, *image_height_width(vision))
        features = self.get_image_features(tile, return_dict=True, **kwargs).pooler_output
        return inputs_embeds + 0.0 * features.mean().to(inputs_embeds.device, inputs_embeds.dtype)

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MM1ModelOutputWithPast:
        """See, connect, read.

        Args:
            input_ids: `(B, T)` with placeholders; or else `inputs_embeds`.
            pixel_values: `(N, channels, height, width)`: the tiles of all samples, in the order of
                their placeholders. None for text alone; in training a black tile with weight zero
                then takes its place, so that every forward calls the vision tower once.
            attention_mask: `(B, T)`, 1 for real tokens and 0 for padding.
            position_ids: `(B, T)`; restarting at 0 for each packed document.
            past_key_values: Cache of earlier keys and values.
            inputs_embeds: `(B, T, D)` in place of `input_ids`.
            use_cache: Whether to return a cache.
            mm_encoder_outputs: Output of `get_image_features` under `"image"`, in place of
                `pixel_values`; `generate` passes it.
            **kwargs: `output_hidden_states`, `output_attentions`, arguments of the attention
                backend; for a sparse decoder `output_router_logits` and `token_mask`.

        Raises:
            ValueError: If inputs exclude each other, or placeholders and tiles do not match.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if pixel_values is not None and mm_encoder_outputs is not None:
            raise ValueError("Give pixel_values or mm_encoder_outputs, not both.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None and pixel_values.shape[0] == 0:
            pixel_values = None
        for_decoder = {name: kwargs.pop(name) for name in _FOR_DECODER if name in kwargs}
        image_features = self._see(pixel_values, mm_encoder_outputs, **kwargs)
        if image_features is not None:
            image_features = image_features.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, image_features)
        else:
            self._require_no_placeholder(input_ids, past_key_values)
            if self.training and torch.is_grad_enabled():
                inputs_embeds = self._see_nothing(inputs_embeds, **kwargs)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **{**kwargs, **for_decoder, "return_dict": True},
        )
        return MM1ModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_features,
            router_logits=getattr(outputs, "router_logits", None),
        )


class MM1ForConditionalGeneration(
    PredictsTokens, AnswersForRouters, MM1PreTrainedModel, GenerationMixin
):
    """MM1 with its language-modelling head: pictures and text in, text out."""

    config: MM1Config
    input_modalities = ("image", "text")
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: MM1Config):
        super().__init__(config)
        self.model = MM1Model(config)
        self.lm_head = VocabularyHead(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        *,
        vision: PartSource,
        text: PartSource,
        connector: PartSource | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_token_id: int | None = None,
        vision_feature_layer: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> "MM1ForConditionalGeneration":
        """Compose an MM1 from a vision tower, a connector and a decoder.

        Every part is a checkpoint (folder or Hub id), a model object or a configuration; parts that
        bring weights are copied, the others are newly initialised.

        Args:
            vision: Vision tower; of a whole CLIP or SigLIP, its tower is taken.
            text: Decoder; with a head (`…ForCausalLM`) its head comes along.
            connector: `MM1Connector`, its checkpoint or `MM1ConnectorConfig`; None means MM1's
                C-Abstractor with 144 tokens.
            tokenizer: If given, the image token is added to it where it is missing, the embedding
                table grows to its length where it must, and `config.image_token_id` is set.
            image_token_id: Vocabulary id of the placeholder, if no tokenizer is given.
            vision_feature_layer: See `MM1Config`.
            dtype: Dtype of the model; that of the decoder's weights by default.

        Raises:
            ValueError: If the parts do not fit each other.
        """
        parts = (text_part(text), vision_part(vision), connector_part(connector))
        config = MM1Config(
            text_config=parts[0].config,
            vision_config=parts[1].config,
            connector_config=parts[2].config,
            image_token_id=image_token_id,
            vision_feature_layer=vision_feature_layer,
        )
        model = cls._from_config(config, dtype=dtype or composed_dtype(*parts))
        copy_decoder(model.model.language_model, model.lm_head, parts[0])
        settings = getattr(parts[0].model, "generation_config", None)
        if settings is not None:
            model.generation_config = copy.deepcopy(settings)
        copy_weights(model.model.vision_tower, parts[1])
        copy_weights(model.model.connector, parts[2])
        model.tie_weights()
        if tokenizer is not None:
            image_token = add_image_token(tokenizer)
            if len(tokenizer) > config.text_config.vocab_size:
                model.resize_token_embeddings(len(tokenizer))
            model.config.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        return model

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args, **kwargs):  # noqa: D102
        # A batch of text from a collator may bring a tensor of no tiles: nothing to encode, nothing
        # to repeat for beams.
        pixel_values = kwargs.get("pixel_values")
        if pixel_values is not None and pixel_values.shape[0] == 0:
            del kwargs["pixel_values"]
        return super().generate(*args, **kwargs)

    def get_image_features(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Encode tiles and map them to visual tokens; see `MM1Model.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def resize_image(self, size: int | tuple[int, int]) -> None:
        """Make another tile size the native one; see `MM1Model.resize_image`."""
        self.model.resize_image(size)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool | None = None,
        return_token_losses: bool = False,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MM1CausalLMOutputWithPast:
        """See, connect, read, and project to the vocabulary.

        Args:
            input_ids: `(B, T)` with placeholders; or else `inputs_embeds`.
            pixel_values: `(N, channels, height, width)`, all tiles in the order of placeholders.
            attention_mask: `(B, T)`, 1 for real tokens and 0 for padding.
            position_ids: `(B, T)`; restarting at 0 for each packed document.
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
            output_router_logits: Whether to return those of a sparse decoder; see `MM1TextConfig`.
            return_token_losses: Whether to return the loss of each token beside their mean.
            mm_encoder_outputs: Output of `get_image_features` under `"image"`.
            **kwargs: `shift_labels`, and everything else that `MM1Model.forward` takes.

        Raises:
            ValueError: If inputs exclude each other, or placeholders and tiles do not match.
        """
        targets, use_cache = self.part_targets(
            labels, kwargs, use_cache=use_cache, past_key_values=past_key_values
        )
        text = self.config.text_config
        shown = {"attention_mask": attention_mask, "position_ids": position_ids}
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            **shown,
            **self.routing_inputs(
                text, output_router_logits=output_router_logits, **targets, **shown
            ),
            **kwargs,
        )
        return self._answer(
            outputs,
            targets=targets,
            shown=shown,
            num_items_in_batch=num_items_in_batch,
            logits_to_keep=logits_to_keep,
            skip_logits=skip_logits,
            return_token_losses=return_token_losses,
            **kwargs,
        )

    def _answer(
        self,
        outputs: MM1ModelOutputWithPast,
        *,
        targets: dict,
        shown: dict,
        num_items_in_batch: torch.Tensor | int | None,
        **kwargs,
    ) -> MM1CausalLMOutputWithPast:
        """Loss and logits of what the model made of a batch, its routers' losses included."""
        text = self.config.text_config
        loss, logits, token_losses = self.predict(
            outputs.last_hidden_state,
            num_items_in_batch=num_items_in_batch,
            vocab_size=text.vocab_size,
            rescale=_rescaling(text),
            **targets,
            **kwargs,
        )
        routing = self.report_routing(
            text,
            outputs.router_logits,
            hidden_states=outputs.last_hidden_state,
            num_items_in_batch=num_items_in_batch,
            **targets,
            **shown,
        )
        return MM1CausalLMOutputWithPast(
            loss=loss if routing.loss is None else loss + routing.loss.to(loss.device),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            token_losses=token_losses,
            aux_loss=routing.balance,
            z_loss=routing.z,
            router_logits=outputs.router_logits,
        )


def _rescaling(text_config: PreTrainedConfig) -> Rescale | None:
    """What some foreign decoders do between head and soft-max (Granite, Cohere, Gemma 2)."""
    divisor = getattr(text_config, "logits_scaling", None)
    factor = getattr(text_config, "logit_scale", None)
    cap = getattr(text_config, "final_logit_softcapping", None)
    if divisor is None and factor is None and cap is None:
        return None

    def rescale(logits: torch.Tensor) -> torch.Tensor:
        if divisor is not None:
            logits = logits / divisor
        if factor is not None:
            logits = logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return rescale


__all__ = ["MM1ForConditionalGeneration", "MM1Model"]
