"""What a model can do, as Ollama tells it from the model's files: its config, its header, its templates.

Follows ollama server/images.go:99-400 (show) and server/model_list_cache.go:256-330 (lists), which differ in the order
and in what they look at.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from jobs.models import go_template as go_templates
from jobs.models.gguf import GgufHeader
from jobs.models.go_template import TemplateReading

PARSERS: dict[str, tuple[bool, bool]] = {
    "cogito": (True, True),
    "cohere": (True, True),
    "deepseek3": (True, True),
    "functiongemma": (True, False),
    "gemma4": (True, True),
    "gemma4-no-thinking": (True, False),
    "glimmer": (True, True),
    "glm-4.7": (True, True),
    "glm-ocr": (True, False),
    "harmony": (True, True),
    "laguna": (True, True),
    "lfm2": (True, False),
    "lfm2-thinking": (True, True),
    "ministral": (True, False),
    "nemotron-3-nano": (True, True),
    "nemotron-3.5-nano": (True, True),
    "olmo3": (True, False),
    "olmo3-think": (False, True),
    "ornith": (True, True),
    "passthrough": (False, False),
    "poolside-v1": (True, True),
    "qwen3": (True, False),
    "qwen3-coder": (True, False),
    "qwen3-thinking": (True, True),
    "qwen3-vl-instruct": (True, False),
    "qwen3-vl-thinking": (True, True),
    "qwen3.5": (True, True),
}
"""Ollama's own parsers, by name: whether they understand tools and thoughts (ollama model/parsers/parsers.go)."""

_TOOL_ANSWERS = (
    "tool_response",
    "tool_results",
    "role'] == 'tool'",
    'role\'] == "tool"',
    "role\"] == 'tool'",
    'role"] == "tool"',
    "message.role == 'tool'",
    'message.role == "tool"',
    "ipython",
)


@dataclass(frozen=True)
class Traits:
    """What capabilities are told from. `template` is Go's, None when there is none; `chat_template` is the header's."""

    declared: tuple[str, ...]
    family: str
    parser: str
    renderer: str
    template: str | None
    header: GgufHeader
    has_projector: bool = False

    @cached_property
    def go(self) -> TemplateReading:
        """What the template in Go tells, read once."""
        return go_templates.read(self.template or "")

    @property
    def chat_template(self) -> str:
        template = self.header.values.get("tokenizer.chat_template")
        return template if isinstance(template, str) else ""

    @property
    def prefers_chat_template(self) -> bool:
        """Whether the header's template is used though there is one in Go."""
        if self.template is None or not self.chat_template or self.renderer or self.parser or self._uses_harmony:
            return False
        chat, go = set(_of_chat(self.chat_template)), set(_of_go(self.go))
        round_trip = _go_answers_tools(self.template, self.go)
        if len(chat) > len(go):
            return not round_trip or _chat_answers_tools(self.chat_template)
        both = chat == go and "tools" in chat
        return both and _chat_answers_tools(self.chat_template) and not round_trip

    @property
    def is_rendered(self) -> bool:
        """Whether Ollama itself makes the prompt; else llama.cpp does, from the header's template."""
        uses_go = self.template is not None and not self.prefers_chat_template
        return bool(self.renderer or self.parser or self._uses_harmony or uses_go)

    @property
    def _uses_harmony(self) -> bool:
        template = self.template or ""
        return self.family in ("gptoss", "gpt-oss") and "<|start|>" in template and "<|end|>" in template


def shown(traits: Traits) -> tuple[str, ...]:
    """As `/api/show` tells them."""
    abilities = [*traits.declared]
    if not traits.is_rendered:
        abilities += _of_chat(traits.chat_template)
    abilities += _of_header(traits.header)
    abilities += ["vision"] if traits.has_projector else []
    if traits.template is not None and not traits.prefers_chat_template:
        abilities += _of_go(traits.go)
    tools, thinking = PARSERS.get(traits.parser, (False, False))
    abilities += (["tools"] if tools else []) + (["thinking"] if thinking else [])
    abilities += ["thinking"] if traits.family in ("gptoss", "gpt-oss") else []
    return _once(abilities)


def listed(traits: Traits) -> tuple[str, ...]:
    """As `/api/tags` tells them: what stands after the tokenizer in the header is not looked at."""
    tools, thinking = PARSERS.get(traits.parser, (False, False))
    used = traits.go.variables
    abilities = [*sorted(_of_header(traits.header), key=("vision", "audio", "embedding", "completion").index)]
    abilities += traits.declared
    abilities += ["tools"] if "tools" in used or tools else []
    abilities += ["insert"] if "suffix" in used else []
    abilities += ["thinking"] if traits.go.thinks or thinking or traits.family in ("gptoss", "gpt-oss") else []
    abilities += ["vision"] if traits.has_projector else []
    return _once(abilities)


def _of_header(header: GgufHeader) -> list[str]:
    kind = "completion" if header.get("pooling_type") is None else "embedding"
    return [kind, *(what for what in ("vision", "audio") if header.get(f"{what}.block_count") is not None)]


def _of_go(go: TemplateReading) -> list[str]:
    abilities = (["tools"] if "tools" in go.variables else []) + (["insert"] if "suffix" in go.variables else [])
    return abilities + (["thinking"] if go.thinks else [])


def _of_chat(template: str) -> list[str]:
    abilities = ["tools"] if "tools" in template or "tool_call" in template else []
    split = "content.split('</think>')" in template or 'content.split("</think>")' in template
    marked = "<think>" in template and "</think>" in template
    if marked or (split and "reasoning_content" not in template and "<SPECIAL_12>" not in template):
        abilities.append("thinking")
    return abilities


def _chat_answers_tools(template: str) -> bool:
    called = "tool_calls" in template or "assistant_tool_call" in template
    return called and any(answer in template for answer in _TOOL_ANSWERS)


def _go_answers_tools(template: str, go: TemplateReading) -> bool:
    if not {"tools", "toolcalls"} <= go.variables:
        return False
    return any(answer in template for answer in ('eq .Role "tool"', "tool_response", "TOOL_RESULTS"))


def _once(capabilities: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(capabilities))
