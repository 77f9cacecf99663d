"""Chat templates in the manner of each family, with the constructs that published ones use; and conversations."""

from __future__ import annotations

from typing import Any

TEMPLATES: dict[str, str] = {
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
<|start_header_id|>system<|end_header_id|>

{{ "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}<|eot_id|>
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' + (tool_call.arguments | tojson) + '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.function.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val | tojson }}
                    {%- endif %}
                    {{- ", " if not loop.last else "}}" }}
                {%- endfor %}
                {{- ", " if not loop.last else "]" }}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS][" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function | tojson %}
            {{- out[:-1] + ', "id": "' + tool_call.id[-9:] + '"}' + ("" if loop.last else ", ") }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] in ["tool_results", "tool"] %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS]{"content": ' + content | string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("no such role") }}
    {%- endif %}
{%- endfor %}
""",
    "qwen3": """{%- macro content_of(content) %}
    {%- if content is string %}{{- content }}
    {%- elif content is iterable and content is not mapping %}
        {%- for item in content %}{{- item.text | default('') }}{%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- content_of(messages[0].content) + '\\n\\n' }}{%- endif %}
    {{- "<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><tool_call>\\n{\\"name\\": <name>}\\n</tool_call><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + content_of(messages[0].content) + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = content_of(message.content) %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
                {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('no system role') }}{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
<start_of_turn>{{ role }}
    {%- if message['content'] is string %}{{ '\\n' + message['content'] | trim }}
    {%- elif message['content'] is iterable %}
        {%- for item in message['content'] if item['type'] == 'text' %}{{ item['text'] | trim }}{% endfor %}
    {%- else %}{{ raise_exception('no such content') }}{% endif %}<end_of_turn>
{% endfor %}
{%- if add_generation_prompt %}<start_of_turn>model
{% endif %}""",
    "phi": (
        "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
        "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}"
        "{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
        "{% generation %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endgeneration %}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(is_first=false, is_tool=false, system_prompt='', first_tool=true) -%}
{%- for message in messages if message['role'] == 'system' -%}
    {%- set ns.system_prompt = message['content'] -%}
{%- endfor -%}
{{ bos_token }}{{ ns.system_prompt }}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {%- set ns.is_tool = false -%}{{ '<｜User｜>' + message['content'] }}
    {%- elif message['role'] == 'assistant' and message['tool_calls'] is defined -%}
        {%- for tool in message['tool_calls'] -%}
            {{ '<｜tool▁call▁begin｜>' ~ tool['type'] ~ '<｜tool▁sep｜>'
               ~ tool['function']['name'] ~ '\\n```json\\n'
               ~ tool['function']['arguments'] ~ '\\n```<｜tool▁call▁end｜>' }}
        {%- endfor -%}
    {%- elif message['role'] == 'assistant' -%}
        {%- set content = message['content'] -%}
        {%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}
        {{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}
    {%- else -%}
        {%- set ns.is_tool = true -%}{{ '\\n<｜tool▁output▁begin｜>' + message['content'] | default('') }}
    {%- endif -%}
{%- endfor -%}
{% if add_generation_prompt and not ns.is_tool %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}""",
    "command-r": """{{ bos_token }}{% if documents %}{% for document in documents %}
Document: {{ loop.index0 }}
{% for key, value in document | dictsort %}{{ key | title }}: {{ value }}
{% endfor %}{% endfor %}{% endif %}
{%- macro kind(p) -%}{{ {'string': 'str', 'integer': 'int', 'array': 'List'}.get(p.type, 'Any') }}{%- endmacro -%}
{%- for tool in tools or [] %}
def {{ tool.function.name }}({% for name, p in tool.function.parameters.properties.items() %}{{ name }}: {{ kind(p) }}
{%- if not loop.last %}, {% endif %}{% endfor %}):
    \"\"\"{{ tool.function.description | default('none') | indent(4) | replace('"', "'") }}\"\"\"
{% endfor %}
{%- for message in messages %}
{%- set tag = {'user': 'USER', 'assistant': 'CHATBOT'}[message.role] | default('SYSTEM') %}
<|START_OF_TURN_TOKEN|><|{{ tag }}_TOKEN|>
{%- if message.tool_calls %}Action: ```json
{{ message.tool_calls | map(attribute='function') | list | tojson(indent=4, ensure_ascii=True) }}```
{%- else %}{{ message.content }}{% endif %}<|END_OF_TURN_TOKEN|>
{%- endfor %}
{%- if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}""",
    "granite": """{%- set avail = (tools or []) | map(attribute='function.name') | join(', ') | upper %}
{%- for message in messages %}
{%- if not message.role in ['user', 'assistant', 'system', 'tool'] %}{% continue %}{% endif %}
<|start_of_role|>{{ message.role }}{{ ' ' ~ avail if loop.first and avail }}<|end_of_role|>
{%- filter trim %}
  {{ message.content }}
{% endfilter %}<|end_of_text|>
{% if loop.index > 8 %}{% break %}{% endif %}
{%- endfor %}
{%- set text %}{{ messages | length }}/{{ messages | map(attribute='role') | unique | sort | join('+') }}{% endset %}
{{- text | length }}{{ text }}{% if thinking %}{{ '%s %d' | format('think', 1) }}{% endif %}""",
    "internlm": (
        "{{ bos_token }}{%- for m in messages -%}{{ '<|im_start|>' ~ m['role'] ~ '\n' ~ m.get('content', '') ~ '\n' }}"
        "{%- if m.thinking %}{{ m.thinking | e }}{% endif %}{{ '[%s]' % loop.revindex }}{{ loop.cycle('a', 'b') }}"
        "{%- endfor -%}{{ pad_token }}{{ messages[-1].role in ('user', 'tool') }}{{ messages | last | length }}"
        "{{ (messages | first).role.title() }}{{ [1, 2.5, true, none] | tojson }}"
        "{{ messages | batch(2) | list | length }}"
    ),
}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'The weather in a "city" <now> & then',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "größe": {"type": "integer", "default": None}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def call(arguments: Any, name: str = "weather") -> dict[str, Any]:
    return {"id": "call_123456789", "type": "function", "function": {"name": name, "arguments": arguments}}


def turn(role: str, content: Any, **extra: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **extra}


ARGUMENTS = {"city": "Köln {{ x }} <b>", "days": [1, None, True], "deep": {"a": 1.5}}
HELLO = turn("user", " Hi {there} {{ bos_token }} {% raw %}\n")
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [HELLO],
    "system": [turn("system", "  Be brief.\n"), HELLO],
    "several": [HELLO, turn("assistant", "Hello 👋"), turn("user", "Größe <b>&amp;</b> 日本?")],
    "system, several": [turn("system", "S"), HELLO, turn("assistant", " a "), turn("user", "u"), turn("assistant", "")],
    "empty": [turn("user", "")],
    "wrong order": [turn("assistant", "a"), turn("user", "u")],
    "two users": [HELLO, HELLO],
    "a call": [HELLO, turn("assistant", "", tool_calls=[call(ARGUMENTS)]), turn("tool", "sunny", tool_call_id="1")],
    "a call as text": [HELLO, turn("assistant", "So:", tool_calls=[call('{"city": "x"}')]), turn("tool", '{"a": 1}')],
    "two calls": [
        HELLO,
        turn("assistant", "", tool_calls=[call(ARGUMENTS), call({}, "now")]),
        turn("tool", "a"),
        turn("tool", "b"),
        turn("assistant", "Done."),
    ],
    "reasoning": [HELLO, turn("assistant", "Yes.", reasoning_content="\nHm.\n")],
    "reasoning in the text": [HELLO, turn("assistant", "<think>\nHm.\n</think>\n\nYes."), HELLO],
    "parts": [turn("user", [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}])],
    "other roles": [turn("system", "S"), turn("critic", "no"), HELLO],
}
