"""Images and text in, model inputs out: placeholders, chat, and text that stays text."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Regex, normalizers
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from .configuration_mm1 import image_height_width
from .decoding_mm1 import count_images, images_per_sample
from .image_processing_mm1 import MM1ImageProcessor, MM1ImageProcessorKwargs
from .interleaving_mm1 import (
    ESCAPE_MARKS_TO_REMOVE,
    IMAGE_TOKEN,
    ControlTokens,
    Interleaved,
    add_image_token,
    interleave,
)
from .tiling_mm1 import TilePlan, num_image_tokens

_REMOVE_MARKS = normalizers.Replace(Regex(ESCAPE_MARKS_TO_REMOVE), "")
_MEDIA_PARTS = ("image", "image_url", "video", "audio")
_NEVER_ESCAPED_KEYS = ("role", "type")

# Plain words instead of control tokens, because a tokenizer need not have any but the end of
# sequence. The space behind "Assistant:" belongs to the answer, as in running text, so that a
# prompt is tokenised alike with and without its answer. MM1's template is not public: our choice.
_CHAT_TEMPLATE = """\
{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content | trim -}}
    {%- elif content -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- 'IMAGE_TOKEN' -}}
            {%- elif part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- else -%}
                {{- raise_exception('Parts must be of type text or image, not ' ~ part['type']) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- 'System: ' ~ render(message['content']) ~ '\\n' -}}
    {%- elif message['role'] == 'user' -%}
        {{- 'User: ' ~ render(message['content']) ~ '\\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'Assistant:' -}}
        {%- generation -%}
            {{- ' ' ~ render(message['content']) ~ eos_token -}}
        {%- endgeneration -%}
        {{- '\\n' -}}
    {%- else -%}
        {{- raise_exception('Roles must be system, user or assistant, not ' ~ message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'Assistant:' -}}
{%- endif -%}
"""

# Put in front of a template that knows strings only: joins the parts of a message into one string.
_PARTS_TO_STRINGS = """\
{%- set flat = namespace(messages=[], text='') -%}
{%- for message in messages -%}
    {%- if message['content'] is string or not message['content'] -%}
        {%- set flat.messages = flat.messages + [message] -%}
    {%- else -%}
        {%- set flat.text = '' -%}
        {%- for part in message['content'] -%}
            {%- set piece = 'IMAGE_TOKEN' if part['type'] == 'image' else part['text'] -%}
            {%- set flat.text = flat.text ~ piece -%}
        {%- endfor -%}
        {%- set flat.messages = flat.messages + [dict(message, content=flat.text)] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


class MM1ProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of `MM1Processor`."""

    images_kwargs: MM1ImageProcessorKwargs


# transformers 5.19 reads this attribute; without it `apply_chat_template` fails there.
MM1ProcessorKwargs._defaults = {}


class ImagesPlan(NamedTuple):
    """What images become, known without their pixels; one entry per image in every field."""

    tiles: tuple[TilePlan, ...]
    num_tiles: tuple[int, ...]
    num_tokens: tuple[int, ...]


class MM1Processor(ProcessorMixin):
    """Joins `MM1ImageProcessor` and a tokenizer.

    Every `<image>` in `text` stands for one image and becomes `num_image_tokens` placeholders per
    tile. The output holds `input_ids` and `attention_mask` of shape (samples, tokens),
    `pixel_values` of shape (tiles of all samples, 3, height, width) in reading order, and nothing
    else unless asked for (`return_mm_token_type_ids=True`: 1 at placeholders, 0 elsewhere).

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

    Raises:
        ValueError: If the tokenizer is not a fast one or lacks the image token.
    """

    valid_processor_kwargs = MM1ProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        num_image_tokens: int = 144,
        image_token: str = IMAGE_TOKEN,
        chat_template: str | None = None,
    ):
        _require_fast(tokenizer)
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
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template
        )
        _install_mark_removal(tokenizer)

    @classmethod
    def from_parts(
        cls,
        *,
        tokenizer: Any,
        config: Any,
        tiling: str = "none",
        resize_policy: str = "stretch",
        chat_template: str | None = None,
        **image_kwargs,
    ) -> "MM1Processor":
        """Build the processor that fits a model's configuration.

        Changes what it is given where the two must agree: the tokenizer receives the image token, a
        pad token (its end of sequence) if it has none, and left padding, which generation needs;
        training passes `padding_side="right"`. `config.image_token_id` is filled in if `None`.

        Args:
            tokenizer: A fast tokenizer, or the path or name of one.
            config: An `MM1Config`: tile size, tokens per tile and vocabulary size come from it.
            tiling: `"none"` or `"static"`.
            resize_policy: `"stretch"`, `"crop"` or `"pad"`.
            chat_template: A Jinja template. By default the tokenizer's own, made to accept image
                parts, or, for a tokenizer without one, a plain template of ours.
            image_kwargs: Further settings of `MM1ImageProcessor`.

        Raises:
            ValueError: If the tokenizer is unsuitable or disagrees with the configuration.
        """
        if isinstance(tokenizer, str) or hasattr(tokenizer, "__fspath__"):
            from transformers import AutoTokenizer  # slow to import, and not needed otherwise

            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        _require_fast(tokenizer)
        image_token = add_image_token(tokenizer)
        _add_padding(tokenizer)
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
            chat_template=_choose_chat_template(chat_template, tokenizer, image_token),
        )
        _agree_on_image_token(processor, config)
        return processor

    # What transformers' `__call__` asks for.

    @property
    def unused_input_names(self) -> list[str]:
        """Outputs of the parts that no MM1 model takes."""
        return ["num_tiles", "token_type_ids"]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """Placeholders of one image."""
        num_tiles = int(image_inputs["num_tiles"][image_idx])
        return self.image_token * num_image_tokens(num_tiles, self.num_image_tokens)

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        """Open the images and put the text into a list; empty lists of images are none."""
        images, text, videos, audio = super().prepare_inputs_layout(
            images=images, text=text, **kwargs
        )
        if isinstance(images, (list, tuple)) and count_images(images) == 0:
            images = None
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
        for sample, entry in enumerate(text):
            if not isinstance(entry, str):
                raise ValueError(
                    f"Sample {sample} of text is of type {type(entry).__name__}, but a string is "
                    "expected."
                )
        found = [entry.count(self.image_token) for entry in text]
        per_sample = images_per_sample(images)
        if per_sample is not None:
            self._compare_per_sample(found, per_sample)
            return
        num_images = 0 if images is None else count_images(images)
        if sum(found) != num_images:
            sample = _first_disagreeing_sample(found, num_images)
            raise ValueError(
                f"Sample {sample}: the text has {found[sample]} placeholders {self.image_token!r}. "
                f"All {len(text)} samples together have {sum(found)}, but {num_images} images were "
                "given. Pass one image per placeholder, in reading order, or one list of images "
                "per sample; write a literal placeholder as processor.escape(text)."
            )

    def _compare_per_sample(self, found: list[int], given: list[int]) -> None:
        if len(found) != len(given):
            raise ValueError(
                f"images has lists for {len(given)} samples, but text has {len(found)} samples. "
                "Pass one list of images per sample, an empty one for text alone."
            )
        for sample, (placeholders, num_images) in enumerate(zip(found, given, strict=True)):
            if placeholders != num_images:
                raise ValueError(
                    f"Sample {sample}: the text has {placeholders} placeholders "
                    f"{self.image_token!r}, but {num_images} images were given for it. Pass one "
                    "image per placeholder; write a literal placeholder as processor.escape(text)."
                )

    def _process_images(self, images, **kwargs):
        inputs = self.image_processor(images, **kwargs)
        replacements = [
            self.replace_image_token(inputs, image_idx=index)
            for index in range(len(inputs["num_tiles"]))
        ]
        return inputs, replacements

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

    def plan(self, image_sizes: Sequence[tuple[int, int]], **images_kwargs) -> ImagesPlan:
        """Tiles and tokens of images of the given sizes.

        Args:
            image_sizes: Upright (height, width) in pixels of each image.
            images_kwargs: Settings that override the image processor's, as in a call.
        """
        tiles = tuple(
            self.image_processor.plan(height, width, images_kwargs) for height, width in image_sizes
        )
        num_tiles = tuple(plan.num_tiles for plan in tiles)
        num_tokens = tuple(num_image_tokens(number, self.num_image_tokens) for number in num_tiles)
        return ImagesPlan(tiles, num_tiles, num_tokens)

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
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

    def apply_chat_template(
        self, conversation, chat_template=None, *, escape: bool = True, **kwargs
    ):
        """Render a conversation, or a batch of them, as transformers' own method does.

        Args:
            conversation: Messages with `role` and `content`; content is a string or a list of parts
                `{"type": "text", "text": …}` and `{"type": "image", "image": …}`.
            chat_template: A template to use instead of the processor's.
            escape: If true, control tokens in the messages, tools and documents stay text, so
                images come from image parts only. If false, `<image>` in a text is a placeholder.
            kwargs: transformers' own arguments, such as `tokenize`, `return_dict`,
                `add_generation_prompt`, `return_assistant_tokens_mask`, `processor_kwargs`.
        """
        if escape:
            control_tokens = self._control_tokens(chat_template)
            conversation = _escape_strings(conversation, control_tokens)
            for name in ("tools", "documents"):
                if kwargs.get(name) is not None:
                    kwargs[name] = _escape_strings(kwargs[name], control_tokens)
        return super().apply_chat_template(conversation, chat_template, **kwargs)

    def _control_tokens(self, chat_template: str | None = None) -> ControlTokens:
        """Special tokens, and added tokens that the chat template writes as control tokens."""
        template = chat_template or self.chat_template or ""
        if isinstance(template, dict):
            template = "".join(template.values())
        named = tuple(self.tokenizer.all_special_tokens)
        key = (template, named, len(self.tokenizer))
        if getattr(self, "_cached_control_tokens", (None,))[0] != key:
            added = self.tokenizer.added_tokens_decoder.values()
            written = [
                token
                for token in added
                if token.special or (token.content in template and not token.content.isspace())
            ]
            names = {token.content for token in written}.union(named)
            normalized = {token.content for token in written if token.normalized}
            tokens = ControlTokens(names, unescapable=normalized)
            self._cached_control_tokens = (key, tokens)
        return self._cached_control_tokens[1]


def _escape_strings(value: Any, control_tokens: ControlTokens) -> Any:
    """Escape every string in nested messages, except the sources of images and fixed names."""
    if isinstance(value, str):
        return control_tokens.escape(value)
    if isinstance(value, dict):
        if value.get("type") in _MEDIA_PARTS:
            return value
        return {
            key: entry if key in _NEVER_ESCAPED_KEYS else _escape_strings(entry, control_tokens)
            for key, entry in value.items()
        }
    messages = getattr(value, "messages", value)  # a `Chat`, as pipelines pass it
    if isinstance(messages, (list, tuple)):
        return [_escape_strings(entry, control_tokens) for entry in messages]
    return value


def _first_disagreeing_sample(found: list[int], num_images: int) -> int:
    """The sample whose placeholders exhaust the images, or the last one if images are left."""
    for sample, placeholders in enumerate(found):
        num_images -= placeholders
        if num_images < 0:
            return sample
    return len(found) - 1


def _require_fast(tokenizer: Any) -> None:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"A fast tokenizer is needed, but {type(tokenizer).__name__} was given. Load it with "
            "AutoTokenizer, or convert it to a tokenizer.json with the tokenizers library."
        )


def _install_mark_removal(tokenizer: Any) -> None:
    """Put the removal of escape marks in front of the normalizer, once.

    Some tokenizer classes rebuild their normalizer when they are loaded, so this cannot be left to
    the saved file.
    """
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is None:
        backend.normalizer = _REMOVE_MARKS
        return
    state = json.loads(backend.normalizer.__getstate__())
    first = state["normalizers"][0] if state["type"] == "Sequence" else state
    if first != json.loads(_REMOVE_MARKS.__getstate__()):
        backend.normalizer = normalizers.Sequence([_REMOVE_MARKS, backend.normalizer])


def _add_padding(tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                "The tokenizer has neither a pad token nor an end of sequence. Set "
                "tokenizer.pad_token to one of its tokens."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["padding_side"] = "left"  # only what stands here is saved


def _choose_chat_template(chat_template: str | None, tokenizer: Any, image_token: str) -> str:
    if chat_template is not None:
        return chat_template
    own = tokenizer.chat_template
    quoted = image_token.replace("\\", "\\\\").replace("'", "\\'")
    if own is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                "The tokenizer has neither a chat template nor an end of sequence to close the "
                "answers with. Set tokenizer.eos_token, or pass chat_template=."
            )
        return _CHAT_TEMPLATE.replace("IMAGE_TOKEN", quoted)
    if isinstance(own, str) and "image" not in own:
        return _PARTS_TO_STRINGS.replace("IMAGE_TOKEN", quoted) + own
    return own


def _agree_on_image_token(processor: MM1Processor, config: Any) -> None:
    token, token_id = processor.image_token, processor.image_token_id
    vocab_size = config.text_config.vocab_size
    if token_id >= vocab_size:
        raise ValueError(
            f"The image token {token!r} has id {token_id}, but the model's vocabulary has "
            f"{vocab_size} rows: pass tokenizer= to MM1ForConditionalGeneration.from_parts, or "
            "call model.resize_token_embeddings(len(tokenizer))."
        )
    if config.image_token_id is None:
        config.image_token_id = token_id
    elif config.image_token_id != token_id:
        raise ValueError(
            f"The tokenizer's image token {token!r} has id {token_id}, but config.image_token_id "
            f"is {config.image_token_id}. Use the tokenizer the model was made with, or set "
            "config.image_token_id to None for a model that has not been trained yet."
        )
