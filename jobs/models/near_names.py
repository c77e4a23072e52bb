"""Which known names come near one that nobody has, for the hint of a 404. Many names cost no more than few.

Names are found by the pairs of letters they share, the rarest pairs first, and only so many of those that share most
are compared letter by letter. So a caller who asks for names that are not there delays no other.
"""

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import islice

from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName

NEAR = 3
"""So many names are worth reading."""

COMPARED = 5
"""Names that are compared letter by letter; each takes some tens of microseconds."""

LOOKED_AT = 50
"""Names of which it is asked whether a caller may see them."""

VISITED = 2_000
"""Names that are looked up by the pairs of letters they share, counted as often as they share one."""

LETTERS = 100
"""As many of a name are compared."""

_ALIKE = 0.6


class NearNames:
    """The names that are known. It never changes, so any thread may ask."""

    def __init__(self, known: Iterable[ModelName] = ()) -> None:
        self._known = tuple(known)
        self._folded = tuple(name.folded() for name in self._known)
        self._by_model: dict[str, list[int]] = defaultdict(list)
        self._by_pair: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(self._folded):
            self._by_model[name.model].append(index)
            for pair in _pairs(name.model):
                self._by_pair[pair].append(index)

    def near(self, name: ModelName, may_see: Callable[[ModelName], bool] = lambda _: True) -> list[ModelName]:
        """Those that come nearest: other tags of the same model first, then what is spelt much the same."""
        asked_name = name.folded()
        likely = sorted(self._candidates(asked_name), key=lambda index: _shared(asked_name, self._folded[index]))
        seen = (index for index in reversed(likely) if may_see(self._known[index]))
        likeness = _Likeness(asked_name)
        scored = [(likeness.to(self._folded[index]), self._known[index]) for index in islice(seen, COMPARED)]
        near = sorted((-score, each) for score, each in scored if score >= _ALIKE)
        return [each for _, each in near[:NEAR]]

    def _candidates(self, asked_name: ModelName) -> Iterable[int]:
        """By index, the likeliest first; bounded, whatever is known and whatever is asked for."""
        same = self._by_model.get(asked_name.model, ())[:LOOKED_AT]
        shared: Counter[int] = Counter()
        left = VISITED
        for having in sorted((self._by_pair.get(pair, ()) for pair in _pairs(asked_name.model)), key=len):
            shared.update(having[:left])
            left -= min(len(having), left)
        others = (index for index, _ in shared.most_common(LOOKED_AT))
        return islice(dict.fromkeys((*same, *others)), LOOKED_AT)


def absent(
    name: ModelName, known: Iterable[ModelName], may_see: Callable[[ModelName], bool] = lambda _: True
) -> NotFound | None:
    """Why nothing can be done with this model: it is not among those that are known; None when it is."""
    names = list(known)
    if name.folded() in {each.folded() for each in names}:
        return None
    near = ", ".join(str(each) for each in NearNames(names).near(name, may_see))
    hint = f"did you mean {near}?" if near else "`ollama-modal models` lists what is"
    return NotFound(f"there is no model {str(name)!r} here", hint=f"{hint}; or `ollama-modal pull {name}`")


@lru_cache(maxsize=4096)
def _pairs(text: str) -> frozenset[str]:
    """What of a name counts: each two letters that follow each other, and where it begins."""
    framed = f"^{text}"
    return frozenset(framed[at : at + 2] for at in range(len(framed) - 1))


def _shared(one: ModelName, other: ModelName) -> tuple[float, float]:
    """How many of their pairs two names share, of the model and of the tag; 1 is all of them."""
    return _share(_pairs(one.model), _pairs(other.model)), _share(_pairs(one.tag), _pairs(other.tag))


def _share(one: frozenset[str], other: frozenset[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other) or 1)


class _Likeness:
    """How near other names in small letters come to one."""

    def __init__(self, asked: ModelName) -> None:
        self._asked = asked
        self._whole, self._model, self._tag = (_matcher(text) for text in (str(asked), asked.model, asked.tag))

    def to(self, other: ModelName) -> float:
        """From 0; from 1 it is the same model."""
        asked = self._asked
        if (asked.model, asked.namespace) == (other.model, other.namespace):
            return 2.0 + _alike(self._tag, other.tag)
        if asked.model == other.model:
            return 1.0 + _alike(self._whole, str(other))
        return max(_alike(self._whole, str(other)), _alike(self._model, other.model))


def _matcher(text: str) -> "difflib.SequenceMatcher[str]":
    """It looks through its second text once, for all that are compared with it."""
    return difflib.SequenceMatcher(None, "", text[:LETTERS], autojunk=False)


def _alike(matcher: "difflib.SequenceMatcher[str]", other: str) -> float:
    matcher.set_seq1(other[:LETTERS])
    # The cheap upper bounds first.
    if matcher.real_quick_ratio() < _ALIKE or matcher.quick_ratio() < _ALIKE:
        return 0.0
    return matcher.ratio()
