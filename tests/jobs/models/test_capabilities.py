"""Promises of jobs.models.capabilities and go_template. A real Ollama tells the same: see test_ollama_lists."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.models import capabilities
from jobs.models.capabilities import Traits
from jobs.models.gguf import GgufHeader
from jobs.models.go_template import read

LOOP = "{{ range .Messages }}{{ if .Thinking }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}"
TOOL_LOOP = '{{ range .Messages }}{{ if eq .Role "tool" }}{{ end }}{{ .ToolCalls }}{{ end }}{{ .Tools }}'
JINJA = "{{ tools }} tool_calls ipython <think></think>"


def traits(template: str | None = None, chat: str = "", *, declared: tuple[str, ...] = (), **more: Any) -> Traits:
    values = {"general.architecture": "x"} | ({"tokenizer.chat_template": chat} if chat else {})
    return replace(Traits(declared, "x", "", "", template, GgufHeader(3, values, (), 0)), **more)


@pytest.mark.parametrize(
    ("template", "is_so"),
    [
        (LOOP, True),
        (
            "{{- range $i, $m := .Messages -}} {{- if and .X .Thinking -}} <t>{{ .Thinking }}</t> {{ end }}{{ end }}",
            True,
        ),
        ("{{ range .Messages }}{{ if .A }}{{ else if .Thinking }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}", True),
        ("{{ range .Messages }}{{ range .Parts }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}", False),
        ("{{ range .Tools }}<t>{{ .Thinking }}</t>{{ end }}", False),
        ("<t>{{ .Thinking }}</t>", False),
        ("{{ range .Messages }}{{ if .Thinking }}{{ .Thinking }}{{ end }}{{ end }}", False),
        ("{{ range .Messages }}<t>{{ $m.Thinking }}</t>{{ end }}", False),
        ('{{ range .Messages }}<t>{{ ".Thinking" }}</t>{{ end }}', False),
        ("{{ range .Messages }}{{ if .Thinking }}  {{ .Thinking }}  {{ end }}{{ end }}", False),
        ("", False),
    ],
)
def test_thoughts_stand_between_marks(template: str, is_so: bool) -> None:
    """A template thinks when a loop over the messages sets thoughts between two texts."""
    assert read(template).thinks == is_so


def test_variables_are_the_names_used() -> None:
    """Names of fields and of parts of variables count, in lower case; what stands in literals and comments does not."""
    template = (
        '{{ .Tools }}{{ $.Suffix | json }}{{/* .Hidden */}}{{ print ".Quoted" `.Raw` }}{{ (index .A 0).B }} .Text'
    )
    assert read(template).variables == {"tools", "suffix", "a", "b"}


@given(st.text(alphabet="{}.-/*`\"' abRange$ifend\n", max_size=200))
def test_any_template_can_be_looked_at(template: str) -> None:
    """Templates come from outside: whatever they hold, looking at them ends, and raises nothing."""
    assert isinstance(read(template).thinks, bool)
    assert isinstance(read(template).variables, frozenset)


def test_show_and_lists_have_orders_of_their_own() -> None:
    """What the config declares comes first in show, what the header tells in lists; nothing is named twice."""
    both = traits(TOOL_LOOP + "{{ .Suffix }}", declared=("tools", "vision"))
    assert capabilities.shown(both) == ("tools", "vision", "completion", "insert")
    assert capabilities.listed(both) == ("completion", "tools", "vision", "insert")


def test_the_better_template_is_used() -> None:
    """The header's template is used where it can do more, unless Go's answers tools and the other does not."""
    assert traits("{{ .Prompt }}", JINJA).prefers_chat_template
    assert not traits(TOOL_LOOP, "tools <think></think>").prefers_chat_template
    assert not traits(LOOP + TOOL_LOOP, JINJA).prefers_chat_template
    assert traits("{{ .Tools }}", "tools tool_calls ipython").prefers_chat_template
    assert not traits(None, JINJA).prefers_chat_template
    assert not traits("{{ .Prompt }}", JINJA, parser="qwen3").prefers_chat_template
    assert capabilities.shown(traits(None, JINJA)) == ("tools", "thinking", "completion")
    assert capabilities.listed(traits(None, JINJA)) == ("completion",)


def test_parsers_and_families_tell_as_well() -> None:
    """A parser of Ollama's own tells about tools and thoughts; gpt-oss thinks by its family."""
    parsed = traits("{{ .Prompt }}", parser="qwen3-thinking", renderer="qwen3-thinking")
    assert capabilities.shown(parsed) == ("completion", "tools", "thinking")
    assert capabilities.shown(traits("<|start|><|end|>", family="gptoss")) == ("completion", "thinking")
