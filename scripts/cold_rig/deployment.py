"""The cold starts that a real deployment has recorded: the table of `ollama-modal cold --url`. Nobody is woken."""

from collections.abc import Sequence
from typing import Any

from jobs.cli.output import screen_width
from jobs.core.clock import SystemClock
from jobs.core.errors import Trouble
from jobs.core.since import parse_since
from jobs.home.gateway_client import GatewayClient
from jobs.telemetry.cold_starts import ColdStart
from jobs.telemetry.cold_table import lines, speeds


def told(url: str, key: str, since: str) -> dict[str, Any]:
    """Print what the gateway tells of them; the figures, by tier, kind and model.

    Raises:
        SystemExit: it does not tell; the message says why, and what to do.

    """
    clock = SystemClock()
    now = clock.now().astimezone()
    try:
        with GatewayClient(url, key or None, clock=clock) as remote:
            starts, older = ColdStart.listed(remote.cold(parse_since(since, "--since", now)))
    except Trouble as trouble:
        raise SystemExit(f"error: {trouble}" + (f"\nhint: {trouble.hint}" if trouble.hint else "")) from trouble
    found = list(lines(starts, now, screen_width(), older))
    print("\n".join(found or [f"nobody has waited for a server or a load there since then ({since})"]), flush=True)
    return figures(starts)


def figures(starts: Sequence[ColdStart]) -> dict[str, Any]:
    return {each.name: each.as_json() for each in speeds(starts)}
