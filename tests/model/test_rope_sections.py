"""Rotary embeddings in sections (M-RoPE): a text has one position in all of them, and turns as by plain ones."""

from __future__ import annotations

import numpy as np
import pytest

from plait.models.hf_rope import RopeReader
from plait.models.keys import Keys
from plait.ops.api import RopeLayout
from plait.ops.reference_math import rotate

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
HEAD_DIM, SECTIONS, THETA = 16, [2, 3, 3], 1e6
POSITIONS = [0, 1, 7, 300, 4000]


@pytest.mark.parametrize("kind", ["mrope", "default"])
def test_text_turns_as_in_transformers(kind: str) -> None:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, apply_rotary_pos_emb

    scaling = {"type": kind, "mrope_section": SECTIONS}
    keys = Keys("config.json", {"rope_theta": THETA, "rope_scaling": scaling})
    rope = RopeReader(keys, HEAD_DIM, RopeLayout.HALF, 1.0, 32768).read()["rope"]
    x = np.random.default_rng(0).standard_normal((len(POSITIONS), 3, HEAD_DIM)).astype(np.float32)
    got = rotate(x, np.array(POSITIONS), rope)

    parameters = {"rope_type": "default", "rope_theta": THETA, "mrope_section": SECTIONS}
    config = Qwen2VLTextConfig(hidden_size=3 * HEAD_DIM, num_attention_heads=3, num_key_value_heads=3,
                               rope_parameters=parameters)  # fmt: skip
    heads = torch.tensor(x).transpose(0, 1)[None]
    in_sections = torch.tensor(POSITIONS).expand(3, 1, -1)
    want, _ = apply_rotary_pos_emb(heads, heads, *Qwen2VLRotaryEmbedding(config)(heads, in_sections))
    np.testing.assert_allclose(got, want[0].transpose(0, 1).numpy(), atol=1e-3)  # its angles are float32
    assert np.abs(got[-1] - x[-1]).max() > 0.1


def test_sections_that_differ_would_turn_otherwise() -> None:
    """Or the test above shows nothing of sections."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding

    parameters = {"rope_type": "default", "rope_theta": THETA, "mrope_section": SECTIONS}
    config = Qwen2VLTextConfig(hidden_size=3 * HEAD_DIM, num_attention_heads=3, rope_parameters=parameters)
    turn = Qwen2VLRotaryEmbedding(config)
    places = torch.tensor([[[5]], [[6]], [[7]]])
    assert not torch.equal(turn(torch.zeros(1), places)[0], turn(torch.zeros(1), places * 0 + 5)[0])
