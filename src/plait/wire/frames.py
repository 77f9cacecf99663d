"""Messages on a byte stream: four bytes of length, little endian, before each. Knows bytes alone."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

_LENGTH = Struct("<I")
MOST_BYTES = 1 << 30


def framed(message: bytes) -> bytes:
    """The message as it is sent. Raises `ValueError` for one of more than `MOST_BYTES`."""
    if len(message) > MOST_BYTES:
        raise ValueError(f"a message has {len(message)} bytes; at most {MOST_BYTES} can be sent")
    return _LENGTH.pack(len(message)) + message


class Frames:
    """Cuts a stream into messages. What has come of the next one is kept."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete with `data`. Raises `ValueError` for a length that nobody sends."""
        held = self._bytes
        held += data
        start = 0
        try:
            while len(held) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(held, start)
                if length > MOST_BYTES:
                    raise ValueError(f"a message claims {length} bytes")
                end = start + _LENGTH.size + length
                if len(held) < end:
                    break
                message = bytes(held[start + _LENGTH.size : end])
                start = end
                yield message
        finally:
            del held[:start]
