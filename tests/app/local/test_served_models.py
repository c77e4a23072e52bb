"""What servers on one machine see of the models while they run: nobody can stop them to change it."""

from pathlib import Path

import pytest

from app.local.servers import ServedModels
from jobs.core.model_name import ModelName
from jobs.models.model_settings import ModelSettings
from jobs.weights.directory import ModelsDirectory
from jobs.weights.manifest import Manifest
from tests.support.crash_points import dies_at
from tests.support.models_directory import Sample, put, sample, weights_at

SET = ModelSettings(1024, {}, "Answer in one word.")
OTHER = sample("other")


class Machine:
    """The models of a machine, and what its servers see of them."""

    def __init__(self, folder: Path, *set_for: ModelName) -> None:
        self.models, self.server = weights_at(folder), weights_at(folder / "seen")
        put(self.models, OTHER)
        self._settings = {name.folded(): SET for name in (ModelName.parse("nobody"), *set_for)}
        self.served = self.begun()
        self.served.refresh()

    def begun(self) -> ServedModels:
        """As a process has it that has just begun."""
        return ServedModels(self.models.layout.root, self.server.layout.root, self._settings)

    def lacking(self) -> list[str]:
        """The blobs that a server finds named by a manifest, and does not find themselves."""
        layout = self.server.layout
        manifests = [Manifest.parse(file.path.read_bytes()) for file in layout.manifest_files()]
        return [each.digest for one in manifests for each in one.blobs if not layout.blob(each.digest).is_file()]


def has(weights: ModelsDirectory, model: Sample) -> bool:
    layout = weights.layout
    is_there = layout.manifest(model.name).is_file()
    return is_there and all(layout.blob(each).read_bytes() == content for each, content in model.contents.items())


@pytest.mark.parametrize("is_set", [False, True], ids=["as it is", "with settings"])
def test_what_a_server_pulled_is_whole_all_the_while(tmp_path: Path, *, is_set: bool) -> None:
    """At no moment of its being taken over is a manifest there without a blob of it: Ollama would remember the model as
    one that can do nothing, until it ends. Whoever is killed at any of them has lost nothing, and the next one goes
    on."""
    tiny = sample("tiny")
    for step in range(1, 200):
        machine = Machine(tmp_path / str(step), *([tiny.name] if is_set else []))
        put(machine.server, tiny)
        died = dies_at(step, machine.served.refresh)
        assert machine.lacking() == [], step
        assert any(has(each, tiny) for each in (machine.models, machine.server)), step
        machine.begun().refresh()
        assert machine.lacking() == []
        assert has(machine.models, tiny)
        assert all(machine.server.layout.blob(each).is_symlink() for each in tiny.contents)
        if not died:
            break
    else:
        raise AssertionError("it does not end")
    assert step > 5
    assert {path.name for path in machine.server.layout.root.iterdir()} == {"blobs", "manifests"}
