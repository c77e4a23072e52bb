"""A dict that lists some sorts of entries once and answers from that: for who asks for many of them in one breath."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.core.errors import StoreTrouble
from jobs.store.prefixes import beginning
from jobs.store.protocols import BatchDict


class ListedDict:
    """A `BatchDict` for one thread, for seconds: what others write meanwhile under its prefixes is not seen.

    What is written goes to the real one, which alone decides who of several was first. A key that somebody else turned
    out to have written is read there from then on.

    Args:
        real: where the entries are.
        prefixes: how the keys begin that are listed, once, at the first question about any of them.

    """

    def __init__(self, real: BatchDict, *prefixes: str) -> None:
        self._real = real
        self._prefixes = prefixes
        self._known: dict[Any, Any] | None = None
        self._is_away = False

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        is_written = self._real.put(key, value, skip_if_exists=skip_if_exists)
        if self._known is not None and self._is_listed(key):
            self._known[key] = value if is_written else self._real.get(key)
        return is_written

    def update(self, other: Mapping[Any, Any], /) -> None:
        self._real.update(other)
        if self._known is not None:
            self._known.update({key: value for key, value in other.items() if self._is_listed(key)})

    def get(self, key: Any, default: Any = None) -> Any:
        if not self._is_listed(key) or self._is_away:
            return self._real.get(key, default)
        try:
            return self._listed().get(key, default)
        except StoreTrouble:  # who lists it is told; by its key it may be read even so
            self._is_away = True
            return self._real.get(key, default)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        if not self._are_listed(prefixes):
            return self._real.keys(*prefixes)
        return iter(list(beginning(self._listed(), prefixes)))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        if not self._are_listed(prefixes):
            return self._real.items(*prefixes)
        known = self._listed()
        return iter([(key, known[key]) for key in beginning(known, prefixes)])

    def _listed(self) -> dict[Any, Any]:
        if self._known is None:
            self._known = dict(self._real.items(*self._prefixes))
        return self._known

    def _is_listed(self, key: Any) -> bool:
        return isinstance(key, str) and key.startswith(self._prefixes)

    def _are_listed(self, prefixes: tuple[str, ...]) -> bool:
        return bool(prefixes) and all(map(self._is_listed, prefixes))
