"""The models of a directory as an engine needs them: looked up by name at each request, read anew when they change.

A look-up of a model that has not changed costs one look at its manifest's times. What it reads is on local disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.llama_host.launch import Launch, launch_of
from app.llama_host.settings import HostSettings
from jobs.core.errors import NotFound, ServerTrouble
from jobs.core.model_name import ModelName
from jobs.models import card
from jobs.models.card import Card
from jobs.weights import survey
from jobs.weights.layout import Layout, ManifestFile
from jobs.weights.manifest import IMAGE

_SENT = {"num_ctx", "num_gpu", "num_thread", "num_batch", "use_mmap"}
"""Options that a model is loaded with; the others are each request's own."""


@dataclass(frozen=True)
class HostedModel:
    """A model, as far as an engine and a list need it. `digest` is that of its manifest, in hex."""

    name: ModelName
    digest: str
    size: int
    modified_at: datetime
    details: Mapping[str, Any]
    card: Card
    projectors: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()

    def launch(self, settings: HostSettings, options: Mapping[str, Any] | None = None) -> Launch:
        """How an engine is started for it; `options` are those of a request, of which the loading ones count."""
        loading = {name: value for name, value in (options or {}).items() if name in _SENT}
        return launch_of(
            self.card,
            settings,
            alias=str(self.name),
            projectors=self.projectors,
            adapters=self.adapters,
            options=loading,
        )


_Stamp = tuple[int, int, int]


class HostedModels:
    """The models of a directory. Belongs to one thread at a time."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, tuple[_Stamp, HostedModel]] = {}

    def find(self, text: str) -> HostedModel:
        """The model of that name, in any case, as it is now.

        Raises:
            BadName: that is no name.
            NotFound: there is none.
            ServerTrouble: its files cannot be read, or are no weights that the engine could run.

        """
        name = ModelName.parse(text)
        for file in self._layout.files_called(name):
            if (found := self._read(file)) is not None:
                return found
        raise NotFound(f"model {str(name)!r} not found")

    def all(self) -> list[HostedModel]:
        """All that are whole, the newest first."""
        files = self._layout.manifest_files()
        gone = self._known.keys() - {str(file.path) for file in files}
        for path in gone:
            del self._known[path]
        found = [model for file in files if (model := self._read_or_none(file)) is not None]
        return sorted(found, key=lambda model: model.modified_at, reverse=True)

    def _read_or_none(self, file: ManifestFile) -> HostedModel | None:
        try:
            return self._read(file)
        except ServerTrouble:
            return None

    def _read(self, file: ManifestFile) -> HostedModel | None:
        """The model; None where it went meanwhile, or not all of it is there."""
        try:
            stat = file.path.stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._known.get(str(file.path))
        if known is not None and known[0] == stamp:
            return known[1]
        surveyed = survey.read_model(self._layout, file)
        if not isinstance(surveyed, survey.SurveyedModel):
            return None
        model = self._hosted(surveyed)
        self._known[str(file.path)] = stamp, model
        return model

    def _hosted(self, surveyed: survey.SurveyedModel) -> HostedModel:
        read = card.card_of(self._layout, surveyed)

        def files(kind: str) -> tuple[str, ...]:
            layers = [layer for layer in surveyed.manifest.layers if layer.media_type == IMAGE + kind]
            return tuple(str(self._layout.blob(layer.digest)) for layer in layers)

        if read.header is None:
            raise ServerTrouble(f"{str(surveyed.name)!r} cannot be run by this engine: {read.missing or read.wrong}")
        return HostedModel(
            name=surveyed.name,
            digest=surveyed.digest,
            size=surveyed.size,
            modified_at=surveyed.modified_at,
            details=card.details(read),
            card=read,
            projectors=files("projector"),
            adapters=files("adapter"),
        )
