"""Where the gateway's models come from: the directory they lie in; where that is not ours, the server on loopback.

A server on a GPU of the platform is never a source.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jobs.core.errors import BadName
from jobs.core.model_name import ModelName
from jobs.models import card as cards
from jobs.models import index
from jobs.models.card import KnownModel
from jobs.models.index import Index
from jobs.ollama.client import OllamaClient
from jobs.ollama.responses import Listed
from jobs.weights.layout import Layout, stat_file


class Directory:
    """A models directory on this machine. It is looked through when a manifest or the list of blobs has changed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        #: What was read last, to read only what has changed since. Used by whichever thread refreshes `KnownState`.
        self._known: Sequence[KnownModel] = ()

    def stamp(self, _: Any) -> Any:
        files = [(file.name, stat_file(file.path)) for file in self._layout.manifest_files()]
        manifests = tuple((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in files if stat)
        blobs = stat_file(self._layout.blobs)
        return manifests, blobs and blobs.st_mtime_ns

    def read(self) -> Sequence[KnownModel]:
        self._known = cards.read(self._layout, self._known)
        return self._known


class Mounted:
    """A directory on a volume, brought up to date when the generation has changed. What there is, the index of that
    generation tells; where there is none, or one that is damaged or of another, all of it is looked through.

    Args:
        layout: where the volume is mounted.
        reload: brings in what others committed; RuntimeError while a file there is open.

    """

    def __init__(self, layout: Layout, reload: Callable[[], None]) -> None:
        self._layout = layout
        self._reload = reload
        #: What was read last, and the generation that was wanted last. Used by whichever thread refreshes `KnownState`.
        self._known: Sequence[KnownModel] = ()
        self._generation: Any = None

    def stamp(self, generation: Any) -> Any:
        self._generation = generation
        return generation

    def read(self) -> Sequence[KnownModel]:
        self._reload()
        told = self.told()
        if told is None:
            self._known = cards.read(self._layout, self._known)
        else:
            self._known = cards.read_told(self._layout, told, self._known)
        return self._known

    def told(self) -> Index | None:
        """What there is, as who published it last has told; None where that is not known."""
        return index.read(self._layout, self._generation)


class Listing:
    """What a server on loopback lists: its files are not ours to read. Asked anew every time."""

    def __init__(self, ollama: OllamaClient) -> None:
        self._ollama = ollama

    def stamp(self, _: Any) -> Any:
        return object()

    def read(self) -> Sequence[KnownModel]:
        return [model for listed in self._ollama.tags() if (model := _of(listed)) is not None]


def _of(listed: Listed) -> KnownModel | None:
    try:
        name = ModelName.parse(listed.name)
    except BadName:
        return None
    lengths = {"context_length": listed.context_length, "embedding_length": listed.embedding_length}
    return KnownModel(
        name=name,
        digest=listed.digest,
        size=listed.size,
        modified_at=listed.modified_at,
        details=listed.details.as_json() | {key: value for key, value in lengths.items() if value},
        capabilities=listed.capabilities,
    )
