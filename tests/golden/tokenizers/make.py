"""Makes the tokenizer goldens: three small vocabularies as GGUF files, and the ids that llama.cpp gives with them.

    python tests/golden/tokenizers/make.py

Needs `llama-cpp-python`, `gguf` and `tokenizers`; the tests need none of the first. The vocabularies are trained on
the cases themselves, across word boundaries, so that a wrong cut shows up as a wrong id. Each variant is one of them
with some keys replaced; llama.cpp reads the very file that the tests read, with the same keys replaced.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
from cases import CASES, random_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
PREFIX = "tokenizer.ggml."
SPECIALS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<custom>", "<customs>")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPECIAL_TYPES = (UNKNOWN, CONTROL, CONTROL, CONTROL, CONTROL, CONTROL, USER_DEFINED, USER_DEFINED)
# Tokens must differ from the special ones; llama.cpp ends a token at a zero byte.
TRAINING = [text for text in CASES if not any(part in text for part in (*SPECIALS, "\x00"))] * 2
MODES = ((True, True), (False, False))  # (add_special, parse_special)

# One name of every pre-tokenizer that differs from the others, and all their other names, which get few texts.
BYTE_LEVEL_PRES = (
    *("default", "gpt-2", "llama-bpe", "dbrx", "glm4", "qwen2", "qwen35", "ufakzeka", "laguna", "deepseek-llm"),
    *("deepseek-coder", "deepseek-v3", "spark2_5", "falcon", "starcoder", "tekken", "gpt-4o"),
    *("granite-embed-multi-97m", "tiny_aya", "afmoe", "youtu", "kimi-k2", "superbpe", "bailingmoe", "seed-coder"),
    *("minicpm5", "exaone-moe", "jais-2", "bloom", "viking", "chameleon"),
)
ALIASES = (
    *("phi-2", "jina-es", "jina-de", "jina-v1-en", "roberta-bpe", "gigachat", "a.x-4.0", "mellum", "modern-bert"),
    *("mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "llama3", "llama-v3", "falcon3", "falcon-h1"),
    *("pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "smaug-bpe", "chatglm-bpe", "glm5", "deepseek-r1-qwen", "kormo"),
    *("f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2", "hunyuan-dense", "joyai-llm", "hy_v4"),
    *("refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2", "llama4", "kanana2", "talkie"),
    *("minimax-m2", "cohere2moe", "bailingmoe2", "llada-moe", "poro-chat", "gpt3-finnish"),
)
BOS_EOS = {f"{PREFIX}add_bos_token": True, f"{PREFIX}add_eos_token": True}
VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "byte_level.gguf": [
        *({f"{PREFIX}pre": pre} for pre in (*BYTE_LEVEL_PRES, *ALIASES)),
        {f"{PREFIX}pre": "qwen2", **BOS_EOS},
    ],
    "sentencepiece.gguf": [
        {},
        {f"{PREFIX}add_space_prefix": False},
        BOS_EOS,
        {f"{PREFIX}add_bos_token": False, "general.name": "Phi-3 mini"},
    ],
    "space_mark.gguf": [{}, {f"{PREFIX}model": "gpt2", f"{PREFIX}pre": "sarvam-moe"}],
}


def train(texts: Sequence[str], size: int, byte_level: bool) -> Mapping[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=alphabet, max_token_length=12
    )
    tokenizer.train_from_iterator(texts, trainer)
    model: Mapping[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def ordered(model: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    vocabulary = model["vocab"]
    merges = [" ".join(merge) for merge in model["merges"]]
    return sorted(vocabulary, key=vocabulary.__getitem__), merges


def byte_level() -> dict[str, Any]:
    tokens, merges = ordered(train(TRAINING, 900, byte_level=True))
    return {
        "model": "gpt2",
        "pre": "default",
        "tokens": [*SPECIALS, *tokens],
        "token_type": [*SPECIAL_TYPES, *[NORMAL] * len(tokens)],
        "merges": merges,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def space_marked(texts: Sequence[str]) -> list[str]:
    return ["\u2581" + text.replace(" ", "\u2581") for text in texts]


def sentencepiece() -> dict[str, Any]:
    tokens, merges = ordered(train(space_marked(TRAINING), 1000, byte_level=False))
    tokens = [token for token in tokens if token not in "漢ßЖ\t\n" and token != "\u2581\u2581x"]
    rank = {merge.replace(" ", ""): number for number, merge in enumerate(merges)}
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    # Threes of equal scores: which of them merges first must follow from their places.
    scores = [-float(rank[token] // 3) if token in rank else -2000.0 for token in tokens]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [*SPECIALS, *fallback, *tokens],
        "scores": [*[0.0] * (len(SPECIALS) + 256), *scores],
        "token_type": [*SPECIAL_TYPES, *[BYTE] * 256, *[NORMAL] * len(tokens)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


def space_mark() -> dict[str, Any]:
    lines = [line for text in TRAINING for line in text.replace(" ", "\u2581").split("\n")]
    tokens, merges = ordered(train(lines, 700, byte_level=False))
    tokens = [token for token in tokens if "\n" not in token]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    breaks = ["\n", "\n\n", "\n\n\n"]
    return {
        "model": "gemma4",
        "tokens": [*SPECIALS, *fallback, *breaks, *tokens],
        "scores": [0.0] * (len(SPECIALS) + 259 + len(tokens)),
        "token_type": [*SPECIAL_TYPES, *[BYTE] * 256, *[NORMAL] * (3 + len(tokens))],
        "merges": merges,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


def write(path: Path, values: Mapping[str, Any]) -> None:
    """`values` by full key; a GGUF file without tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def llama_ids(path: Path, texts: Sequence[str]) -> tuple[list[list[list[int]]], list[int]]:
    """For each text the ids in each of MODES; and the ids that end a generation."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    ids = [
        [model.tokenize(text.encode(), add_bos=special, special=parse) for special, parse in MODES] for text in texts
    ]
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    ends = [t for t in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, t)]
    model.close()
    return ids, ends


def main() -> None:
    texts = [*CASES, *random_texts(60, seed=20261123)]
    pools: list[list[list[list[int]]]] = [[] for _ in texts]
    results = []
    makers = {"byte_level.gguf": byte_level, "sentencepiece.gguf": sentencepiece, "space_mark.gguf": space_mark}
    for file, make in makers.items():
        values = {PREFIX + key: value for key, value in make().items()}
        write(HERE / file, values)
        for replaced in VARIANTS[file]:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder) / file, {**values, **replaced})
                ids, ends = llama_ids(Path(folder) / file, texts)
            chosen = []
            for pool, found in zip(pools, ids, strict=True):
                if found not in pool:
                    pool.append(found)
                chosen.append(pool.index(found))
            results.append({"file": file, "replaced": dict(replaced), "ends": ends, "chosen": chosen})
    golden = {
        "made_with": f"tests/golden/tokenizers/make.py, llama-cpp-python {version('llama-cpp-python')}",
        "modes": [{"add_special": special, "parse_special": parse} for special, parse in MODES],
        "texts": texts,
        "ids": pools,
        "variants": results,
    }
    (HERE / "ids.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
