"""From token ids back to text, one token at a time."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import cache

from potluck.models.vocabulary import Spelling

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's alphabet: the printable bytes of Latin-1 stand for themselves, the rest follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + number): byte for number, byte in enumerate(others)}


def piece_bytes(piece: str, spelling: Spelling) -> bytes:
    """The bytes that a piece of the vocabulary stands for.

    A byte-level piece with a character outside the alphabet (an added token) stands for its own UTF-8.
    """
    if spelling is Spelling.SENTENCEPIECE:
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()
    alphabet = _byte_of()
    try:
        return bytes([alphabet[character] for character in piece])
    except KeyError:
        return piece.encode()


class Detokenizer:
    """Turns a stream of token ids into a stream of text, in time proportional to the tokens.

    Never emits half a character: bytes of an unfinished one wait for the next token. Bytes that cannot become text turn
    into U+FFFD, one for each maximal unfinished sequence (Unicode 16.0, section 3.9), at `finish()` at the latest.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], strip_space: bool) -> None:
        """Start a text.

        Args:
            bytes_of: the bytes of a token; empty for control tokens.
            strip_space: drop one space at the very start, as SentencePiece does.
        """
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_space = strip_space

    def feed(self, token: int) -> str:
        """The text that is certain after one more token; often empty."""
        return self._begun(self._decoder.decode(self._bytes_of(token)))

    def finish(self) -> str:
        """The rest of the text. The detokenizer can be used for a new stream of the same text afterwards."""
        return self._begun(self._decoder.decode(b"", final=True))

    def _begun(self, text: str) -> str:
        if self._strip_space and text:
            self._strip_space = False
            return text.removeprefix(" ")
        return text
