"""The table of architectures: for each container and name how its config is read, its tables of tensor names (the first
that fits a file is used), and the function that records it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from plait.formats.tensor import ModelSource
from plait.models import gguf_config, gguf_families, gguf_older, hf_config, hf_families, hf_older
from plait.models import names as gguf_names
from plait.models import names_hf as hf_names
from plait.models.config import DecoderConfig
from plait.models.decoder import record_decoder
from plait.models.names import DecoderNames
from plait.models.weights import WeightReader
from plait.ops.api import Program

ReadConfig = Callable[[ModelSource], DecoderConfig]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One family in one container. `serves` names, for people, models that files of it hold."""

    name: str
    serves: str
    read_config: ReadConfig
    names: tuple[DecoderNames, ...]
    record: Callable[[DecoderConfig, DecoderNames, WeightReader], Program] = record_decoder


def _gguf(name: str, serves: str, read: ReadConfig, *names: DecoderNames) -> Architecture:
    return Architecture(name, serves, read, names or (gguf_names.GGUF_DECODER,))


_LLAMA = "Llama 1-3, Mistral, Mistral-Nemo, Ministral, SmolLM 1-2, TinyLlama, Yi, DeepSeek-LLM/Coder, InternLM 3"

GGUF_ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _gguf("llama", _LLAMA, gguf_config.llama_from_gguf),
    "mistral3": _gguf("mistral", "Ministral 3 without position-scaled queries", gguf_families.mistral3_from_gguf),
    "smollm3": _gguf("smollm3", "SmolLM 3", gguf_families.smollm3_from_gguf),
    "qwen2": _gguf("qwen2", "Qwen 2 and 2.5", gguf_families.halves_from_gguf),
    "qwen3": _gguf("qwen3", "Qwen 3, Qwen3-Embedding", gguf_families.qwen3_from_gguf),
    "gemma": _gguf("gemma", "Gemma", gguf_families.gemma_from_gguf),
    "gemma2": _gguf("gemma2", "Gemma 2", gguf_families.gemma2_from_gguf),
    "gemma3": _gguf("gemma3", "Gemma 3", gguf_families.gemma3_from_gguf),
    "phi2": _gguf("phi", "Phi 1, 1.5 and 2", gguf_older.phi2_from_gguf),
    "phi3": _gguf("phi3", "Phi 3, 3.5 and 4", gguf_families.halves_from_gguf),
    "starcoder2": _gguf("starcoder2", "StarCoder 2", gguf_older.starcoder2_from_gguf),
    "falcon": _gguf("falcon", "Falcon 7B, 40B and 180B", gguf_older.falcon_from_gguf,
                    gguf_names.GGUF_FALCON_40B, gguf_names.GGUF_DECODER),
    "gpt2": _gguf("gpt2", "GPT-2", gguf_older.gpt2_from_gguf),
    "gptneox": _gguf("gpt_neox", "GPT-NeoX, Pythia", gguf_older.gptneox_from_gguf),
    "mpt": _gguf("mpt", "MPT", gguf_older.mpt_from_gguf),
    "command-r": _gguf("cohere", "Command-R and R+", gguf_older.command_r_from_gguf),
    "cohere2": _gguf("cohere2", "Command-R7B, Command-A", gguf_older.cohere2_from_gguf),
    "olmo": _gguf("olmo", "OLMo", gguf_older.olmo_from_gguf),
    "olmo2": _gguf("olmo2", "OLMo 2", gguf_families.olmo2_from_gguf),
    "stablelm": _gguf("stablelm", "StableLM 3B, StableLM 2", gguf_older.stablelm_from_gguf),
    "granite": _gguf("granite", "Granite 3", gguf_families.granite_from_gguf),
    "internlm2": _gguf("internlm2", "InternLM 2", gguf_families.internlm2_from_gguf),
    "exaone": _gguf("exaone", "Exaone 3 and 3.5", gguf_families.halves_from_gguf),
    "exaone4": _gguf("exaone4", "Exaone 4", gguf_families.exaone4_from_gguf),
    "chatglm": _gguf("glm", "GLM-4-9B", gguf_families.glm_from_gguf),
    "glm4": _gguf("glm4", "GLM-4-0414", gguf_families.glm4_from_gguf),
}  # fmt: skip
"""By general.architecture."""


def _hf(name: str, serves: str, read: ReadConfig, *names: DecoderNames) -> Architecture:
    return Architecture(name, serves, read, names or hf_names.with_bare(hf_names.LLAMA))


_NEOX = (hf_names.GPT_NEOX, replace(hf_names.GPT_NEOX, output="lm_head"))
_GPT2, _FALCON = hf_names.with_bare(hf_names.GPT2), (hf_names.FALCON_40B, hf_names.FALCON)

HF_ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": _hf("llama", "Llama 1-3, SmolLM 1-2, TinyLlama, Yi, DeepSeek-LLM/Coder, Falcon 3",
                            hf_config.llama_from_hf),
    "MistralForCausalLM": _hf("mistral", "Mistral, Mistral-Nemo", hf_config.mistral_from_hf),
    "MinistralForCausalLM": _hf("mistral", "Ministral 8B", hf_families.ministral_from_hf),
    "SmolLM3ForCausalLM": _hf("smollm3", "SmolLM 3", hf_families.smollm3_from_hf),
    "Qwen2ForCausalLM": _hf("qwen2", "Qwen 2 and 2.5", hf_families.qwen2_from_hf),
    "Qwen3ForCausalLM": _hf("qwen3", "Qwen 3, Qwen3-Embedding", hf_families.qwen3_from_hf),
    "GemmaForCausalLM": _hf("gemma", "Gemma", hf_families.gemma_from_hf),
    "Gemma2ForCausalLM": _hf("gemma2", "Gemma 2", hf_families.gemma2_from_hf, hf_names.GEMMA2),
    "Gemma3ForCausalLM": _hf("gemma3", "Gemma 3 270M and 1B", hf_families.gemma3_from_hf, hf_names.GEMMA2),
    "Gemma3ForConditionalGeneration": _hf("gemma3", "Gemma 3 4B to 27B, the text part", hf_families.gemma3_from_hf,
                                          *hf_names.with_sight(hf_names.GEMMA2)),
    "PhiForCausalLM": _hf("phi", "Phi 1, 1.5 and 2", hf_older.phi_from_hf, hf_names.PHI),
    "Phi3ForCausalLM": _hf("phi3", "Phi 3, 3.5 and 4", hf_families.phi3_from_hf, hf_names.FUSED),
    "Starcoder2ForCausalLM": _hf("starcoder2", "StarCoder 2", hf_older.starcoder2_from_hf, hf_names.STARCODER2),
    "FalconForCausalLM": _hf("falcon", "Falcon RW, 7B, 11B, 40B and 180B", hf_older.falcon_from_hf, *_FALCON),
    "GPT2LMHeadModel": _hf("gpt2", "GPT-2", hf_older.gpt2_from_hf, *_GPT2),
    "GPTNeoXForCausalLM": _hf("gpt_neox", "GPT-NeoX, Pythia", hf_older.gpt_neox_from_hf, *_NEOX),
    "MptForCausalLM": _hf("mpt", "MPT", hf_older.mpt_from_hf, hf_names.MPT),
    "MPTForCausalLM": _hf("mpt", "MPT", hf_older.mpt_from_hf, hf_names.MPT),
    "CohereForCausalLM": _hf("cohere", "Command-R and R+", hf_older.cohere_from_hf),
    "Cohere2ForCausalLM": _hf("cohere2", "Command-R7B, Command-A", hf_older.cohere2_from_hf),
    "OlmoForCausalLM": _hf("olmo", "OLMo", hf_older.olmo_from_hf),
    "Olmo2ForCausalLM": _hf("olmo2", "OLMo 2", hf_families.olmo2_from_hf, hf_names.POST_NORMS),
    "StableLmForCausalLM": _hf("stablelm", "StableLM 3B, StableLM 2", hf_older.stablelm_from_hf, hf_names.STABLELM),
    "GraniteForCausalLM": _hf("granite", "Granite 3", hf_families.granite_from_hf),
    "InternLM2ForCausalLM": _hf("internlm2", "InternLM 2", hf_families.internlm2_from_hf, hf_names.INTERNLM2),
    "InternLM3ForCausalLM": _hf("internlm3", "InternLM 3", hf_families.internlm3_from_hf),
    "ExaoneForCausalLM": _hf("exaone", "Exaone 3 and 3.5", hf_families.exaone_from_hf, hf_names.EXAONE),
    "Exaone4ForCausalLM": _hf("exaone4", "Exaone 4", hf_families.exaone4_from_hf, hf_names.POST_NORMS),
    "GlmForCausalLM": _hf("glm", "GLM-4-9B", hf_families.glm_from_hf, hf_names.FUSED),
    "Glm4ForCausalLM": _hf("glm4", "GLM-4-0414", hf_families.glm4_from_hf, hf_names.GLM4),
}  # fmt: skip
"""By the first of config.json's architectures."""
