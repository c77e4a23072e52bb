"""Every act that is written down, once: by which requests, commands and schedules it comes. Complete: tests compare it
with the routes of the gateway, with the commands, and with what each of them leaves in the store.

Whoever adds a route or a command that changes something adds it here, and calls `Audit.act` where it is done.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Recorded(NamedTuple):
    """How an act comes.

    Args:
        routes: of the gateway, by method and path.
        commands: of `ollama-modal` on this machine, and those of the same name for `modal run`.
        by: schedules that do it by themselves.

    """

    routes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    by: tuple[str, ...] = ()


_JOBS = "POST /ops/v1/jobs"
_NIGHTS = ("nightly",)

ACTS: Mapping[str, Recorded] = {
    "post": Recorded((_JOBS,)),
    "pull": Recorded(("POST /api/pull", _JOBS), ("pull",), _NIGHTS),
    "verify": Recorded((_JOBS,), ("verify",), _NIGHTS),
    "delete": Recorded(("DELETE /api/delete", _JOBS), ("delete",), _NIGHTS),
    "prune": Recorded((_JOBS,), ("prune",), _NIGHTS),
    "rollback": Recorded((_JOBS,), ("rollback",)),
    "warm": Recorded((_JOBS,), ("warm",), ("nightly", "window")),
    "batch": Recorded((), ("batch",)),
    "copy": Recorded(("POST /api/copy",)),
    "cancel": Recorded(
        (
            "POST /ops/v1/jobs/{id}/cancel",
            "POST /ops/v1/batches/{id}/cancel",
            "POST /v1/batches/{id}/cancel",
            "POST /v1/messages/batches/{id}/cancel",
        ),
        ("cancel",),
    ),
    "file-delete": Recorded(("DELETE /v1/files/{id}",)),
    "batch-delete": Recorded(("DELETE /v1/messages/batches/{id}",)),
    "retry": Recorded(("POST /ops/v1/jobs/{id}/retry", "POST /ops/v1/jobs/retry"), ("retry",)),
    "dismiss": Recorded(("POST /ops/v1/jobs/{id}/dismiss", "POST /ops/v1/jobs/dismiss"), ("dismiss",)),
    "key-new": Recorded(("POST /ops/v1/keys",), ("keys new",)),
    "key-set": Recorded(("PATCH /ops/v1/keys/{name}",), ("keys set",)),
    "key-rotate": Recorded(("POST /ops/v1/keys/{name}/rotate",), ("keys rotate",)),
    "key-revoke": Recorded(("DELETE /ops/v1/keys/{name}",), ("keys revoke",)),
    "settings": Recorded((), ("up",)),
    "window-open": Recorded(by=("window",)),
    "window-close": Recorded(by=("window",)),
    "create": Recorded(("POST /api/create",)),
    "push": Recorded(("POST /api/push",)),
    "blob": Recorded(("POST /api/blobs/{digest}", "HEAD /api/blobs/{digest}")),
}
"""`post` is a job of whatever kind, refused before its request was read; `create`, `push` and `blob` are refused to
everybody; `settings` are those of a fleet file that `up` reads and that differ from before."""

_ACT_OF = {route: act for act, recorded in reversed(list(ACTS.items())) for route in recorded.routes}


def act_of(method: str, path: str) -> str | None:
    """The act of a request to this path, or by a route of it, before it was read; None where it changes nothing."""
    exact = _ACT_OF.get(f"{method} {path}")
    return exact or next((act for route, act in _ACT_OF.items() if _is_of(f"{method} {path}", route)), None)


def _is_of(asked: str, route: str) -> bool:
    parts, wanted = asked.split("/"), route.split("/")
    return len(parts) == len(wanted) and all(w == part or w[:1] == "{" for part, w in zip(parts, wanted, strict=True))
