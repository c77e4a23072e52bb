"""What somebody wants changed of a key, as a request and a command say it: what is not said stays. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_words import KeyConflict, parse_expiry, parse_patterns, parse_scopes
from jobs.access.limits import OPTIONS, Limits
from jobs.core.clock import isoformat
from jobs.core.errors import BadRequest

NEVER: Literal["never"] = "never"


@dataclass(frozen=True)
class KeyChange:
    """None, and no limits, is what stays.

    Args:
        scopes: instead of those that it has.
        models: patterns, instead of those that it has; none of them is every model.
        limits: by name; an empty one is taken away.
        expires: a moment, or `never`.

    """

    scopes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    limits: Mapping[str, str] = field(default_factory=dict)
    expires: datetime | Literal["never"] | None = None

    @classmethod
    def read(
        cls,
        now: datetime,
        *,
        scopes: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        limits: Mapping[str, str] | None = None,
        expires: str | None = None,
    ) -> "KeyChange":
        """Of words.

        Raises:
            BadRequest: one of them says nothing.
            KeyConflict: the moment is over.

        """
        if unknown := sorted(set(limits or ()) - set(OPTIONS)):
            raise BadRequest(f"{unknown[0]!r} is no limit", hint=f"limits are {', '.join(OPTIONS)}")
        Limits.parse({name: value for name, value in (limits or {}).items() if value})
        return cls(
            parse_scopes(scopes) if scopes is not None else None,
            (parse_patterns(",".join(models)) if models else ()) if models is not None else None,
            dict(limits or {}),
            _expiry(expires, now),
        )

    def of(self, settings: KeySettings) -> KeySettings:
        """The settings with this change.

        Raises:
            BadRequest: a limit is none.

        """
        told = {**settings.limits.options(), **self.limits}
        expires = settings.expires if self.expires is None else None if self.expires == NEVER else self.expires
        return replace(
            settings,
            scopes=settings.scopes if self.scopes is None else self.scopes,
            models=settings.models if self.models is None else self.models,
            limits=Limits.parse({name: value for name, value in told.items() if value}),
            expires=expires,
        )

    def as_json(self) -> dict[str, object]:
        """As a request has it."""
        told: dict[str, object] = {}
        if self.scopes is not None:
            told["scopes"] = list(self.scopes)
        if self.models is not None:
            told["models"] = list(self.models)
        if self.limits:
            told["limits"] = dict(self.limits)
        if self.expires is not None:
            told["expires"] = isoformat(self.expires) if isinstance(self.expires, datetime) else self.expires
        return told


def _expiry(text: str | None, now: datetime) -> datetime | Literal["never"] | None:
    if text is None or text == NEVER:
        return NEVER if text else None
    moment = parse_expiry(text)
    if moment <= now:
        raise KeyConflict(f"{text!r} is over already: it is {isoformat(now)} now", hint="to end a key now, revoke it")
    return moment
