"""The words that a key is described in, on a line, in the ledger, in a request: its name, scopes, models, end. Pure."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from jobs.access.keys.proofs import PREFIX
from jobs.core.errors import BadRequest, Refused

CHAT = "chat"
ADMIN = "admin"
SCOPES = (CHAT, ADMIN)
"""Chat: inference, lists, and reading about jobs. Admin: whatever changes something, and reading as well."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9_.:/*?\[\]!-]{1,200}", re.ASCII)


class KeyConflict(Refused):
    """What is asked of a key does not go with what is there."""


def is_name(text: str) -> bool:
    """Whether this names a key, and is none itself: somebody may have taken one for the other."""
    return _NAME.fullmatch(text) is not None and not text.startswith(PREFIX)


def parse_name(text: str) -> str:
    """The name of a key.

    Raises:
        BadRequest: it is none.

    """
    if text.startswith(PREFIX):
        raise BadRequest("that is a key itself, and not its name", hint="`ollama-modal keys list` shows the names")
    if not is_name(text):
        raise BadRequest(
            f"{text[:64]!r} is no name of a key", hint="up to 64 letters, digits, `_`, `.`, `-`, as in alice"
        )
    return text


def parse_scopes(words: Iterable[str]) -> tuple[str, ...]:
    """Scopes in their order, each once; chat where there is none.

    Raises:
        BadRequest: a word is no scope.

    """
    asked = list(words)
    if wrong := [word for word in asked if word not in SCOPES]:
        raise BadRequest(f"{wrong[0][:64]!r} is no scope", hint=f"scopes are {' and '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in asked) or (CHAT,)


def parse_patterns(text: str) -> tuple[str, ...]:
    """Patterns of models, by commas. Never none of them: a key for no pattern would be one for every model.

    Raises:
        BadRequest: one is none.

    """
    patterns = tuple(text.lower().split(","))
    if wrong := [part for part in patterns if not _PATTERN.fullmatch(part) or part.count("/") > 2]:
        what = f"a pattern that no name can fit: {wrong[0]!r}" if wrong[0] else "an empty pattern"
        raise BadRequest(
            f"models has {what}", hint="as in models=llama*,hf.co/*/*:q4*; leave `models=` out to allow all of them"
        )
    return patterns


def parse_expiry(text: str) -> datetime:
    """A day (its beginning, in UTC) or a moment.

    Raises:
        BadRequest: it is neither.

    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:  # the second at either end of time, in another zone
        raise BadRequest(
            f"expires={text!r} is no moment", hint="a day or a moment, as in expires=2027-01-31 or 2027-01-31T18:00Z"
        ) from error
