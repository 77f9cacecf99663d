"""Writes a GGUF model of a real shape with random weights, for measuring: it runs like the real one and says nothing.

    python benchmarks/make_random.py llama-3.2-1b Q4_K_M ~/models/1b-q4_k_m.gguf

F16, Q8_0 and Q4_0 hold rounded normal values. K-quants are drawn as valid blocks whose values have the same mean and
spread. The types of the tensors follow llama-quantize's mixes (`--pure`: one type for all matrices). Tensors are drawn
and written one by one. Needs the `gguf` package.
"""

from __future__ import annotations

import argparse
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize

Bytes = npt.NDArray[np.uint8]
CHUNK_VALUES = 1 << 22
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama. `ff` is the width of the gated MLP; `tied`: the output matrix is the embedding."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    context: int
    head_dim: int = 64
    theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = False
    llama3_rope: bool = False

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """(name, out, in) of every matrix, in the file's order."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "token_embd", self.vocab, self.width
        if not self.tied:
            yield "output", self.vocab, self.width
        for i in range(self.layers):
            yield f"blk.{i}.attn_q", q, self.width
            yield f"blk.{i}.attn_k", kv, self.width
            yield f"blk.{i}.attn_v", kv, self.width
            yield f"blk.{i}.attn_output", self.width, q
            yield f"blk.{i}.ffn_gate", self.ff, self.width
            yield f"blk.{i}.ffn_up", self.ff, self.width
            yield f"blk.{i}.ffn_down", self.width, self.ff


SHAPES = {
    "tiny": Shape(layers=2, width=256, heads=4, kv_heads=2, ff=512, vocab=512, context=512, tied=True),
    # 8 layers, 16M parameters: its weights fit a cache, so the cost of a step's overhead shows.
    "small": Shape(layers=8, width=512, heads=8, kv_heads=2, ff=512, vocab=8192, context=8192, tied=True),
    "bundled": Shape(
        layers=8, width=512, heads=8, kv_heads=2, ff=1024, vocab=8192, context=8192, theta=100000.0, tied=True
    ),
    "tinyllama-1.1b": Shape(layers=22, width=2048, heads=32, kv_heads=4, ff=5632, vocab=32000, context=2048),
    "llama-3.2-1b": Shape(
        layers=16, width=2048, heads=32, kv_heads=8, ff=8192, vocab=128256, context=131072, theta=500000.0, tied=True,
        llama3_rope=True,
    ),
    "llama-2-7b": Shape(
        layers=32, width=4096, heads=32, kv_heads=32, ff=11008, vocab=32000, context=4096, head_dim=128
    ),
}  # fmt: skip

MIXES = {
    "F16": ("F16", LlamaFileType.MOSTLY_F16),
    "Q8_0": ("Q8_0", LlamaFileType.MOSTLY_Q8_0),
    "Q4_0": ("Q4_0", LlamaFileType.MOSTLY_Q4_0),
    "Q4_K_M": ("Q4_K", LlamaFileType.MOSTLY_Q4_K_M),
}


def tensor_type(mix: str, shape: Shape, name: str, columns: int, pure: bool) -> str:
    """The type of a matrix: llama-quantize gives 4-bit files a Q6_K head, and Q4_K_M more bits for attn_v and ffn_down
    in the first and last eighth of the layers and every third between. K-quants need rows of whole 256s."""
    base = MIXES[mix][0]
    if pure or base not in ("Q4_0", "Q4_K"):
        return base
    head = name == ("token_embd" if shape.tied else "output")
    more = mix == "Q4_K_M" and name.endswith(("attn_v", "ffn_down")) and _more_bits(int(name.split(".")[1]), shape)
    wanted = "Q6_K" if head or more else base
    if wanted.endswith("_K") and columns % 256:
        return {"Q6_K": "Q8_0", "Q4_K": "Q5_0"}[wanted]
    return wanted


def _more_bits(layer: int, shape: Shape) -> bool:
    eighth = shape.layers // 8
    return layer < eighth or layer >= 7 * shape.layers // 8 or (layer - eighth) % 3 == 2


def draw(rng: np.random.Generator, kind: str, rows: int, columns: int) -> Bytes:
    """The bytes of a random matrix whose values have mean 0 and standard deviation 1/sqrt(columns), (rows, bytes)."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if columns % block:
        raise SystemExit(f"{kind} needs rows of whole {block}s, and a matrix here has {columns} columns")
    out = np.empty((rows, columns // block * size), np.uint8)
    step = max(1, CHUNK_VALUES // columns)
    for start in range(0, rows, step):
        part = out[start : start + step]
        part[:] = _draw(rng, kind, len(part), columns).reshape(part.shape)
    return out


def _draw(rng: np.random.Generator, kind: str, rows: int, columns: int) -> Bytes:
    spread = columns**-0.5
    if kind == "Q4_K":
        return _draw_q4_k(rng, rows * columns // 256, spread)
    if kind == "Q6_K":
        return _draw_q6_k(rng, rows * columns // 256, spread)
    values = rng.standard_normal((rows, columns), np.float32) * np.float32(spread)
    return np.ascontiguousarray(quantize(values, GGMLQuantizationType[kind])).view(np.uint8)


def _draw_q4_k(rng: np.random.Generator, blocks: int, spread: float) -> Bytes:
    """d, dmin (f16), 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit values: d * scale * q - dmin * min.

    Each minimum equals its scale and dmin is 7.5 d, so that the mean is 0."""
    out = rng.integers(0, 256, (blocks, 144), np.uint8)
    scales = rng.integers(24, 64, (blocks, 8), np.uint8)
    # q is uniform over 16 values: standard deviation 4.61; the root mean square of 24..63 is 45.
    d = rng.uniform(0.8, 1.2, blocks) * (spread / (4.61 * 45))
    _put_f16(out, 0, d)
    _put_f16(out, 2, 7.5 * d)
    low = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    out[:, 4:8], out[:, 8:12] = low, low
    out[:, 12:16] = (scales[:, 4:] & 15) | (scales[:, 4:] & 15) << 4
    return out


def _draw_q6_k(rng: np.random.Generator, blocks: int, spread: float) -> Bytes:
    """192 bytes of 6-bit values (low and high bits), 16 signed scales, d (f16): d * scale * (q - 32)."""
    out = rng.integers(0, 256, (blocks, 210), np.uint8)
    sizes = rng.integers(48, 128, (blocks, 16), np.int8)
    signs = rng.integers(0, 2, (blocks, 16), np.int8) * 2 - 1
    out[:, 192:208] = (sizes * signs).astype(np.int8).view(np.uint8)
    # q is uniform over 64 values: root mean square of q - 32 is 18.5; that of 48..127 is 90.5.
    _put_f16(out, 208, rng.uniform(0.8, 1.2, blocks) * (spread / (18.5 * 90.5)))
    return out


def _put_f16(out: Bytes, at: int, values: npt.NDArray[np.float64]) -> None:
    out[:, at : at + 2] = values.astype(np.float16)[:, None].view(np.uint8)


def add_metadata(writer: GGUFWriter, shape: Shape, name: str, mix: str) -> None:
    writer.add_name(f"random {name}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(MIXES[mix][1])
    writer.add_quantization_version(2)


def add_tokenizer(writer: GGUFWriter, vocab: int) -> None:
    """A byte-level BPE vocabulary, the kind that every reader of GGUF knows: one special token, the 256 bytes, then
    a space and each word of one letter, of two, of three ..., merged letter by letter."""
    tokens, merges = ["<|endoftext|>", *_byte_letters()], []
    words = ["Ġ"]
    while len(tokens) < vocab:
        longer = [(word, letter) for word in words for letter in string.ascii_lowercase][: vocab - len(tokens)]
        words = [word + letter for word, letter in longer]
        tokens += words
        merges += [f"{word} {letter}" for word, letter in longer]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (vocab - 1))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def _byte_letters() -> list[str]:
    """GPT-2's letters for the bytes 0 to 255: the printable ones of Latin-1 are their own, the others follow at 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def vectors(shape: Shape) -> dict[str, npt.NDArray[np.float32]]:
    """Norms, all 1; and Llama 3's divisors of the rotary frequencies."""
    names = [f"blk.{i}.{kind}_norm" for i in range(shape.layers) for kind in ("attn", "ffn")]
    out = {f"{name}.weight": np.ones(shape.width, np.float32) for name in ["output_norm", *names]}
    if shape.llama3_rope:
        out["rope_freqs.weight"] = np.geomspace(1, 32, shape.head_dim // 2).astype(np.float32)
    return out


def write(path: Path, name: str, mix: str, seed: int = 0, pure: bool = False) -> None:
    """Write a model; raises SystemExit for a mix that the shape cannot have."""
    shape = SHAPES[name]
    writer = GGUFWriter(path, "llama")
    add_metadata(writer, shape, name, mix)
    add_tokenizer(writer, shape.vocab)
    small = vectors(shape)
    for tensor, values in small.items():
        writer.add_tensor_info(tensor, values.shape, values.dtype, values.nbytes)
    matrices = [(m, tensor_type(mix, shape, m, columns, pure), rows, columns) for m, rows, columns in shape.matrices()]
    for matrix, kind, rows, columns in matrices:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        bytes_shape = (rows, columns // block * size)
        writer.add_tensor_info(
            f"{matrix}.weight", bytes_shape, np.dtype(np.uint8), rows * bytes_shape[1], GGMLQuantizationType[kind]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in small.values():
        writer.write_tensor_data(values)
    rng = np.random.default_rng(seed)
    for number, (_, kind, rows, columns) in enumerate(matrices, 1):
        writer.write_tensor_data(draw(rng, kind, rows, columns))
        if sys.stderr.isatty():
            print(f"\r{number} of {len(matrices)} matrices", end="", file=sys.stderr, flush=True)
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("mix", choices=MIXES)
    parser.add_argument("path", type=Path, help="the file to write, outside the repository")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pure", action="store_true", help="one type for all matrices")
    args = parser.parse_args()
    path: Path = args.path.expanduser().resolve()
    if path.is_relative_to(REPOSITORY):
        parser.error(f"{path} is in the repository; give a path outside it")
    if not path.parent.is_dir():
        parser.error(f"there is no folder {path.parent}")
    write(path, args.shape, args.mix, args.seed, args.pure)
    print(f"{path}: {path.stat().st_size / 2**20:,.1f} MiB")


if __name__ == "__main__":
    main()
