"""Images and text in, model inputs out: placeholders, chat, few-shot, text that stays text."""

from collections.abc import Sequence
from typing import Any, Literal

from transformers import logging
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from .chat_mm1 import (
    choose_chat_template,
    escape_messages,
    few_shot_messages,
    high_resolution_caps,
    require_known_parts,
    without_images,
)
from .configuration_mm1 import image_height_width
from .decoding_mm1 import (
    count_images,
    flatten_images,
    images_per_sample,
    read_image_size,
)
from .image_processing_mm1 import MM1ImageProcessor, MM1ImageProcessorKwargs
from .interleaving_mm1 import (
    IMAGE_TOKEN,
    VQA_PROMPT,
    ControlTokens,
    FewShotPrompt,
    Interleaved,
    add_image_token,
    few_shot_prompt,
    interleave,
    require_matching_images,
)
from .sample_plan_mm1 import MARKER_TOKENS, MARKERS, SamplePlan, image_text
from .tiling_mm1 import require_name
from .tokenizer_mm1 import (
    add_padding,
    add_special_tokens,
    control_tokens,
    install_mark_removal,
    require_fast,
)

logger = logging.get_logger(__name__)


class MM1ImagesKwargs(MM1ImageProcessorKwargs, total=False):
    """Settings of images in a call of `MM1Processor`.

    max_image_tokens (`int`, *optional*):
        Most tokens of all images of one sample, markers included. Samples that need more get fewer
        tiles; see `plan_sample`.
    return_image_plans (`bool`, *optional*):
        Whether the output also holds `image_plans`, a `SamplePlan` for each sample.
    """

    max_image_tokens: int | None
    return_image_plans: bool | None


class MM1ProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of `MM1Processor`."""

    images_kwargs: MM1ImagesKwargs


# transformers 5.19 reads this attribute; without it `apply_chat_template` fails there.
MM1ProcessorKwargs._defaults = {}


class MM1Processor(ProcessorMixin):
    """Joins `MM1ImageProcessor` and a tokenizer.

    Every `<image>` in `text` stands for one image and becomes `num_image_tokens` placeholders per
    tile, and markers if there are any. The output holds `input_ids` and `attention_mask` of shape
    (samples, tokens), `pixel_values` of shape (tiles of all samples, 3, height, width) in reading
    order, and nothing else unless asked for (`return_mm_token_type_ids=True`: 1 where an image
    stands, markers included, 0 elsewhere; `return_image_plans=True`: what became of the images).

    Where text is given, a sample is a text, and its images are those of its placeholders, whether
    they come as a flat list or as a list per sample.

    Text given to the processor itself is trusted: a `<image>` in it is a placeholder. Text given to
    `apply_chat_template` and `interleave` is not: control tokens in it are escaped and stay text.
    The rule that removes the escape marks again is put into the tokenizer's normalizer by the
    constructor; it changes no text without U+FDD0.

    Args:
        image_processor: An `MM1ImageProcessor`.
        tokenizer: A fast tokenizer that has the image token; `from_parts` adds it.
        num_image_tokens: Placeholders per tile, the connector's number.
        image_token: The placeholder, unless the tokenizer has its own `image_token`.
        chat_template: A Jinja template; the tokenizer's by default.
        markers: One of `MARKERS`: what stands around the tiles of an image; see `image_layout`.

    Raises:
        ValueError: If the tokenizer is not a fast one or lacks the image token or the markers.
    """

    valid_processor_kwargs = MM1ProcessorKwargs
    skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "image_plans"]

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        num_image_tokens: int = 144,
        image_token: str = IMAGE_TOKEN,
        chat_template: str | None = None,
        markers: str = "none",
    ):
        require_fast(tokenizer)
        if num_image_tokens < 1:
            raise ValueError(
                f"num_image_tokens is {num_image_tokens}, but a tile needs at least one."
            )
        self.num_image_tokens = num_image_tokens
        self.image_token = getattr(tokenizer, "image_token", None) or image_token
        added = tokenizer.added_tokens_encoder
        if self.image_token not in added:
            raise ValueError(
                f"The tokenizer has no added token {self.image_token!r}. Use "
                "MM1Processor.from_parts, which adds it, or add it as a special token and resize "
                "the model's embeddings."
            )
        self.image_token_id = added[self.image_token]
        require_name("markers", markers, MARKERS)
        self.markers = markers
        missing = [token for token in MARKER_TOKENS[markers] if token not in added]
        if missing:
            raise ValueError(
                f"The tokenizer lacks {len(missing)} tokens of markers={markers!r}, such as "
                f"{missing[0]!r}. Use MM1Processor.from_parts, which adds them, and resize the "
                "model's embeddings."
            )
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template
        )
        install_mark_removal(tokenizer)

    @classmethod
    def from_parts(
        cls,
        *,
        tokenizer: Any,
        config: Any,
        tiling: str = "none",
        resize_policy: str = "stretch",
        chat_template: str | None = None,
        markers: str = "none",
        **image_kwargs,
    ) -> "MM1Processor":
        """Build the processor that fits a model's configuration.

        Changes what it is given where the two must agree: the tokenizer receives the image token,
        the tokens of the markers, a pad token (its end of sequence) if it has none, and left
        padding, which generation needs; training passes `padding_side="right"`.
        `config.image_token_id` is filled in if `None`.

        Args:
            tokenizer: A fast tokenizer, or the path or name of one.
            config: An `MM1Config`: tile size, tokens per tile and vocabulary size come from it.
            tiling: `"none"`, `"static"` or `"dynamic"`.
            resize_policy: `"stretch"`, `"crop"` or `"pad"`.
            chat_template: A Jinja template. By default the tokenizer's own, made to accept image
                parts, or, for a tokenizer without one, a plain template of ours.
            markers: `"none"`, `"index"` or `"separators"`. Their tokens enlarge the vocabulary;
                the error that a model's vocabulary is too small for them says what to do.
            image_kwargs: Further settings of `MM1ImageProcessor`.

        Raises:
            ValueError: If the tokenizer is unsuitable or disagrees with the configuration.
        """
        if isinstance(tokenizer, str) or hasattr(tokenizer, "__fspath__"):
            from transformers import AutoTokenizer  # slow to import, and not needed otherwise

            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        require_fast(tokenizer)
        require_name("markers", markers, MARKERS)
        image_token = add_image_token(tokenizer)
        add_special_tokens(tokenizer, MARKER_TOKENS[markers])
        add_padding(tokenizer)
        height, width = image_height_width(config.vision_config)
        if image_kwargs.get("size") is None:
            image_kwargs["size"] = {"height": height, "width": width}
        for name in ("image_mean", "image_std"):
            if image_kwargs.get(name) is None:
                image_kwargs[name] = tuple(getattr(config, name))
            setattr(config, name, list(image_kwargs[name]))
        processor = cls(
            image_processor=MM1ImageProcessor(
                tiling=tiling, resize_policy=resize_policy, **image_kwargs
            ),
            tokenizer=tokenizer,
            num_image_tokens=config.connector_config.num_image_tokens,
            image_token=image_token,
            chat_template=choose_chat_template(chat_template, tokenizer, image_token),
            markers=markers,
        )
        _agree_on_image_token(processor, config)
        return processor

    # What transformers' `__call__` asks for.

    @property
    def unused_input_names(self) -> list[str]:
        """Outputs of the parts that no MM1 model takes."""
        return ["num_tiles", "tile_plans", "image_numbers", "token_type_ids"]

    @property
    def image_token_ids(self) -> list[int]:
        """Ids of all tokens that images become: the placeholder and the markers."""
        tokens = [self.image_token, *MARKER_TOKENS[self.markers]]
        return self.tokenizer.convert_tokens_to_ids(tokens)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """Placeholders and markers of one image, from the output of the image processor."""
        return image_text(
            image_inputs["tile_plans"][image_idx],
            image_token=self.image_token,
            tokens_per_tile=self.num_image_tokens,
            image=image_inputs["image_numbers"][image_idx],
            markers=self.markers,
        )

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        """Open the images and give each text its own; empty lists of images are none."""
        images, text, videos, audio = super().prepare_inputs_layout(
            images=images, text=text, **kwargs
        )
        if images is None or (isinstance(images, (list, tuple)) and count_images(images) == 0):
            return None, text, videos, audio
        if text is not None and images_per_sample(images) is None:
            counts = [e.count(self.image_token) for e in text if isinstance(e, str)]
            named = flatten_images(images)
            # Otherwise `validate_inputs` says what is wrong.
            if sum(counts) == count_images(images) and len(counts) == len(text):
                images = [[next(named)[1] for _ in range(count)] for count in counts]
        return images, text, videos, audio

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs) -> None:
        """Check that every sample has as many placeholders as images.

        Raises:
            ValueError: If not; names the sample, what was found and what was expected.
        """
        if videos is not None or audio is not None:
            raise ValueError(
                "MM1 takes text and images only: pass the frames of a video as images."
            )
        if images is None and text is None:
            raise ValueError("Neither text nor images were given: pass at least one of them.")
        if text is None:
            return
        require_matching_images(
            text,
            image_token=self.image_token,
            num_images=0 if images is None else count_images(images),
            images_per_sample=images_per_sample(images),
        )

    def _process_images(self, images, **kwargs):
        max_image_tokens = kwargs.pop("max_image_tokens", None)
        return_image_plans = kwargs.pop("return_image_plans", None)
        plans = self._plan_images(images, max_image_tokens, kwargs)
        # The same grids again, whatever led to them.
        kwargs["max_tiles"] = [cap for plan in plans for cap in plan.max_tiles]
        inputs = self.image_processor(images, **kwargs)
        if return_image_plans:
            inputs["image_plans"] = plans
        replacements = [
            self.replace_image_token(inputs, image_idx=index)
            for index in range(len(inputs["num_tiles"]))
        ]
        return inputs, replacements

    def _plan_images(
        self, images: Any, max_image_tokens: int | None, images_kwargs: dict
    ) -> list[SamplePlan]:
        layout = images_kwargs.get("input_data_format")
        samples, caps = self.image_processor.group_by_sample(
            images, max_tiles=images_kwargs.get("max_tiles")
        )
        plans = []
        for number, (sample, max_tiles) in enumerate(zip(samples, caps, strict=True)):
            sizes = [
                read_image_size(i.image, name=i.name, input_data_format=layout) for i in sample
            ]
            plan = self.image_processor.plan_sample(
                sizes,
                tokens_per_tile=self.num_image_tokens,
                markers=self.markers,
                max_image_tokens=max_image_tokens,
                images_kwargs={**images_kwargs, "max_tiles": max_tiles},
                name=f"sample {number}",
            )
            if plan.lowered:
                lowered = ", ".join(f"image {i} from {a} to {b} tiles" for i, a, b in plan.lowered)
                logger.info(f"Sample {number}: fewer tiles for max_image_tokens: {lowered}.")
            plans.append(plan)
        return plans

    def _check_special_mm_tokens(self, text, text_inputs, modalities) -> None:
        try:
            super()._check_special_mm_tokens(text, text_inputs, modalities=modalities)
        except ValueError as error:
            ids = [list(row) for row in text_inputs["input_ids"]]
            for sample, (row, entry) in enumerate(zip(ids, text, strict=False)):
                kept = sum(int(token) == self.image_token_id for token in row)
                wanted = entry.count(self.image_token)
                if kept != wanted:
                    raise ValueError(
                        f"Sample {sample}: truncation to {len(row)} tokens leaves {kept} of "
                        f"{wanted} image placeholders. Images are never cut: raise max_length, use "
                        "fewer images or tiles, or shorten the text."
                    ) from None
            raise error

    # Counting without pixels.

    def plan(
        self,
        image_sizes: Sequence[tuple[int, int]],
        *,
        max_image_tokens: int | None = None,
        name: str = "the sample",
        **images_kwargs,
    ) -> SamplePlan:
        """Tiles and tokens of the images of one sample, given their sizes.

        Args:
            image_sizes: Upright (height, width) in pixels of each image.
            max_image_tokens: Most tokens of all images together; see `plan_sample`.
            name: What an error calls the sample.
            images_kwargs: Settings that override the image processor's, as in a call.
        """
        return self.image_processor.plan_sample(
            image_sizes,
            tokens_per_tile=self.num_image_tokens,
            markers=self.markers,
            max_image_tokens=max_image_tokens,
            images_kwargs=images_kwargs,
            name=name,
        )

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
        """What serving engines ask: counts of the images of one prompt.

        An engine that caches images asks for, and processes, only those it has not seen. Then the
        number of images in the sample is not known here; docs/guides/high-resolution.md says which
        settings do not depend on it.
        """
        if image_sizes is None:
            return MultiModalData()
        plan = self.plan(image_sizes, **{**kwargs, **kwargs.get("images_kwargs", {})})
        return MultiModalData(
            num_image_tokens=list(plan.num_tokens), num_image_patches=list(plan.num_tiles)
        )

    # Untrusted text.

    def escape(self, text: str) -> str:
        """Make control tokens in untrusted text harmless; they stay text and decode as written."""
        return self._control_tokens().escape(text)

    def interleave(self, segments: Sequence) -> Interleaved:
        """Join texts and images in reading order; the texts are escaped.

        With `text, images = processor.interleave(["Left: ", left, " Right: ", right])` follows
        `inputs = processor(text=text, images=images, return_tensors="pt")`.
        """
        return interleave(segments, image_token=self.image_token, escape=self.escape)

    def few_shot_prompt(
        self,
        examples: Sequence,
        query: Any,
        *,
        high_resolution_last: int = 3,
        prompt: str = VQA_PROMPT,
        separator: str = "\n",
        max_tiles: int | None = None,
    ) -> FewShotPrompt:
        """Join worked examples and a query; see `mm1_hf.model.interleaving_mm1.few_shot_prompt`.

        For a batch, pass `text`, `images` and `max_tiles` of several prompts as three lists.
        """
        return few_shot_prompt(
            examples,
            query,
            image_token=self.image_token,
            escape=self.escape,
            max_tiles=max_tiles or self.image_processor.max_tiles,
            high_resolution_last=high_resolution_last,
            prompt=prompt,
            separator=separator,
        )

    def few_shot(
        self,
        examples: Sequence,
        query: Any,
        *,
        high_resolution_last: int = 3,
        style: Literal["prompt", "chat"] = "prompt",
        prompt: str | None = None,
        separator: str = "\n",
        system: str | None = None,
        return_tensors: str = "pt",
        **kwargs,
    ) -> BatchFeature:
        """Model inputs of worked examples and a query, the earlier examples at low resolution.

        The query and the `high_resolution_last` examples before it are tiled as the settings say,
        even with dynamic tiling, which else leaves samples of many images whole; earlier examples
        become one tile per image.

        Args:
            examples: Each a mapping with `images` (one or a list), `question` and `answer`, which
                may be a whole chain of thought. With `style="prompt"` also a list of texts and
                images, taken as it stands.
            query: The same without `answer`.
            high_resolution_last: How many examples before the query keep high resolution.
            style: `"prompt"`: running text, for a pre-trained model. `"chat"`: turns of the chat
                template, for a tuned one.
            prompt: See `few_shot_prompt`; `VQA_PROMPT` by default. Not for `"chat"`, where images
                come first and the question follows.
            separator: Between the examples of a prompt.
            system: A system turn before a chat.
            return_tensors: `"pt"` or `"np"`.
            kwargs: Further arguments of a call of the processor.

        Raises:
            ValueError: If an example lacks something; names it.

        Source: MM1, arXiv 2403.09611, section 4: 3 examples at high resolution, as reported.
        """
        require_name("style", style, ("prompt", "chat"))
        if style == "prompt":
            if system is not None:
                raise ValueError(
                    "system belongs to style='chat'. Begin the prompt with it instead."
                )
            made = self.few_shot_prompt(
                examples,
                query,
                high_resolution_last=high_resolution_last,
                prompt=VQA_PROMPT if prompt is None else prompt,
                separator=separator,
                max_tiles=kwargs.pop("max_tiles", None),
            )
            caps = {"max_tiles": made.max_tiles} if made.images else {}
            return self(
                text=made.text,
                images=made.images or None,
                return_tensors=return_tensors,
                **caps,
                **kwargs,
            )
        if prompt is not None:
            raise ValueError("prompt belongs to style='prompt'. Write it into the questions.")
        messages = few_shot_messages(examples, query, system=system)
        return self.apply_chat_template(
            messages,
            high_resolution_last=high_resolution_last,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors=return_tensors,
            processor_kwargs=kwargs,
        )

    def apply_chat_template(
        self,
        conversation,
        chat_template=None,
        *,
        escape: bool = True,
        high_resolution_last: int | None = None,
        **kwargs,
    ):
        """Render a conversation, or a batch of them, as transformers' own method does.

        With `return_assistant_tokens_mask=True`, the mask is 1 at the tokens of answers and 0
        elsewhere, also at images inside of answers. It comes from the template's generation marks;
        the text is tokenised once.

        Args:
            conversation: Messages with `role` and `content`; content is a string or a list of parts
                `{"type": "text", "text": …}` and `{"type": "image", "image": …}`.
            chat_template: A template to use instead of the processor's.
            escape: If true, control tokens in the messages, tools and documents stay text, so
                images come from image parts only. If false, `<image>` in a text is a placeholder.
            high_resolution_last: If given, only the images of the last user turn and of so many
                turns before it are tiled; earlier ones become one tile each.
            kwargs: transformers' own arguments, such as `tokenize`, `return_dict`,
                `add_generation_prompt`, `return_assistant_tokens_mask`, `processor_kwargs`.

        Raises:
            ValueError: If a part of a message is neither text nor image; names its place.
        """
        require_known_parts(conversation)
        if high_resolution_last is not None and kwargs.get("tokenize"):
            kwargs["processor_kwargs"] = self._with_caps(
                kwargs.get("processor_kwargs") or {}, conversation, high_resolution_last
            )
        if escape:
            tokens = self._control_tokens(chat_template)
            conversation = escape_messages(conversation, tokens)
            for name in ("tools", "documents"):
                if kwargs.get(name) is not None:
                    kwargs[name] = escape_messages(kwargs[name], tokens)
        output: Any = super().apply_chat_template(conversation, chat_template, **kwargs)
        if hasattr(output, "keys") and "assistant_masks" in output:
            output["assistant_masks"] = without_images(
                output["assistant_masks"], output["input_ids"], self.image_token_ids
            )
        return output

    def _with_caps(self, processor_kwargs: dict, conversation: Any, last: int) -> dict:
        """`processor_kwargs` with a number of tiles for each image of a conversation."""
        processor_kwargs = dict(processor_kwargs)
        images_kwargs = dict(processor_kwargs.pop("images_kwargs", None) or {})
        most = processor_kwargs.pop("max_tiles", None) or images_kwargs.get("max_tiles")
        images_kwargs["max_tiles"] = high_resolution_caps(
            conversation,
            high_resolution_last=last,
            max_tiles=most or self.image_processor.max_tiles,
        )
        return processor_kwargs | {"images_kwargs": images_kwargs}

    def _control_tokens(self, chat_template: str | None = None) -> ControlTokens:
        template = chat_template or self.chat_template or ""
        if isinstance(template, dict):
            template = "".join(template.values())
        key = (template, tuple(self.tokenizer.all_special_tokens), len(self.tokenizer))
        if getattr(self, "_cached_control_tokens", (None,))[0] != key:
            self._cached_control_tokens = (key, control_tokens(self.tokenizer, template))
        return self._cached_control_tokens[1]


def _agree_on_image_token(processor: MM1Processor, config: Any) -> None:
    token, token_id = processor.image_token, processor.image_token_id
    vocab_size = config.text_config.vocab_size
    highest = max(processor.image_token_ids)
    if highest >= vocab_size:
        last = processor.tokenizer.convert_ids_to_tokens(highest)
        name = "image token" if highest == token_id else f"token of markers={processor.markers!r}"
        raise ValueError(
            f"The {name} {last!r} has id {highest}, but the model's vocabulary has {vocab_size} "
            "rows: pass tokenizer=, which has the token now, to "
            "MM1ForConditionalGeneration.from_parts, or call "
            "model.resize_token_embeddings(len(tokenizer))."
        )
    if config.image_token_id is None:
        config.image_token_id = token_id
    elif config.image_token_id != token_id:
        raise ValueError(
            f"The tokenizer's image token {token!r} has id {token_id}, but config.image_token_id "
            f"is {config.image_token_id}. Use the tokenizer the model was made with, or set "
            "config.image_token_id to None for a model that has not been trained yet."
        )
