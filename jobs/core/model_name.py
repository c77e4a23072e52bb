"""Model names by Ollama's grammar, and nothing else.

`[scheme://][host/][namespace/]model[:tag]`, split from the right (ollama types/model/name.go:101-176,333-372). A name
that parses here is safe as a path below the models directory: no part can be `..`, empty, or hold a slash.
"""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from jobs.core.errors import BadName

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

NAME_FORM = "a name looks like llama3.2, deepseek-r1:32b, user/model:tag or hf.co/user/repo:Q4_K_M"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, order=True)
class ModelName:
    """A full name: every part present. `str()` is the short form people type; `path` the four-level form on disk."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read a name as a person types it.

        Raises:
            BadName: the text is not a name; the message shows the part that is wrong and what a name looks like.

        """
        return _remembered(text) if len(text) <= _MOST_REMEMBERED else _read(text)

    def is_called(self, text: str) -> bool:
        """Whether this text, from whoever lists models, is this name in any case; what is no name is not."""
        try:
            return type(self).parse(text).folded() == self.folded()
        except BadName:
            return False

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        name = f"{self.model}:{self.tag}"
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        return name if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/{name}"

    @property
    def repository(self) -> str:
        """`namespace/model`, as it stands in a registry's paths."""
        return f"{self.namespace}/{self.model}"

    @property
    def path(self) -> tuple[str, str, str, str]:
        """The four levels below `manifests/`."""
        return (self.host, self.namespace, self.model, self.tag)

    def folded(self) -> "ModelName":
        """The same name in lower case: Ollama looks names up without regard to case (server/routes.go:1222-1245)."""
        return self._folded

    @cached_property
    def _folded(self) -> "ModelName":
        return ModelName(self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())


def _read(text: str) -> ModelName:
    shown = text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
    if not text:
        raise BadName("the model name is empty", hint=NAME_FORM)
    rest = text.split("://", 1)[-1]
    if "@" in rest:
        raise BadName(f"{shown!r} pins a digest, which Ollama's names cannot", hint=NAME_FORM)
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, tag = rest, DEFAULT_TAG
    parts = head.split("/")
    if len(parts) > 3:
        raise BadName(f"{shown!r} has {len(parts) - 1} slashes; two is the most", hint=NAME_FORM)
    model = parts[-1]
    namespace = parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE
    host = parts[-3] if len(parts) > 2 else DEFAULT_HOST
    wrong = [
        f"{what} {part[:40]!r}"
        for what, part, rule in (
            ("host", host, _HOST),
            ("namespace", namespace, _NAMESPACE),
            ("model", model, _PART),
            ("tag", tag, _PART),
        )
        if not rule.fullmatch(part)
    ]
    if wrong:
        raise BadName(f"{shown!r} is not a model name: bad {', '.join(wrong)}", hint=NAME_FORM)
    return ModelName(host, namespace, model, tag)


_MOST_REMEMBERED = 200
"""Characters of a text whose name is remembered: the same ones come again and again."""

_remembered = lru_cache(1024)(_read)
