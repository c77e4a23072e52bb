"""What a Go template tells of its model, as Ollama reads it off: which variables it uses, and whether it thinks.

Nothing is rendered. A template that Go would refuse tells as much as can be seen of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|`[^`]*`|\'(?:\\.|[^\'\\])*\'', re.DOTALL)
_IDENTIFIER = re.compile(r"\.([A-Za-z_]\w*)")
_FIELD = re.compile(r"(?<![\w$.)])\.([A-Za-z_]\w*)")  # begins at the dot: not a part of `$x.Name` or of a longer chain
_OPENS = frozenset({"if", "range", "with", "define", "block"})


@dataclass
class _Node:
    """A piece of text, or an action with what stands between it and its end."""

    text: str = ""
    action: str = ""
    lists: list[list["_Node"]] = field(default_factory=list)

    @property
    def keyword(self) -> str:
        return self.action.split(maxsplit=1)[0] if self.action else ""


def variables(template: str) -> frozenset[str]:
    """The names that the template uses, in lower case."""
    actions = (_LITERAL.sub("", action) for action in _actions(template))
    return frozenset(name.lower() for action in actions for name in _IDENTIFIER.findall(action))


def thinks(template: str) -> bool:
    """Whether thoughts stand between two marks, inside a loop over the messages (ollama thinking/template.go)."""
    opening, closing = "", ""
    for before, after in _marks(_parsed(template), None):
        opening, closing = before or opening, after or closing
    return bool(opening and closing)


def _actions(template: str) -> Iterator[str]:
    for found in _ACTION.finditer(template):
        if not found[2].lstrip().startswith("/*"):
            yield found[2].strip()


def _marks(nodes: list[_Node], loop: str | None) -> Iterator[tuple[str, str]]:
    """What stands first and last in each list that speaks of thoughts."""
    for node in nodes:
        if node.action and "Thinking" in _fields(node.action) and loop is not None and "Messages" in _fields(loop):
            yield nodes[0].text.strip(), nodes[-1].text.strip()
        for inner in node.lists:
            yield from _marks(inner, node.action if node.keyword == "range" else loop)


def _fields(action: str) -> set[str]:
    return set(_FIELD.findall(_LITERAL.sub("", action)))


def _parsed(template: str) -> list[_Node]:
    root: list[_Node] = []
    into = [root]
    owners: list[_Node] = []
    at, trims = 0, False
    for found in _ACTION.finditer(template):
        _add_text(into[-1], template[at : found.start()], left=trims, right=bool(found[1]))
        at, trims = found.end(), bool(found[3])
        action = found[2].strip()
        keyword = action.split(maxsplit=1)[0] if action else ""
        if action.startswith("/*"):
            continue
        if keyword == "end" and owners:
            owners.pop()
            into.pop()
        elif keyword == "else" and owners:
            into[-1] = []
            rest = action.removeprefix("else").strip()  # `else if` is a branch of its own inside the other one
            owners[-1].lists.append([_Node(action=rest, lists=[into[-1]])] if rest else into[-1])
        else:
            node = _Node(action=action)
            into[-1].append(node)
            if keyword in _OPENS:
                node.lists.append([])
                owners.append(node)
                into.append(node.lists[0])
    _add_text(into[-1], template[at:], left=trims, right=False)
    return root


def _add_text(nodes: list[_Node], text: str, *, left: bool, right: bool) -> None:
    """Text as it is left by the trim marks of the actions beside it; none is no node."""
    trimmed = text.lstrip() if left else text
    trimmed = trimmed.rstrip() if right else trimmed
    if trimmed:
        nodes.append(_Node(text=trimmed))
