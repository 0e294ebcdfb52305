"""Chat templates by name, for tokenizers that have none: the formats of well-known model families, in Jinja."""

_TURNS = "{% for message in messages %}"
_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
)

CHAT_TEMPLATES = {
    "chatml": _TURNS + "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama2": _SYSTEM + _TURNS + "{% if message['role'] == 'user' %}{{ bos_token or '' }}[INST] "
    "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ message['content'] | trim }} "
    "[/INST]{% else %} {{ message['content'] | trim }} {{ eos_token or '' }}{% endif %}{% endfor %}",
    "llama3": "{{ bos_token or '' }}" + _TURNS + "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "gemma": "{{ bos_token or '' }}" + _SYSTEM + _TURNS + "<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if loop.first and system %}{{ system }}\n\n{% endif %}{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "zephyr": _TURNS + "<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "vicuna": _SYSTEM + "{{ system ~ ' ' if system else '' }}" + _TURNS + "{% if message['role'] == 'user' %}"
    "USER: {{ message['content'] | trim }} {% else %}ASSISTANT: {{ message['content'] | trim }}"
    "{{ eos_token or '' }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
}
"""Jinja texts by name; they read ``messages``, ``bos_token``, ``eos_token`` and ``add_generation_prompt``."""
