"""The engine in one's own process: `LLM`, and llama.cpp's low level `Model`, `Context`, `Batch`."""

from plait.api.batch import Batch
from plait.api.context import Context, DecodeStatus, Memory
from plait.api.llm import LLM
from plait.api.model import Model
from plait.api.results import Delta, Generation, Sample

__all__ = ["LLM", "Batch", "Context", "DecodeStatus", "Delta", "Generation", "Memory", "Model", "Sample"]
