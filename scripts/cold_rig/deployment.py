"""The cold starts that a real deployment has recorded, in the columns of the rig. Nobody is woken."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from jobs.telemetry.cold_starts import ColdStart, Phase, cold_starts

FLOOR_BYTES_PER_SECOND = 2.5e9
"""What the platform says of its volumes at their best."""

OWN: tuple[Phase, ...] = ("weights", "handover")
"""The phases that have nothing but our own code and what it asks of the platform in them."""


def asked(url: str, key: str, since: str) -> list[ColdStart]:
    """What the gateway tells.

    Raises:
        SystemExit: it does not.

    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/ops/v1/cold", params={"since": since}, headers=headers, timeout=60)
    except httpx.HTTPError as error:
        raise SystemExit(f"error: {url} does not answer: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise SystemExit(f"error: {url} answers {answer.status_code}: {answer.text[:300]}")
    return cold_starts({each_key(each): each for each in answer.json()["starts"]})


def each_key(document: dict[str, Any]) -> str:
    return f"cold/{document['tier']}/{document['container']}/{document['n']}"


def figures(starts: Sequence[ColdStart]) -> dict[str, Any]:
    """By tier, kind and model, in the median."""
    groups: dict[str, list[ColdStart]] = {}
    for each in starts:
        groups.setdefault(f"{each.tier} {each.kind} {each.model or '-'}", []).append(each)
    return {name: of_group(each) for name, each in sorted(groups.items())}


def of_group(starts: Sequence[ColdStart]) -> dict[str, Any]:
    size = next((each.size for each in starts if each.size), None)
    first = statistics.median(each.total for each in starts)
    rates = [each.rate for each in starts if each.rate]
    return {
        "starts": len(starts),
        "bytes": size,
        "ready": round(statistics.median(each.total - each.seconds.get("first_token", 0.0) for each in starts), 3),
        "first_token": round(first, 3),
        "bytes_per_second": round(statistics.median(rates)) if rates else None,
        "times_floor": round(first / (size / FLOOR_BYTES_PER_SECOND), 1) if size else None,
        "own_share": round(statistics.median(sum(each.seconds.get(one, 0.0) for one in OWN) for each in starts), 3),
    }


def table(starts: Sequence[ColdStart]) -> Iterator[str]:
    """The same, as lines."""
    if not starts:
        yield "no cold starts are recorded in that time"
        return
    yield f"{len(starts)} cold starts; medians; the floor is bytes / {FLOOR_BYTES_PER_SECOND / 1e9:g} GB/s"
    yield f"{'':32}{'starts':>7}{'ready':>9}{'1st token':>11}{'GB/s':>7}{'x floor':>9}{'our share':>11}"
    for name, each in figures(starts).items():
        rate = f"{each['bytes_per_second'] / 1e9:.2f}" if each["bytes_per_second"] else "-"
        floor = f"{each['times_floor']:.1f}" if each["times_floor"] else "-"
        yield (
            f"{name:32}{each['starts']:7}{each['ready']:8.2f}s{each['first_token']:10.2f}s{rate:>7}{floor:>9}"
            f"{each['own_share']:10.2f}s"
        )
