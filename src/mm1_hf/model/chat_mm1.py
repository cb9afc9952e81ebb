"""Conversations: the default chat template, its parts, untrusted messages, response formats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .interleaving_mm1 import ControlTokens, read_example

# LLaVA-1.5's response-format prompts, put behind a question. MM1's use of them is as reported; not
# re-verified. Source: LLaVA-1.5, arXiv 2310.03744, section 3.
SHORT_ANSWER_PROMPT = "Answer the question using a single word or phrase."
MULTIPLE_CHOICE_PROMPT = "Answer with the option's letter from the given choices directly."
CAPTION_RESPONSE_PROMPT = "Provide a one-sentence caption for the provided image."

_IMAGE_PARTS = ("image", "image_url")
_MEDIA_PARTS = (*_IMAGE_PARTS, "video", "audio")
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


def choose_chat_template(chat_template: str | None, tokenizer: Any, image_token: str) -> str:
    """The given template, or the tokenizer's own made to accept image parts, or ours.

    Raises:
        ValueError: If ours is needed and the tokenizer has no end of sequence to close answers.
    """
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


def split_conversations(conversation: Any) -> list[list[Mapping]]:
    """The conversations of a batch, or the only one, as lists of messages."""
    conversation = _messages_of(conversation)
    if not conversation:
        raise ValueError("The conversation has no messages, but at least one is expected.")
    first = _messages_of(conversation[0])
    batch = conversation if isinstance(first, (list, tuple)) else [conversation]
    return [list(_messages_of(messages)) for messages in batch]


def require_known_parts(conversation: Any) -> None:
    """Raise `ValueError` for parts of messages that are neither text nor image; names the place."""
    for number, messages in enumerate(split_conversations(conversation)):
        for place, message in enumerate(messages):
            for part in _parts(message):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                if kind in ("text", *_IMAGE_PARTS):
                    continue
                remedy = 'Write {"type": "text", "text": …} or {"type": "image", "image": …}.'
                if kind == "video":
                    remedy = (
                        "Sample the frames of the video and pass each as an image part: "
                        "mm1_hf.video does both."
                    )
                raise ValueError(
                    f"Conversation {number}, message {place} has a part of type {kind!r}, but text "
                    f"and images are expected. {remedy}"
                )


def escape_messages(value: Any, tokens: ControlTokens) -> Any:
    """Escape every string in nested messages, except the sources of images and fixed names."""
    if isinstance(value, str):
        return tokens.escape(value)
    if isinstance(value, Mapping):
        if value.get("type") in _MEDIA_PARTS:
            return value
        return {
            # Arguments of a tool call have keys that a user may have chosen. Whole tokens only: a
            # template writes something behind a key, so its end cannot become part of a token.
            tokens.escape(key)
            if isinstance(key, str) and any(token in key for token in tokens.tokens)
            else key: entry
            if key in _NEVER_ESCAPED_KEYS and isinstance(entry, str)
            else escape_messages(entry, tokens)
            for key, entry in value.items()
        }
    messages = _messages_of(value)
    if isinstance(messages, (list, tuple)):
        return [escape_messages(entry, tokens) for entry in messages]
    return value


def high_resolution_caps(
    conversation: Any, *, high_resolution_last: int, max_tiles: int
) -> list[list[int]]:
    """`max_tiles` of each image of each conversation: 1, or `max_tiles` near the end.

    A message of the user begins an exchange. The last exchange is the query; it and the
    `high_resolution_last` exchanges before it keep `max_tiles`.

    >>> image = {"role": "user", "content": [{"type": "image"}]}
    >>> answer = {"role": "assistant", "content": "a"}
    >>> high_resolution_caps([image, answer] * 4, high_resolution_last=1, max_tiles=9)
    [[1, 1, 9, 9]]

    Source: MM1, arXiv 2403.09611, section 4 (mixed resolution few-shot).
    """
    caps = []
    for messages in split_conversations(conversation):
        exchanges, exchange = [], 0
        for message in messages:
            exchange += message["role"] == "user"
            images = [part for part in _parts(message) if part.get("type") in _IMAGE_PARTS]
            exchanges += [exchange] * len(images)
        caps.append([max_tiles if e >= exchange - high_resolution_last else 1 for e in exchanges])
    return caps


def few_shot_messages(examples: Sequence, query: Any, *, system: str | None = None) -> list[dict]:
    """Worked examples and a query as turns: the images, then the question; then the answer.

    Raises:
        ValueError: If an example is no mapping or lacks something; names it.
    """
    messages: list[dict] = [] if system is None else [{"role": "system", "content": system}]
    for index, example in enumerate([*examples, query]):
        is_query = index == len(examples)
        name = "The query" if is_query else f"Example {index}"
        if not isinstance(example, Mapping):
            raise ValueError(
                f"{name} is of type {type(example).__name__}, but with style='chat' a mapping with "
                "'images', 'question' and 'answer' is expected."
            )
        images, question, answer = read_example(example, name=name, is_query=is_query)
        content = [{"type": "image", "image": image} for image in images]
        content += [{"type": "text", "text": question}] if question else []
        messages.append({"role": "user", "content": content})
        if not is_query:
            messages.append({"role": "assistant", "content": answer})
    return messages


def without_images(masks: Any, input_ids: Any, image_token_ids: Sequence[int]) -> Any:
    """Assistant masks, shape (samples, tokens) or a list of rows, that are 0 wherever images are.

    Args:
        masks: 1 at tokens of answers.
        input_ids: Token ids in the same form.
        image_token_ids: Ids of all tokens that images become.
    """
    is_text = [~np.isin(np.asarray(row), image_token_ids) for row in input_ids]
    if isinstance(masks, list):
        return [
            [int(value) * int(keep) for value, keep in zip(row, kept, strict=True)]
            for row, kept in zip(masks, is_text, strict=True)
        ]
    keep = np.stack(is_text)
    return masks * (torch.from_numpy(keep) if isinstance(masks, torch.Tensor) else keep)


def _messages_of(value: Any) -> Any:
    return getattr(value, "messages", value)  # a `Chat`, as pipelines pass it


def _parts(message: Mapping) -> Sequence:
    content = message.get("content")
    return content if isinstance(content, (list, tuple)) else ()
