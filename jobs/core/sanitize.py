"""Text from outside (names, messages of registries and servers) made fit to be shown to a person.

What passes here can neither move the cursor, nor turn the direction of reading, nor pretend to be a line of ours.
"""

import re
import unicodedata

LONGEST = 600
"""Characters of a foreign text that are shown; `--json` has all of it."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


KEY_PREFIX = "omk_"
"""What a key of the gateway begins with."""

PASS_PREFIX = "omb_"  # noqa: S105 - how passes begin
"""What the pass of a batch begins with, which stands in for its owner's key."""

_KEY = re.compile(rf"({KEY_PREFIX}|{PASS_PREFIX}\w+\.)[A-Za-z0-9_-]+", re.ASCII)


def without_keys(text: str) -> str:
    """The text without any key, or pass of a batch: somebody may have put one where a name belongs."""
    return _KEY.sub(r"\1…", text)


def plain(text: object, longest: int = LONGEST) -> str:
    """One line that is what it looks like: blanks joined, control and direction characters shown as escapes."""
    if isinstance(text, str) and len(text) <= longest and text.isascii() and text.isprintable():  # as nearly all
        return text.strip() if "  " not in text else " ".join(text.split())
    words = " ".join(str(text)[: 4 * longest].split())
    return visible(words if len(words) <= longest else f"{words[:longest]}…")


def visible(line: str) -> str:
    """The line with its blanks as they are, and every character that could do more than be seen shown as an escape."""
    if line.isascii() and line.isprintable():
        return line
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _HIDDEN else character
        for character in line
    )
