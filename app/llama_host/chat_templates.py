"""The chat template for weights that have none of their own, by Ollama's template in Go.

Weights made since 2024 carry their template (`tokenizer.chat_template`), and llama.cpp uses it. Older ones that Ollama
distributes have one in Go alone, which llama.cpp cannot read; their forms are few, and told by their marks, as Ollama
tells them the other way round (ollama template/index.json).
"""

_LOOP = "{% for message in messages %}"
_END = "{% endfor %}"

_CHATML = (
    f"{_LOOP}<|im_start|>{{{{ message.role }}}}\n{{{{ message.content }}}}<|im_end|>\n{_END}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA_3 = (
    f"{_LOOP}<|start_header_id|>{{{{ message.role }}}}<|end_header_id|>\n\n{{{{ message.content }}}}<|eot_id|>{_END}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (
    f"{_LOOP}<start_of_turn>{{{{ 'model' if message.role == 'assistant' else 'user' }}}}\n"
    f"{{{{ message.content }}}}<end_of_turn>\n{_END}{{% if add_generation_prompt %}}<start_of_turn>model\n{{% endif %}}"
)
_PHI_3 = (
    f"{_LOOP}<|{{{{ message.role }}}}|>\n{{{{ message.content }}}}<|end|>\n{_END}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_ZEPHYR = (
    f"{_LOOP}<|{{{{ message.role }}}}|>\n{{{{ message.content }}}}</s>\n{_END}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_LLAMA_2 = (
    "{% set ns = namespace(system='') %}"
    f"{_LOOP}{{% if message.role == 'system' %}}{{% set ns.system = message.content %}}"
    "{% elif message.role == 'user' %}[INST] {% if ns.system %}<<SYS>>\n{{ ns.system }}\n<</SYS>>\n\n"
    "{% set ns.system = '' %}{% endif %}{{ message.content }} [/INST]"
    f"{{% else %}} {{{{ message.content }}}}</s>{{% endif %}}{_END}"
)
_VICUNA = (
    f"{_LOOP}{{% if message.role == 'system' %}}{{{{ message.content }}}}\n\n"
    "{% elif message.role == 'user' %}USER: {{ message.content }}\n"
    f"{{% else %}}ASSISTANT: {{{{ message.content }}}}</s>\n{{% endif %}}{_END}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_ALPACA = (
    f"{_LOOP}{{% if message.role == 'system' %}}{{{{ message.content }}}}\n\n"
    "{% elif message.role == 'user' %}### Instruction:\n{{ message.content }}\n\n"
    f"{{% else %}}### Response:\n{{{{ message.content }}}}\n\n{{% endif %}}{_END}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)

_BY_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|im_start|>", "<|im_end|>"), _CHATML),
    (("<|start_header_id|>", "<|eot_id|>"), _LLAMA_3),
    (("<start_of_turn>", "<end_of_turn>"), _GEMMA),
    (("<|user|>", "<|end|>"), _PHI_3),
    (("<|user|>", "</s>"), _ZEPHYR),
    (("[INST]", "[/INST]"), _LLAMA_2),
    (("USER:", "ASSISTANT:"), _VICUNA),
    (("### Instruction:", "### Response:"), _ALPACA),
)


def for_weights(own: str, in_go: str | None) -> tuple[str | None, str | None]:
    """The template to hand to the engine, and what to tell of it: nothing of either where the weights' own is used.

    Args:
        own: the template of the weights' header; empty where there is none.
        in_go: that of the model's layers; None where there is none.

    """
    if own or not in_go:
        return None, None
    for marks, template in _BY_MARKS:
        if all(mark in in_go for mark in marks):
            return template, None
    return None, "its weights have no chat template, and the one in Go has no known form: the engine uses ChatML"
