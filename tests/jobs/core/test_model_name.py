"""Model names: Ollama's grammar, and nothing that could leave the models directory."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.errors import BadName
from jobs.core.model_name import ModelName

PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", fullmatch=True)
NAMESPACE = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", fullmatch=True)
HOST = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}(:[0-9]{1,5})?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("llama3.2", ("registry.ollama.ai", "library", "llama3.2", "latest")),
        ("llama3.2:1b", ("registry.ollama.ai", "library", "llama3.2", "1b")),
        ("user/model", ("registry.ollama.ai", "user", "model", "latest")),
        ("hf.co/user/repo:Q4_K_M", ("hf.co", "user", "repo", "Q4_K_M")),
        ("127.0.0.1:5000/library/tiny", ("127.0.0.1:5000", "library", "tiny", "latest")),
        ("https://example.org/a/b:c", ("example.org", "a", "b", "c")),
        ("UPPER:Tag", ("registry.ollama.ai", "library", "UPPER", "Tag")),
        ("_x", ("registry.ollama.ai", "library", "_x", "latest")),
    ],
)
def test_names_are_read_as_ollama_reads_them(text: str, path: tuple[str, str, str, str]) -> None:
    """Missing parts are registry.ollama.ai, library and latest; spelling is kept."""
    assert ModelName.parse(text).path == path


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "/", "a/", "/a", "a:", ":b", "a b", "a/b/c/d", "..", "../x", "a/../b", "a/b.c/d e", ".hidden"),
        *("-flag", "a@sha256:0", "ü", "a\n", "a\0", "n.s/model", "x" * 81, "a:" + "t" * 81, "m:tag:more", "a\\b"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    """Everything outside the grammar is refused, shown as it was typed, with what a name looks like."""
    with pytest.raises(BadName) as refused:
        ModelName.parse(text)
    assert refused.value.hint is not None
    assert "llama3.2" in refused.value.hint


@given(st.text(max_size=400))
def test_no_text_leaves_the_directory(text: str) -> None:
    """Whatever the text, it is refused or becomes exactly four path parts that stay where they are put."""
    try:
        name = ModelName.parse(text)
    except BadName:
        return
    assert len(name.path) == 4
    for part in name.path:
        assert PurePosixPath(part).parts == (part,)
        assert part not in {".", ".."}
        assert not set(part) & set("/\\\0")


@given(HOST, NAMESPACE, PART, PART)
def test_the_short_form_reads_back(host: str, namespace: str, model: str, tag: str) -> None:
    """What `str` shows names the same model again, and folding is stable."""
    name = ModelName(host, namespace, model, tag)
    assert ModelName.parse(str(name)) == name
    assert ModelName.parse(f"{host}/{namespace}/{model}:{tag}") == name
    assert name.folded().folded() == name.folded()
    assert ModelName.parse(str(name.folded())) == name.folded()
