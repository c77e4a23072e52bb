"""What is shown: the table with its ratios, and the picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench_gateway_parts.load_program import NEAR

OURS = "ollama-modal"
COLOURS = {
    OURS: "#2563eb", "nginx": "#16a34a", "litellm": "#9333ea", "olla": "#ea580c", "llama-swap": "#0891b2",
    "none": "#6b7280",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure, and how it is read off what was measured of a contestant; None where it was not."""

    label: str
    figure: Callable[[dict[str, Any]], float | None]
    is_drawn: bool = False


def rows(outcome: dict[str, Any]) -> Iterator[Row]:
    plain = outcome["results"].get("none")

    def of(phase: str, name: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda each: each[phase].get(name)

    def added(phase: str, name: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda each: None if plain is None else each[phase][name] - plain[phase][name]

    kib = outcome["body_bytes"] // 1024
    yield Row(f"requests/s, {outcome['callers']} callers", of("requests", "requests_per_second"), is_drawn=True)
    yield Row("  processor µs a request", of("requests", "cpu_us_each"), is_drawn=True)
    yield Row(f"{kib} KiB bodies: requests/s", of("bodies", "requests_per_second"))
    yield Row(f"  processor µs a request of {kib} KiB", of("bodies", "cpu_us_each"), is_drawn=True)
    for at_once in outcome["streams"]:
        phase, is_drawn = f"streams_{at_once}", at_once == 100
        yield Row(f"{at_once} streams: pieces/s", of(phase, "pieces_per_second"))
        yield Row("  processor µs a piece", of(phase, "cpu_us_each"), is_drawn)
        yield Row("  added first byte p50, ms", added(phase, "first_p50_ms"), is_drawn)
        yield Row("  added first byte p95, ms", added(phase, "first_p95_ms"), is_drawn)
        yield Row("  a piece late p50, ms", of(phase, "late_p50_ms"))
        yield Row("  a piece late p95, ms", of(phase, "late_p95_ms"))
        yield Row("  streams cut", of(phase, "cut"))
    yield Row("memory, peak, MB", lambda each: each.get("memory_peak_mb"), is_drawn=True)
    for name, count in (("first", outcome["requests"] // 10), ("all", outcome["requests"])):
        key = f"memory_after_{name}_mb"
        yield Row(f"memory after {count:,} more, MB", lambda each, key=key: each.get(key))  # type: ignore[misc]


def table(outcome: dict[str, Any]) -> Iterator[str]:
    """Its lines, and what is to be known of them."""
    results = outcome["results"]
    yield f"{'':<35}" + "".join(f"{name:>18}" for name in results)
    for row in rows(outcome):
        base = row.figure(results[OURS]) if OURS in results else None
        cells = [_cell(row.figure(each), None if name == OURS else base) for name, each in results.items()]
        yield f"{row.label:<35}" + "".join(f"{cell:>18}" for cell in cells)
    yield ""
    yield (
        f"(…x): beside {OURS}. {outcome['pieces']} pieces a stream, {outcome['pace_ms']} ms apart; `added` is beside no"
        " gateway at all;"
    )
    yield "the processor is that of the whole stack, streams with their requests, ours with workers and ledger"
    near = [
        f"{name} ({phase} {each[phase]['load_share']:.0%})"
        for name, each in results.items()
        if name != "none"  # which shows what the load itself can
        for phase in each
        if isinstance(each[phase], dict) and each[phase]["load_share"] >= NEAR
    ]
    if near:
        yield f"the load itself was near its limit, so that more a second might have gone through: {', '.join(near)}"
    if not outcome["is_load_fast"]:
        yield "the load came from Python, not from Go: it is the limit of what is fast here"


def _cell(value: float | None, base: float | None) -> str:
    if value is None:
        return "-"
    is_whole = isinstance(value, int) or abs(value) >= 1000
    shown = f"{value:,.0f}" if is_whole else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"
    if base is None or base <= 0 or value <= 0:
        return shown
    ratio = value / base
    return f"{shown} ({f'{ratio:,.0f}' if ratio >= 10 else f'{ratio:.2f}'}x)"


def picture(outcome: dict[str, Any]) -> str:
    """Bars, one group for each figure that has a place in the design."""
    parts, y = [], 40
    for row in rows(outcome):
        values = {name: value for name, each in outcome["results"].items() if (value := row.figure(each)) is not None}
        if not row.is_drawn or not values:
            continue
        parts.append(f'<text x="20" y="{y}" font-weight="600">{row.label.strip()}</text>')
        most = max(0.0, *values.values()) or 1.0
        for name, value in values.items():
            y += 22
            width = max(2.0, 420 * value / most)
            parts.append(f'<text x="20" y="{y}" class="name">{name}</text>')
            parts.append(f'<rect x="130" y="{y - 12}" width="{width:.1f}" height="15" fill="{COLOURS[name]}"/>')
            parts.append(f'<text x="{140 + width:.1f}" y="{y}">{_cell(value, None)}</text>')
        y += 38
    style = "text{font:13px system-ui,sans-serif;fill:#111827}.name{fill:#4b5563}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" width="720" height="{y}">'
    return f'{head}<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
