"""What a file that is not what it should be looks like, by its first bytes. Knows no container of ours."""

from __future__ import annotations

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, as PyTorch checkpoints are: convert it to GGUF or safetensors"),
    (b"GGUF", "a GGUF file"),
    (b"FUGG", "a big-endian GGUF file: convert it to little-endian"),
    (b"tjgg", "a GGJT file, llama.cpp's format before GGUF: convert the original model again"),
    (b"lmgg", "a GGML file, llama.cpp's format before GGUF: convert the original model again"),
    (b"fmgg", "a GGMF file, llama.cpp's format before GGUF: convert the original model again"),
    (b"algg", "a GGLA file, a llama.cpp LoRA adapter from before GGUF"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: convert it to GGUF or safetensors"),
    (b"\x7fELF", "a program, not a model"),
    (b"\x93NUMPY", "a numpy array file"),
)
HEAD_BYTES = 512


def looks_like(head: bytes) -> str:
    """A phrase for a file that starts with `head` (its first `HEAD_BYTES`): 'an HTML page, ...'."""
    for magic, phrase in _MAGICS:
        if head.startswith(magic):
            return phrase
    if not head.strip(b"\0"):
        return "zero bytes, as an interrupted download leaves"
    if len(head) >= 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file: give the directory that holds it and its config.json"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, as old PyTorch checkpoints are: convert it to GGUF or safetensors"
    return _text(head)


def _text(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps an error or login page saved in place of the download"
    if start.startswith(b"<?xml"):
        return "an XML document, perhaps a server's error saved in place of the download"
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    if printable < len(head):
        return f"binary data that starts with {head[:8].hex(' ')}"
    return "JSON text" if start.startswith((b"{", b"[")) else "a text file"
