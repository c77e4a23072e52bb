"""What a Go template says of its model, as Ollama reads it off: which variables it uses, and whether it thinks.

Nothing is rendered. A template that Go would refuse says as much as can be seen of it. It comes from outside, so it is
read once from its first character to its last: without recursion, however deep its blocks are, and never backwards.
"""

import re
from dataclasses import dataclass, field

_STOP = re.compile(r"[\"'`]|\}\}")
_QUOTED = {
    '"': re.compile(r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'),
    "'": re.compile(r"'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'"),
    "`": re.compile(r"`[^`]*+`"),
}
_WORD = re.compile(r"[A-Za-z_]\w*+")
_IDENTIFIER = re.compile(r"\.([A-Za-z_]\w*+)")
_FIELD = re.compile(r"(?<![\w$.)])\.([A-Za-z_]\w*+)")  # begins at the dot: not a part of `$x.Name` or of a longer chain
_OPENS = frozenset({"if", "range", "with", "define", "block"})
_SPACES = " \t\r\n"
_TRIMS_LEFT = tuple(f"-{space}" for space in _SPACES)


@dataclass(frozen=True)
class TemplateReading:
    """What a template says.

    Args:
        variables: the names that it uses, in lower case.
        thinks: thoughts stand between two marks, inside a loop over the messages (ollama thinking/template.go).
        wrong: why Go certainly refuses it; empty where it may take it.

    """

    variables: frozenset[str] = frozenset()
    thinks: bool = False
    wrong: str = ""


def read(template: str) -> TemplateReading:
    return _TemplateParser(template).reading()


@dataclass(slots=True)
class _List:
    """The pieces between two actions that belong together, as far as they matter: the first, the last, and thoughts."""

    loops_over_messages: bool | None
    """Whether the innermost loop around it does; None outside of all loops."""
    opens: bool | None = None
    """Whether its first piece is a text that is not blank; None before there is one."""
    closes: bool = False
    """Whether its last piece is."""
    has_thoughts: bool = False

    def add(self, *, says_something: bool) -> None:
        if self.opens is None:
            self.opens = says_something
        self.closes = says_something


@dataclass
class _TemplateParser:
    template: str
    names: set[str] = field(default_factory=set)
    lists: list[_List] = field(default_factory=lambda: [_List(None)])
    opening: bool = False
    closing: bool = False
    wrong: str = ""

    def reading(self) -> TemplateReading:
        self._read()
        if len(self.lists) > 1 and not self.wrong:
            self.wrong = f"{len(self.lists) - 1:,} blocks are never ended"
        while self.lists:
            self._leave()
        return TemplateReading(frozenset(self.names), self.opening and self.closing, self.wrong)

    def _read(self) -> None:
        text = self.template
        at, trims = 0, False
        while (start := text.find("{{", at)) >= 0:
            inside = start + 2
            trims_left = text.startswith(_TRIMS_LEFT, inside)
            self._add_text(at, start, left=trims, right=trims_left)
            inside += 2 if trims_left else 0
            read = self._comment(inside) if text.startswith("/*", inside) else self._action(inside)
            if read is None:
                return
            at, trims = read
        self._add_text(at, len(text), left=trims, right=False)

    def _comment(self, inside: int) -> tuple[int, bool] | None:
        """Where the text goes on after it, and whether it is trimmed there."""
        end = self.template.find("*/", inside + 2)
        stop = end + 2
        trims = (
            end >= 0 and self.template[stop : stop + 1] in tuple(_SPACES) and self.template[stop + 1 : stop + 2] == "-"
        )
        stop += 2 if trims else 0
        if end < 0 or not self.template.startswith("}}", stop):
            self.wrong = "a comment is never closed"
            return None
        return stop + 2, trims

    def _action(self, inside: int) -> tuple[int, bool] | None:
        """Take in an action whose words begin there; the same answer."""
        text, code, at = self.template, list[str](), inside
        while (stop := _STOP.search(text, at)) is not None and stop[0] != "}}":
            code.append(text[at : stop.start()])
            quoted = _QUOTED[stop[0]].match(text, stop.start())
            if quoted is None:
                self.wrong = "a quotation is never closed"
                return None
            at = quoted.end()
        if stop is None:
            self.wrong = "an action is never closed"
            return None
        end = stop.start()
        trims = end - 2 >= at and text[end - 1] == "-" and text[end - 2] in _SPACES
        code.append(text[at : end - 2 if trims else end])
        self._take(" ".join(code).strip())
        return stop.end(), trims

    def _take(self, code: str) -> None:
        """An action, without its literals."""
        self.names.update(name.lower() for name in _IDENTIFIER.findall(code))
        word = _WORD.match(code)
        keyword = word[0] if word else ""
        if keyword in ("end", "else"):
            if len(self.lists) == 1:
                self.wrong = self.wrong or f"an {keyword!r} has no block"
                self.lists[-1].add(says_something=False)
                return
            left = self._leave()
            if keyword == "else":
                self.lists.append(_List(left.loops_over_messages))
            return
        fields = set(_FIELD.findall(code))
        innermost = self.lists[-1]
        innermost.add(says_something=False)
        innermost.has_thoughts |= "Thinking" in fields
        if keyword in _OPENS:
            over = "Messages" in fields if keyword == "range" else innermost.loops_over_messages
            self.lists.append(_List(over))

    def _leave(self) -> _List:
        left = self.lists.pop()
        if left.has_thoughts and left.loops_over_messages:
            self.opening |= bool(left.opens)
            self.closing |= left.closes
        return left

    def _add_text(self, start: int, stop: int, *, left: bool, right: bool) -> None:
        """Text as it is left by the trim marks of the actions beside it; none is no piece."""
        if start == stop:
            return
        says_something = not self.template[start:stop].isspace()
        if says_something or not (left or right):
            self.lists[-1].add(says_something=says_something)
