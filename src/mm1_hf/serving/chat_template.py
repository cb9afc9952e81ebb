"""A chat template that does the processor's work for engines that render it without the processor.

vLLM renders a model's chat template with the tokenizer alone, so `MM1Processor.apply_chat_template`
never gets to escape what users wrote: a typed `<image>` would take the place of a picture. The
template made here escapes by itself.
"""

import json
from typing import Any

from mm1_hf.model.interleaving_mm1 import ESCAPE_MARK
from mm1_hf.model.tokenizer_mm1 import control_tokens

# Texts of messages are escaped as `ControlTokens.escape` does it. Everything else that a request
# can bring into a prompt is searched, and refused if it holds a control token.
_ESCAPING = """\
{%- macro escaped(text) -%}
    {%- for token in UNESCAPABLE -%}
        {%- if token in text -%}
            {{- raise_exception('The text contains the control token ' ~ token) -}}
        {%- endif -%}
    {%- endfor -%}
    {%- set safe = namespace(text=text | replace(MARK, MARK ~ MARK)) -%}
    {%- for token in TOKENS -%}
        {%- set safe.text = safe.text | replace(token, token[0] ~ MARK ~ token[1:]) -%}
    {%- endfor -%}
    {%- set tail = namespace(length=0) -%}
    {%- for beginning in BEGINNINGS -%}
        {%- if not tail.length and safe.text.endswith(beginning) -%}
            {%- set tail.length = beginning | length -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if tail.length -%}
        {%- set safe.text = safe.text ~ MARK -%}
    {%- endif -%}
    {{- safe.text -}}
{%- endmacro -%}
{%- macro refuse_tokens(value) -%}
    {%- for token in TOKENS + UNESCAPABLE -%}
        {%- if token in value | string -%}
            {{- raise_exception('Tools and fields of a message must not contain ' ~ token) -}}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro -%}
{%- set checked = namespace(messages=[], parts=[]) -%}
{%- for message in messages -%}
    {%- for key in message if key != 'content' -%}
        {{- refuse_tokens(key) -}}
        {{- refuse_tokens(message[key]) -}}
    {%- endfor -%}
    {%- if message['content'] is string -%}
        {%- set content = escaped(message['content']) -%}
        {%- set checked.messages = checked.messages + [dict(message, content=content)] -%}
    {%- elif message['content'] -%}
        {%- set checked.parts = [] -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' -%}
                {%- set part = dict(part, text=escaped(part['text'])) -%}
            {%- endif -%}
            {%- set checked.parts = checked.parts + [part] -%}
        {%- endfor -%}
        {%- set checked.messages = checked.messages + [dict(message, content=checked.parts)] -%}
    {%- else -%}
        {%- set checked.messages = checked.messages + [message] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = checked.messages -%}
{{- refuse_tokens(tools) -}}
{{- refuse_tokens(documents) -}}
"""


def escaping_chat_template(processor: Any) -> str:
    """The processor's chat template, made to escape untrusted text by itself.

    With the tokenizer alone it gives the tokens that `processor.apply_chat_template` gives with its
    own template, except that a picture stays one placeholder, which the engine expands.

    Args:
        processor: An `MM1Processor` with a chat template.

    Raises:
        ValueError: If the processor has no single chat template.
    """
    template = processor.chat_template
    if not isinstance(template, str):
        raise ValueError(
            f"The processor's chat_template is a {type(template).__name__}, but one Jinja template "
            "is expected. Save the processor with the template to serve as its chat_template."
        )
    tokens = control_tokens(processor.tokenizer, template)
    escapable = [token for token in tokens.tokens if token not in tokens.unescapable]
    # A text that ends like one of these could become a control token by what follows it.
    beginnings = {token[:length] for token in escapable for length in range(1, len(token))}
    constants = {
        "TOKENS": escapable,
        "UNESCAPABLE": sorted(tokens.unescapable),
        "BEGINNINGS": sorted(beginnings, key=lambda text: (-len(text), text)),
        "MARK": ESCAPE_MARK,
    }
    head = "".join(
        f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}\n"
        for name, value in constants.items()
    )
    return head + _ESCAPING + _first_token(processor, template) + template


def _first_token(processor: Any, template: str) -> str:
    """The first token, where the tokenizer adds one and the template does not write it.

    Processors tokenise what a template wrote with special tokens, vLLM without.
    """
    tokenizer = processor.tokenizer
    bos = tokenizer.bos_token
    if bos is None or tokenizer.encode("")[:1] != [tokenizer.bos_token_id]:
        return ""
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    return "" if rendered.startswith(bos) else "{{- bos_token -}}\n"


__all__ = ["escaping_chat_template"]
