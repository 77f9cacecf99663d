"""How the answers of a model are to be read, told from its chat template, whatever the model is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from plait.tokenizer.toolcalls.bodies import BODIES, CLOSERS


class ToolFormat(StrEnum):
    """How a family of models writes its calls."""

    HERMES = "hermes"  # <tool_call>{"name": ..., "arguments": ...}</tool_call>
    QWEN_CODER = "qwen-coder"  # <tool_call><function=name><parameter=key>value</parameter></function></tool_call>
    GLM = "glm"  # <tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>
    GLM4 = "glm4"  # name and, on the next line, {...}, are the answer
    LLAMA = "llama"  # {"name": ..., "parameters": ...} is the answer, perhaps after <|python_tag|>
    FUNCTION = "function"  # <function=name>{...}</function>
    MISTRAL = "mistral"  # [TOOL_CALLS][{"name": ..., "arguments": ...}, ...]
    MISTRAL_ARGS = "mistral-args"  # [TOOL_CALLS]name[ARGS]{...}
    COMMAND_R = "command-r"  # Action: ```json [{"tool_name": ..., "parameters": ...}] ```
    COMMAND_R7B = "command-r7b"  # <|START_ACTION|>[{"tool_call_id": ..., ...}]<|END_ACTION|>
    BARS = "bars"  # <|tool_call|>[{"name": ..., "arguments": ...}]
    DEEPSEEK = "deepseek"  # <｜tool▁calls▁begin｜>...
    INTERNLM = "internlm"  # <|action_start|><|plugin|>{"name": ..., "parameters": ...}<|action_end|>
    NEMOTRON = "nemotron"  # <TOOLCALL>[{"name": ..., "arguments": ...}]</TOOLCALL>
    PYTHON_TAGS = "python-tags"  # <|tool_call_start|>[name(key="value")]<|tool_call_end|>
    TOOL_CODE = "tool-code"  # ```tool_code and name(key="value") in it
    PYTHON = "python"  # [name(key="value")] is the answer
    JSON = "json"  # {"name": ..., "arguments": ...} is the answer


_MARKS: tuple[tuple[tuple[str, ...], ToolFormat], ...] = (
    (("<｜tool▁calls▁begin｜>",), ToolFormat.DEEPSEEK),
    (("[TOOL_CALLS]", "[ARGS]"), ToolFormat.MISTRAL_ARGS),
    (("[TOOL_CALLS]",), ToolFormat.MISTRAL),
    (("<|START_ACTION|>",), ToolFormat.COMMAND_R7B),
    (("Action:", "tool_name"), ToolFormat.COMMAND_R),
    (("<|action_start|>",), ToolFormat.INTERNLM),
    (("<tool_call>", "<function="), ToolFormat.QWEN_CODER),
    (("<tool_call>", "<arg_key>"), ToolFormat.GLM),
    (("<tool_call>",), ToolFormat.HERMES),
    (("<|tool_call|>",), ToolFormat.BARS),
    (("<|/tool|>",), ToolFormat.BARS),
    (("<|tool_call_start|>",), ToolFormat.PYTHON_TAGS),
    (("<TOOLCALL>",), ToolFormat.NEMOTRON),
    (("<function=",), ToolFormat.FUNCTION),
    (("tool_code",), ToolFormat.TOOL_CODE),
    (("<|observation|>",), ToolFormat.GLM4),
    (("[gMASK]<sop>",), ToolFormat.GLM4),
    (("<|python_tag|>",), ToolFormat.LLAMA),
    (('"parameters":',), ToolFormat.LLAMA),
    (("func_name1(",), ToolFormat.PYTHON),
)
_ALWAYS: dict[ToolFormat, tuple[str, ...]] = {
    ToolFormat.LLAMA: ("<|python_tag|>",),
    ToolFormat.BARS: ("<|tool_call|>",),
    ToolFormat.TOOL_CODE: ("```tool_code",),
}
"""Markers of a format that its templates need not show."""
_REASONING = (
    ("<think>", "</think>"),
    ("<thought>", "</thought>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("Here is my thought process:", "Here is my response:"),
)
_DROPPED = (
    ("<response></response>", ("<response>", "</response>")),
    ("<|START_RESPONSE|>", ("<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    ("<|START_TEXT|>", ("<|START_TEXT|>", "<|END_TEXT|>")),
)
"""What a template has whose answers stand between these markers; others use <response> for what tools return."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """`openers` are the markers with which calls begin, `reasoning` pairs of markers around it, `dropped` markers that
    say nothing to a reader. `tools` None finds no calls."""

    tools: ToolFormat | None = None
    openers: tuple[str, ...] = ()
    reasoning: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether an answer is its text, as it is."""
        return self.tools is None and not self.reasoning and not self.dropped

    @property
    def markers(self) -> frozenset[str]:
        """Texts of special tokens that the parser must see."""
        calls = (*self.openers, *CLOSERS) if self.tools else ()
        return frozenset((*calls, *(marker for pair in self.reasoning for marker in pair), *self.dropped))

    def without_tools(self) -> AnswerFormat:
        return replace(self, tools=None, openers=())

    def reasoning_begun(self, prompt: str) -> tuple[str, str] | None:
        """The markers of the reasoning that the end of a prompt begins."""
        end = prompt.rstrip()
        return next((pair for pair in self.reasoning if end.endswith(pair[0])), None)


def answer_format(template: str | None) -> AnswerFormat:
    """What a chat template says of the answers."""
    text = template or ""
    tools = format_of(text)
    shown = [opener for opener in BODIES if opener in text]
    openers = tuple(dict.fromkeys((*shown, *_ALWAYS.get(tools, ()))))
    reasoning = tuple(pair for pair in _REASONING if pair[0] in text or pair[1] in text)
    dropped = tuple(marker for sign, markers in _DROPPED if sign in text for marker in markers)
    return AnswerFormat(tools, openers, reasoning, dropped)


def format_of(template: str | None) -> ToolFormat:
    """The format of calls that a chat template speaks of."""
    text = template or ""
    return next((style for marks, style in _MARKS if all(mark in text for mark in marks)), ToolFormat.JSON)
