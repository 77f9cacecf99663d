"""The tokenizer of a model: text to ids, ids to text, and chat messages to a prompt.

The same face for GGUF files and for tokenizer.json. Knows where each is found; the readers know the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import ModelNotFoundError, TemplateError, TokenizerError
from plait.tokenizer.data import TokenizerData
from plait.tokenizer.decode import StreamDecoder, decode
from plait.tokenizer.fim import FimToken
from plait.tokenizer.vocabulary import utf8
from plait.types import ChatMessage, TokenId

if TYPE_CHECKING:
    from plait.formats.tensor import ModelSource
    from plait.tokenizer.template import ChatTemplate


class Tokenizer:
    """Immutable in all that can be seen, and safe to use from several threads."""

    def __init__(self, source: str, parts: TokenizerData, templates: Mapping[str, str]) -> None:
        """`source` names the file in messages; `templates` are chat templates by name, "default" the one to use where
        none is named."""
        self.source = source
        self.templates = dict(templates)
        self._parts = parts
        self._vocabulary = parts.vocabulary
        self._compiled: dict[str, ChatTemplate] = {}

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """From a GGUF file (it needs no tensors), a Hugging Face directory, or a tokenizer.json.

        Raises `ModelNotFoundError`, `TokenizerError`, or `UnsupportedModelError` for a kind that Plait does not know.
        """
        path = Path(path)
        if not path.exists():
            raise ModelNotFoundError(f"{path}: no such file or directory")
        if path.is_file() and path.suffix == ".json":
            return cls._from_tokenizer_json(path)
        if path.is_dir() and (path / "tokenizer.json").is_file():
            return cls._from_tokenizer_json(path / "tokenizer.json")
        if path.is_dir():
            raise TokenizerError(f"{path}: holds no tokenizer.json; only tokenizers saved in that form can be used")
        from plait.formats.open import open_model

        return cls.from_source(open_model(path))

    @classmethod
    def from_source(cls, source: ModelSource) -> Tokenizer:
        """The tokenizer of an opened model. Raises as `load` does."""
        if source.container != "gguf":
            folder = source.path if source.path.is_dir() else source.path.parent
            return cls.load(folder)
        return cls.from_metadata(str(source.path), source.metadata)

    @classmethod
    def from_metadata(cls, name: str, metadata: Mapping[str, object]) -> Tokenizer:
        """From GGUF's key-value pairs; `name` stands for the file in messages."""
        from plait.tokenizer import gguf
        from plait.tokenizer.template_files import from_gguf

        return cls(name, gguf.from_metadata(name, metadata), from_gguf(metadata))

    @classmethod
    def _from_tokenizer_json(cls, file: Path) -> Tokenizer:
        from plait.tokenizer import huggingface
        from plait.tokenizer.template_files import from_directory

        return cls(str(file), huggingface.from_file(file), from_directory(file.parent))

    @property
    def kind(self) -> str:
        """What sort of tokenizer it is, for people: "gpt2 (qwen2)", "llama", "tokenizer.json"."""
        return self._parts.kind

    @property
    def vocab_size(self) -> int:
        """How many ids there are, those without text included."""
        return len(self._vocabulary.texts)

    @cached_property
    def _pieces(self) -> tuple[bytes, ...]:
        return tuple(self.token_bytes(token) for token in range(self.vocab_size))

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token: a text of n bytes has at least n / longest_token tokens."""
        return max(map(len, self._pieces))

    @property
    def bos_id(self) -> TokenId | None:
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> TokenId | None:
        return self._vocabulary.eos_id

    @property
    def eog_ids(self) -> frozenset[TokenId]:
        """All ids that end a generation: end of text, of turn, of message, and their kin."""
        return self._vocabulary.eog_ids

    @property
    def fim_ids(self) -> Mapping[FimToken, TokenId]:
        """The tokens for filling in the middle of a text that the model has."""
        return self._vocabulary.fim

    @cached_property
    def adds_bos(self) -> bool:
        """Whether a prompt begins with the begin token, as the model wants it."""
        return self.bos_id is not None and self.encode("a")[:1] == [self.bos_id]

    @property
    def chat_template(self) -> str | None:
        """The source of the default chat template, if the model has one."""
        return self.templates.get("default")

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[TokenId]:
        """The ids of `text`. `add_special`: with the begin and end tokens that the model wants. `parse_special`:
        special tokens written out in the text become their ids; otherwise they are text like any other (use that for
        text from outside). Lone surrogates count as U+FFFD."""
        return self._parts.encoder.encode(_well_formed(text), add_special, parse_special)

    def decode(self, ids: Iterable[TokenId], skip_special: bool = False, *, continuing: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD. SentencePiece models spell a first word with a
        space that is not in the text, and it is taken away, unless `continuing` says that other text comes before.
        Raises `TokenizerError` for an id outside the vocabulary."""
        return decode(self._vocabulary, ids, skip_special, continuing)

    def stream_decoder(
        self, skip_special: bool = False, *, continuing: bool = False, keep: frozenset[str] = frozenset()
    ) -> StreamDecoder:
        """Decodes ids one at a time, to the same text as `decode`. For generated tokens, which follow a prompt,
        `continuing` keeps the space before the first word. `keep` are texts of special tokens that are shown all the
        same."""
        return StreamDecoder(self._vocabulary, skip_special, continuing, keep)

    def token_bytes(self, token: TokenId) -> bytes:
        """The bytes that `token` adds to a text. Raises `TokenizerError` for an id outside the vocabulary."""
        return self._vocabulary.piece(token)

    def token_text(self, token: TokenId) -> str:
        """The token as the model's file spells it. Raises `TokenizerError` for an id outside the vocabulary."""
        self._vocabulary.check_id(token)
        return self._vocabulary.texts[token]

    def is_special(self, token: TokenId) -> bool:
        """Whether `skip_special` leaves this token out. Raises `TokenizerError` for an id outside the vocabulary."""
        return self._vocabulary.is_special(token)

    def ids_containing(self, texts: Iterable[str]) -> tuple[tuple[TokenId, ...], ...]:
        """Every way in which one of `texts` can show up in a sequence: a token with the whole of it, or a token that
        ends with its beginning, followed by the ids of the rest. For the sequence breakers of the DRY sampler."""
        found: dict[tuple[TokenId, ...], None] = {}
        for text in texts:
            wanted = utf8(text)
            starts = tuple(wanted[:n] for n in range(len(wanted) - 1, 0, -1))
            for token, piece in enumerate(self._pieces):
                if wanted in piece:
                    found[token,] = None
                    continue
                if not piece.endswith(starts):
                    continue
                for start in starts:
                    if piece.endswith(start):
                        rest = wanted[len(start) :].decode("utf-8", "replace")
                        found[token, *self.encode(rest, add_special=False, parse_special=False)] = None
        return tuple(found)

    def fingerprint(self) -> str:
        """Hexadecimal hash of all that decides which ids a text gets, and which text ids give. The same for the same
        tokenizer on any machine; the chat template is no part of it."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self._vocabulary.fingerprint(self._parts.method)

    def render_chat(
        self,
        messages: Sequence[ChatMessage],
        add_generation_prompt: bool = True,
        *,
        template: str | None = None,
        **extra: Any,
    ) -> str:
        """The prompt for a conversation, from the model's chat template (the one called `template`, if given; the one
        called "tool_use" where there is one and `tools` are). `extra` are further variables, such as `tools`.

        Raises `TemplateError` when there is no such template or it refuses these messages.
        """
        compiled = self._template(template or self._template_for(extra))
        special = {**self._parts.special, "bos_token": self._spell(self.bos_id), "eos_token": self._spell(self.eos_id)}
        return compiled.render(messages, add_generation_prompt, **{**special, **extra})

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        add_generation_prompt: bool = True,
        *,
        template: str | None = None,
        **extra: Any,
    ) -> list[TokenId]:
        """The ids of `render_chat`. A template writes the special tokens it wants, so none is added, but for the
        begin token of a model that wants one and whose template leaves it out."""
        return self.encode_rendered(self.render_chat(messages, add_generation_prompt, template=template, **extra))

    def encode_rendered(self, prompt: str) -> list[TokenId]:
        """The ids of what `render_chat` gave."""
        ids = self.encode(prompt, add_special=False)
        if self.bos_id is not None and self.adds_bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def with_template(self, source: str) -> Tokenizer:
        """The same, with this chat template and no other."""
        return Tokenizer(self.source, self._parts, {"default": source})

    def template_for(self, tools: object = None) -> str | None:
        """The source of the chat template that `render_chat` uses for a conversation with these tools: the model's own,
        or the plain one of the family whose special tokens the vocabulary has."""
        return self._sources.get(self._template_for({"tools": tools}))

    @cached_property
    def _sources(self) -> dict[str, str]:
        if self.templates:
            return self.templates
        from plait.tokenizer.plain_templates import by_vocabulary

        plain = by_vocabulary(self._vocabulary.texts)
        return {} if plain is None else {"default": plain}

    def _template_for(self, extra: Mapping[str, object]) -> str:
        return "tool_use" if extra.get("tools") and "tool_use" in self.templates else "default"

    def _template(self, name: str) -> ChatTemplate:
        from plait.tokenizer.template import ChatTemplate

        if name not in self._compiled:
            if name not in self._sources:
                others = ", ".join(sorted(self._sources))
                have = f"it has {others}" if others else "it has none; give one, or send a plain prompt"
                raise TemplateError(f"{self.source}: the model has no chat template called '{name}'; {have}")
            self._compiled[name] = ChatTemplate(self._sources[name], self.source)
        return self._compiled[name]

    def _spell(self, token: TokenId | None) -> str:
        return "" if token is None else self.token_text(token)


def _well_formed(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
