"""Quantised checkpoints that Plait does not read, or that are damaged: one sentence each, with what is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from plait.cli.main import main
from plait.errors import ModelFileError, PlaitError, UnsupportedModelError
from plait.formats.open import open_model
from plait.formats.quant.integers import fits_half, narrowest_format
from support.packed_checkpoints import KINDS, Packed

Q = "model.layers.0.self_attn.q_proj"


def _group(layout: str, **weights: object) -> dict[str, Any]:
    given = {"num_bits": 4, "type": "int", "strategy": "group", **weights}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": {"weights": given}}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fp8": ({"quant_method": "fp8"}, "by 'fp8'"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "by 'bitsandbytes'"),
    "gptq, 3 bits": ({"quant_method": "gptq", "bits": 3}, "by GPTQ in the layout 'gptq' with 3 bits"),
    "gptq, marlin": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "layout 'marlin'"),
    "awq, gemv": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "by AWQ's 'gemv' in 4 bits"),
    "float": (_group("float-quantized", type="float", num_bits=8), "'float-quantized' (float of 8 bits"),
    "nvfp4": (_group("nvfp4-pack-quantized", type="float"), "'nvfp4-pack-quantized' (float of 4 bits"),
    "marlin-24": (_group("marlin-24"), "'marlin-24'"),
    "3 bits": (_group("pack-quantized", num_bits=3), "(int of 3 bits"),
    "blocks": (_group("int-quantized", strategy="block", num_bits=8), "for each block"),
    "sparse": ({**_group("pack-quantized"), "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
}


def save_with(folder: Path, config: dict[str, Any]) -> Path:
    packed = Packed(KINDS["gptq"])
    packed.save(folder)
    (folder / "config.json").write_text(json.dumps({**packed.config(), "quantization_config": config}))
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_unread_variants_name_what_is_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, says = REFUSED[name]
    save_with(tmp_path, config)
    with pytest.raises(UnsupportedModelError):
        open_model(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert "Plait reads AWQ (gemm, 4 bits), GPTQ (2, 4 and 8 bits) and compressed-tensors" in error
    assert error.count("\n") == 1


def test_the_configuration_may_lie_beside(tmp_path: Path) -> None:
    packed = Packed(KINDS["gptq"])
    packed.save(tmp_path)
    config = packed.config()
    beside = {key: value for key, value in config.pop("quantization_config").items() if key != "quant_method"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(beside))
    assert open_model(tmp_path).tensors[f"{Q}.weight"].format == "Q4_0"


Damage = Callable[[dict[str, np.ndarray]], None]
DAMAGED: dict[str, tuple[str, Damage, str]] = {
    "no scales": ("awq", lambda t: t.pop(f"{Q}.scales"), "scales"),  # type: ignore[dict-item]
    "no zeros": ("gptq", lambda t: t.pop(f"{Q}.qzeros"), "qzeros"),  # type: ignore[dict-item]
    "short words": ("awq", lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"][:, :-1].copy()}), "qweight"),
    "short zeros": ("gptq", lambda t: t.update({f"{Q}.qzeros": t[f"{Q}.qzeros"][:-1].copy()}), "qzeros"),
    "floats": ("gptq", lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"].astype(np.float32)}), "qweight"),
    "a group that is not there": ("gptq", lambda t: t.update({f"{Q}.g_idx": t[f"{Q}.g_idx"] + 9}), "g_idx"),
    "no shape": ("packed-4", lambda t: t.update({f"{Q}.weight_shape": np.array([0, 64])}), "weight_shape"),
    "another shape": ("packed-4", lambda t: t.update({f"{Q}.weight_shape": np.array([64, 128])}), "weight_packed"),
    "odd scales": ("w8a8", lambda t: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"][:-1].copy()}), "weight"),
    "odd zeros": (
        "packed-4-asymmetric",
        lambda t: t.update({f"{Q}.weight_zero_point": t[f"{Q}.weight_zero_point"][:-1].copy()}),
        "weight_zero_point",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_parts_are_named(name: str, tmp_path: Path) -> None:
    kind, damage, says = DAMAGED[name]
    tensors: dict[str, np.ndarray]
    Packed(KINDS[kind]).save(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = dict(load_file(file))
    damage(tensors)
    save_file(tensors, file)
    with pytest.raises(ModelFileError, match=rf"{Q}\.{says}"):
        open_model(tmp_path)


@pytest.mark.parametrize("junk", [3, "awq", [], {"quant_method": None}, {"quant_method": "compressed-tensors"}])
def test_junk_is_one_error(junk: Any, tmp_path: Path) -> None:
    save_with(tmp_path, junk)
    if junk == []:
        return  # as good as none: the model then lacks its weights
    with pytest.raises(PlaitError):
        open_model(tmp_path)


def test_the_narrowest_format() -> None:
    ranges = {(-8, 7): "Q4_0", (-9, 7): "Q5_0", (-15, 15): "Q5_0", (-16, 16): "Q8_0", (-128, 127): "Q8_0"}
    assert {span: narrowest_format(*span) for span in ranges} == ranges
    assert narrowest_format(0, 128) is None


def test_which_scales_halves_hold() -> None:
    def fits(*scales: float) -> bool:
        return fits_half(np.array(scales, np.float32))

    assert fits(0.0, 0.1, 1 / 3, 60000.0, 2.0**-24)
    assert not fits(70000.0)
    assert not fits(1e-6)
    assert not fits(float("nan"))
