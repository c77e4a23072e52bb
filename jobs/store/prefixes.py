"""Which keys begin as asked: the part of listing by prefixes that each store needs."""

from collections.abc import Iterable, Iterator


def shortest(prefixes: Iterable[str]) -> list[str]:
    """The prefixes without those that another one covers; of none at all, the one of everything."""
    kept: list[str] = []
    for prefix in sorted(prefixes) or [""]:
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


def beginning(keys: Iterable[str], prefixes: tuple[str, ...]) -> Iterator[str]:
    """Those that begin as one of these; all, where there are none."""
    return (key for key in keys if not prefixes or key.startswith(prefixes))
