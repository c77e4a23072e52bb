"""The table of app/README.md: which engine speaks which route, and what a caller is told of one that is not spoken."""

from app.engines.engine import Engine
from app.engines.table import ENGINES


def table() -> list[str]:
    """Its lines, by the engines' own values."""
    paths = sorted({path for engine in ENGINES.values() for path in engine.routes})
    rows = [["route", *(engine.title for engine in ENGINES.values())], ["---"] * (len(ENGINES) + 1)]
    rows += [[f"`{path}`", *(_cell(engine, path) for engine in ENGINES.values())] for path in paths]
    return [f"| {' | '.join(row)} |" if row[0] != "---" else f"|{'|'.join(row)}|" for row in rows]


def _cell(engine: Engine, path: str) -> str:
    if engine.speaks(path):
        return "passes unchanged"
    way = engine.instead.get(path)
    return f"501 before a wake{f': {way}' if way else ''}"
