"""Keys as a person reads them: the same for those of this machine and of a gateway."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jobs.cli.output import put, put_table, say
from jobs.cli.terminal.table import GiveWay
from jobs.core.clock import parse_moment
from jobs.core.units import local_time

Document = Mapping[str, Any]

_HEAD = ("NAME", "STATE", "SCOPES", "MODELS", "LIMITS", "EXPIRES", "MADE BY")

_GIVES_WAY = (
    GiveWay("MADE BY", "left out"),
    GiveWay("LIMITS", 16),
    GiveWay("MODELS", 12),
    GiveWay("EXPIRES", lambda moment: moment[:10]),
    GiveWay("SCOPES", 5),
    GiveWay("LIMITS", "left out"),
    GiveWay("NAME", 16, "middle"),
)
"""Whose key it is, and whether it is good, come last to give way."""


def put_keys(keys: Sequence[Document], problems: Sequence[str], now: datetime) -> None:
    """All keys, and what is wrong with them."""
    if keys:
        put_table(_HEAD, [_row(each, now) for each in keys], _GIVES_WAY)
    else:
        say("there are no keys")
        say("hint: make one: `ollama-modal keys new NAME --scope admin`")
    for problem in problems:
        say(f"warning: {problem}")


def put_key(key: Document, now: datetime) -> None:
    """One key, a line for each thing that is known of it."""
    state, *about = _row(key, now)[1:6]
    put(f"key {key['name']}: {state}, {_kept(key)}")
    for label, text in zip(("may", "models", "limits", "expires"), about, strict=True):
        put(f"  {label}: {text}")
    for proof in key["proofs"]:
        until = f", until {local_time(parse_moment(proof['until']), now)}" if proof["until"] else ""
        put(f"  {proof['kind']} {proof['fingerprint']}{until}")
    for done in ("made", "changed", "revoked"):
        if key[f"{done}_at"]:
            put(f"  {done} {local_time(parse_moment(key[f'{done}_at']), now)} by {key[f'{done}_by']}")


def _kept(key: Document) -> str:
    return "on a line of the keys file or the secret" if key["source"] == "lines" else f"version {key['version']}"


def _row(key: Document, now: datetime) -> tuple[str, ...]:
    limits = " ".join(f"{name}={value}" for name, value in key["limits"].items())
    expires = local_time(parse_moment(key["expires"]), now) if key["expires"] else "never"
    made = key["made_by"] or "a line"
    models = ",".join(key["models"]) or "all"
    return (key["name"], key["state"], ",".join(key["scopes"]), models, limits or "none", expires, made)
