"""A sleeping tier is asked for a model that is not the one it keeps warm, on the tests' control plane (`wakes`).

Before, a server had what is warmed in memory before it was ready, whichever was asked for; now the wake names its
model, and what is warmed comes while it serves. The way of before is had by a ledger that does not tell which is waited
for.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cold_rig.processor import busy
from cold_rig.wakes import MODEL, Script, deployed, spread
from jobs.cli.terminal.table import table as terminal_table
from jobs.store import keys

WARMED = "llama3.2"
"""As `app/fleet.toml` has it of the tier."""

WAYS = ("what is warmed first", "the wake names its model")


@dataclass(frozen=True)
class Waited:
    """One wake: seconds to the first token, and how many models were in memory before it."""

    seconds: float
    loads: int


def measured(number: int, script: Script, warmed_seconds: float) -> dict[str, list[Waited]]:
    """What a caller waited, so many times each way, in turn."""
    waited: dict[str, list[Waited]] = {way: [] for way in WAYS}
    script = replace(script, loads={f"{WARMED}:latest": warmed_seconds})
    with deployed(script, WARMED, MODEL) as plane:
        plane.sleep()
        plane.wake()  # fills what is kept between them
        for way in WAYS * number:
            plane.withhold(keys.WANTED if way == WAYS[0] else "")
            plane.sleep()
            waited[way].append(Waited(plane.wake().waited, plane.loads_before_answer()))
            print(f"  {way}: {waited[way][-1].seconds:.2f} s", file=sys.stderr, flush=True)
    return waited


def figures(waited: dict[str, list[Waited]], script: Script, warmed_seconds: float) -> dict[str, Any]:
    """What came of it, as a document."""
    before, now = (statistics.median(each.seconds for each in waited[way]) for way in WAYS)
    return {
        "load_seconds": script.load,
        "warmed_seconds": warmed_seconds,
        "waited": {way: spread([one.seconds for one in each]) for way, each in waited.items()},
        "loads": {way: statistics.median(one.loads for one in each) for way, each in waited.items()},
        "times": round(before / now, 2),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The same, as lines."""
    yield (
        f"a sleeping tier that keeps {WARMED} warm ({found['warmed_seconds']:g} s to load), asked for {MODEL}"
        f" ({found['load_seconds']:g} s); seconds to the first token"
    )
    before = found["waited"][WAYS[0]]["p50"]
    rows: Sequence[tuple[str, ...]] = [
        (way, f"{each['p50']:.2f} s", f"{each['p95']:.2f} s", f"{each['p50'] / before:.2f}")
        for way, each in found["waited"].items()
    ]
    yield from terminal_table(("IN MEMORY", "P50", "P95", "X BEFORE"), rows)
    yield f"{found['times']:.2f} times faster"
    yield from busy()
