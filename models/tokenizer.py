"""Text to token ids and back, for any model Potluck serves.

What a user types is always text: no spelling of a control token in it becomes one (`potluck.models.control_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from potluck.models.chat_template import ChatTemplate, TemplateError
from potluck.models.checkpoint import CheckpointError
from potluck.models.control_tokens import Marks, as_text
from potluck.models.detokenize import Detokenizer, piece_bytes
from potluck.models.gguf_metadata import read_metadata
from potluck.models.tokenizer_build import build_tokenizer
from potluck.models.tokenizer_gguf import read_gguf_vocabulary
from potluck.models.tokenizer_json import read_folder_vocabulary
from potluck.models.vocabulary import TokenizerError, Vocabulary

__all__ = ["Detokenizer", "TemplateError", "Tokenizer", "TokenizerError", "load_tokenizer"]


class Tokenizer:
    """The tokenizer of one model. All methods may be called from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Build from data; `load_tokenizer` reads the data.

        Raises:
            TokenizerError: the data contradicts itself.
        """
        marks = Marks.of({token.id: token.text for token in vocabulary.added if token.control})
        self._tokenizer = build_tokenizer(vocabulary, marks.marks)
        self._size = vocabulary.size()
        self._controls = marks.spellings
        self._spelling = vocabulary.spelling
        self._strip_space = vocabulary.strip_space
        self._usage = vocabulary.usage
        self._chat = ChatTemplate(self._usage.templates, self._usage.variables, marks)
        self._bytes: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """Ids are below this; a model's embedding may have more rows, padded to a round number."""
        return self._size

    @property
    def end_ids(self) -> frozenset[int]:
        """Any of these ends an answer.

        What the files say (`eos_token`, `eos_token_id` of config and generation config, GGUF's eos, eot and eom), and
        control tokens by which known chat formats end a turn (`END_OF_TURN` in `control_tokens`): published files often
        name only the end of a document.
        """
        return self._usage.end_ids

    @property
    def control_ids(self) -> frozenset[int]:
        """Tokens that only a chat template can write, and that `decode` leaves out."""
        return frozenset(self._controls)

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` can work."""
        return self._chat.exists

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without BOS. Control tokens spelled in it are text.

        Only the token for unknown characters can come of text, where a vocabulary has one and lacks single bytes.
        Halves of surrogate pairs and the noncharacters U+FDD0 and U+FDD1 are read as U+FFFD.
        """
        return self._ids(as_text(text))

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a prompt to be continued: `encode`, after BOS where the model was trained with one."""
        return [*self._usage.prompt_prefix, *self.encode(text)]

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The tokens of a conversation as the model's chat template writes it.

        Args:
            messages: role and content (a text or a list of text parts), and what else the template reads.
            tools: descriptions of functions, as the OpenAI API has them.
            add_generation_prompt: end with what makes the model answer.

        Raises:
            TemplateError: there is no template, or it refuses these messages, fails, or takes too much.
        """
        return self._ids(self._chat.render(messages, tools, add_generation_prompt))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens, control tokens left out: what a `Detokenizer` says when fed them all."""
        detokenizer = self.detokenizer()
        return "".join([*map(detokenizer.feed, ids), detokenizer.finish()])

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; of a control token, its spelling; empty for an id that is no token."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._looked_up(token)
        return known

    def token_text(self, token: int) -> str:
        """The bytes of a token as text; what is only a part of a character shows as U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")

    def detokenizer(self, continues: bool = False) -> Detokenizer:
        """A fresh detokenizer.

        Args:
            continues: the tokens continue a text that was already shown (a completion, not an answer), so the space
                that SentencePiece puts before a first word is a real one and stays.
        """
        return Detokenizer(self._text_bytes, self._strip_space and not continues)

    def close(self) -> None:
        """End the process that renders chat templates."""
        self._chat.close()

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _text_bytes(self, token: int) -> bytes:
        return b"" if token in self._controls else self.token_bytes(token)

    def _looked_up(self, token: int) -> bytes:
        if token in self._controls:
            return self._controls[token].encode()
        if not 0 <= token < 1 << 32:
            return b""
        piece = self._tokenizer.id_to_token(token)
        return b"" if piece is None else piece_bytes(piece, self._spelling)


def load_tokenizer(path: Path, cache: Path | None = None, chat_template: str | None = None) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        path: a GGUF file, or a folder with tokenizer.json or with one GGUF file.
        cache: a folder to keep what is slow to derive from a GGUF file.
        chat_template: a Jinja source to use instead of the model's own.

    Raises:
        TokenizerError: there is none, or it is damaged or of an unsupported kind.
    """
    try:
        vocabulary = _read(path, cache)
    except TokenizerError:
        raise
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    if chat_template is not None:
        vocabulary = replace(vocabulary, usage=replace(vocabulary.usage, templates={"default": chat_template}))
    return Tokenizer(vocabulary)


def _read(path: Path, cache: Path | None) -> Vocabulary:
    gguf = _gguf(path)
    return read_folder_vocabulary(path) if gguf is None else read_gguf_vocabulary(read_metadata(gguf), gguf.name, cache)


def _gguf(path: Path) -> Path | None:
    """The GGUF file a path means; a folder with a tokenizer.json means that."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.gguf"))
    return found[0] if len(found) == 1 and not (path / "tokenizer.json").is_file() else None
