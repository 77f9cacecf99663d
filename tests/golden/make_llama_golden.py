"""Makes llama_logits.npz: transformers' logits of every tiny model in `support.tiny_llama` for every prompt there.

    python tests/golden/make_llama_golden.py

Needs the `parity` extra. Weights are drawn from a seed, here and in the tests; the file holds logits only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support.tiny_llama import PROMPTS, VARIANTS  # noqa: E402
from support.transformers_oracle import transformers_logits  # noqa: E402

if __name__ == "__main__":
    arrays = {
        f"{variant}/{name}": transformers_logits(tiny, [prompt])[0]
        for variant, tiny in VARIANTS.items()
        for name, prompt in PROMPTS.items()
    }
    np.savez_compressed(HERE / "llama_logits.npz", **arrays)
