"""Tool calls and reasoning: how a model writes them, and how they are found in the text of an answer."""

from plait.tokenizer.toolcalls.formats import AnswerFormat, ToolFormat, answer_format, format_of
from plait.tokenizer.toolcalls.parser import OutputParser
from plait.tokenizer.toolcalls.parts import Part, Reasoning, Text, ToolCallArguments, ToolCallStart

__all__ = [
    "AnswerFormat",
    "OutputParser",
    "Part",
    "Reasoning",
    "Text",
    "ToolCallArguments",
    "ToolCallStart",
    "ToolFormat",
    "answer_format",
    "format_of",
]
