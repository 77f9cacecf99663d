"""Chat templates in the manner of families that have no tools of their own, or few: the constructs that published ones
use, in our words."""

from __future__ import annotations

OLDER: dict[str, str] = {
    "starcoder2": """{{ bos_token }}{{ 'You write programs.\n\n' }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{ raise_exception('no system role') }}
    {%- else %}
        {%- if message['role'] == 'user' %}
{{ '### Instruction\n' + message['content'] + '\n\n' }}
        {%- else %}
{{ '### Response\n' + message['content'] + eos_token + '\n\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{{ '### Response\n' }}""",
    "falcon": """{{- bos_token -}}
{%- set names = {'system': 'System', 'user': 'User'} -%}
{%- for message in messages -%}
    {{- names.get(message['role'], 'Falcon') ~ ': ' ~ message['content'] -}}
    {%- if (loop.last and add_generation_prompt) or not loop.last -%}
        {{- '\\n' -}}
    {%- endif -%}
{%- endfor -%}


{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}
    {{- 'Falcon:' -}}
{% endif %}""",
    "falcon3": """{% if tools %}{{ '<|system|>\n' }}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% for message in messages %}{% if message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] }}
{% elif message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + '\n' }}
{% elif message['role'] == 'assistant' %}
{% if not loop.last %}
{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}
{% else %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>\n' }}
{% endif %}
{% endfor %}""",
    "mpt": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% elif not 'system' in messages[0]['content'] %}"
        "{% set loop_messages = messages %}{% set system_message = 'Be honest.' %}"
        "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}{% if loop.index0 == 0 %}{% if system_message != false %}"
        "{{ '<|im_start|>system\n' + system_message.strip() + '\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
        "{% else %}{{ '\n' + '<|im_start|>' + message['role'] + '\n' + message['content'] }}{% endif %}"
        "{% if (add_generation_prompt == true) %}{{ '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
    ),
    "stablelm": (
        "{% for message in messages %}{{ '<|' ~ message['role'] ~ '|>\n' + message['content'] + eos_token ~ '\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' + '\n' }}{% endif %}{% endfor %}"
    ),
    "olmo": """{{ eos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "yi": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}"
        "{% if system_message is defined %}{{ system_message }}{% endif %}{% for message in messages %}"
        "{% set content = message['content'] %}{% if message['role'] == 'user' %}"
        "{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n<|im_start|>assistant\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ content + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
    ),
    "exaone": (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
        "{{ '[|system|][|endofturn|]\n' }}{% endif %}{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{% if message['role'] == 'user' %}{{ '\n' }}{% else %}{{ '[|endofturn|]\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
    "glm4": (
        "[gMASK]<sop>{% for item in messages %}{% if item['tools'] is defined %}<|system|>\n# Tools"
        "{% for tool in item['tools'] %}{% if tool['type'] == 'function' %}\n\n## {{ tool['function']['name'] }}\n\n"
        "{{ tool['function'] | tojson(indent=4) }}\nJSON.{% endif %}{% endfor %}{% endif %}"
        "{% if item['content'] %}<|{{ item['role'] }}|>{{ item['metadata'] }}\n{{ item['content'] }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "internlm2": """{%- set plain = messages[1:] if messages[0].role == "system" else messages %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}

{{- bos_token }}
{%- if messages[0].role == "system" %}
{{- "<|im_start|>system\\n" + messages[0].content + "<|im_end|>\\n" }}
{%- endif %}
{%- if tools is not none %}
    {{- "<|im_start|>system name=<|plugin|>\\n[" }}
    {%- for tool in tools %}
        {{- tool.function|tojson }}{{- "]" if loop.last else ", " }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- endif %}
{%- for message in plain %}
    {%- if message.tool_calls is defined and message.tool_calls is not none %}
        {{- "<|im_start|>assistant\\n" + (message["content"] if message["content"] else "") }}
        {%- for tool_call in message.tool_calls %}
            {{- "<|action_start|><|plugin|>\\n" }}
            {{- '{"name": "' + tool_call.function.name + '", ' }}
            {{- '"parameters": ' + tool_call.function.arguments|string + '}<|action_end|>' }}
        {%- endfor %}
        {{- "<|im_end|>\\n" }}
    {%- elif message["role"] in ("tool", "function") %}
        {{- "<|im_start|>environment name=<|plugin|>\\n" + message.content|string + "<|im_end|>\\n" }}
    {%- else %}
        {{- "<|im_start|>" ~ message["role"] ~ "\\n" + message["content"] + "<|im_end|>\\n"}}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}""",
}
