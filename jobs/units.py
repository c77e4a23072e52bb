"""Numbers as people read them: decimal bytes, as Ollama shows them. The one place that words a size."""

_STEPS = ("kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """`2.0 GB`, `815 MB`, `12 B`: three figures at most, in steps of a thousand."""
    if abs(count) < 999.5:
        return f"{count:.0f} B"
    amount = float(count)
    unit = "B"
    for unit in _STEPS:  # noqa: B007 - the last one reached names the amount
        amount /= 1000
        if abs(amount) < 999.5:
            break
    return f"{amount:.1f} {unit}" if abs(amount) < 9.95 else f"{amount:.0f} {unit}"
