"""Chat templates for models whose files have none: the plain formats of the families, known by their special tokens.

Messages and nothing else: no tools. Knows texts of tokens, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from plait.errors import OptionError

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% set ns = namespace(first='') %}{% for message in messages %}{% if message.role == 'system' %}"
    "{% set ns.first = message.content | trim ~ '\n\n' %}{% else %}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ ns.first if message.role == 'user' }}{{ message.content | trim }}<end_of_turn>\n"
    "{% if message.role == 'user' %}{% set ns.first = '' %}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PHI3 = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(first='') %}{% for message in messages %}{% if message.role == 'system' %}"
    "{% set ns.first = message.content ~ '\n\n' %}{% elif message.role == 'user' %}"
    "[INST] {{ ns.first }}{{ message.content }} [/INST]{% set ns.first = '' %}{% else %}"
    " {{ message.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN: Mapping[str, str] = {
    "chatml": _CHATML,
    "llama3": _LLAMA3,
    "gemma": _GEMMA,
    "phi3": _PHI3,
    "mistral": _MISTRAL,
}
"""By llama.cpp's names for them."""
_SIGNS = {
    "chatml": {"<|im_start|>", "<|im_end|>"},
    "llama3": {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
    "gemma": {"<start_of_turn>", "<end_of_turn>"},
    "phi3": {"<|user|>", "<|assistant|>", "<|end|>"},
    "mistral": {"[INST]", "[/INST]"},
}


def by_vocabulary(texts: Iterable[str]) -> str | None:
    """The template of the family whose special tokens are among `texts`."""
    known = frozenset().union(*_SIGNS.values()).intersection(texts)
    return next((PLAIN[name] for name, signs in _SIGNS.items() if signs <= known), None)


def given_template(name: str) -> str:
    """What `--chat-template` says: a plain template by its name, or the text of a file. Raises `OptionError`."""
    if name in PLAIN:
        return PLAIN[name]
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        names = ", ".join(PLAIN)
        raise OptionError(
            f"--chat-template: {name} is no file that can be read, and none of {names}: {error}"
        ) from None
