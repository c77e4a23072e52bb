"""A server sees a model only when all of it can be read, and the volume is never written."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model_server.models_view import ModelsView
from jobs.core.model_name import ModelName
from tests.support.file_modes import modes_obeyed
from tests.support.models_directory import Sample, digest_of, put, put_blob, put_manifest, sample, weights_at


@pytest.fixture
def view(tmp_path: Path) -> ModelsView:
    return ModelsView(tmp_path / "models", tmp_path / "disk")


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_empty_volume_gives_an_empty_view_that_ollama_accepts(view: ModelsView, tmp_path: Path) -> None:
    """Without a single file on the volume there still are manifests and blobs to start with."""
    changes = view.copy()

    assert (changes.brought, changes.dropped, changes.withheld) == ((), (), ())
    assert view.layout.blobs.is_dir()
    assert view.layout.manifests.is_dir()
    assert not (tmp_path / "models").exists()


def test_whole_model_is_shown_through_the_volume(view: ModelsView, tmp_path: Path) -> None:
    """A model that comes to an empty volume is shown after the next copy, its blobs where they are."""
    weights = weights_at(tmp_path)
    view.copy()
    model = sample("llama3.2")
    put(weights, model)
    before = tree(tmp_path / "models")

    changes = view.copy()

    assert changes.brought == (model.name,)
    assert view.layout.manifest(model.name).read_bytes() == model.manifest.raw
    assert view.layout.blobs.is_symlink()
    assert all(view.layout.blob(layer.digest).read_bytes() for layer in model.manifest.blobs)
    assert tree(tmp_path / "models") == before
    assert view.copy().brought == ()


def test_the_first_copy_comes_in_one_step(view: ModelsView, tmp_path: Path) -> None:
    """A server that was started before it finds nothing until all of it is there, whatever breaks it off."""
    weights = weights_at(tmp_path)
    first, second = sample("first"), sample("second")
    put(weights, first)
    put(weights, second)
    obstacle = tmp_path / "disk/first" / view.layout.manifest(second.name).parent.relative_to(view.layout.root)
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    with pytest.raises(OSError, match="second"):
        view.copy()
    assert view.layout.manifest_files() == []

    obstacle.unlink()
    assert view.copy().brought == (first.name, second.name)
    assert {file.name for file in view.layout.manifest_files()} == {first.name, second.name}


def test_model_is_withheld_until_its_last_blob_is_whole(view: ModelsView, tmp_path: Path) -> None:
    """While a blob is missing or short the manifest is not shown, and the reason is told."""
    weights = weights_at(tmp_path)
    model = sample("tiny", b"weights", b"template")
    put(weights, model)
    blob = weights.layout.blob(digest_of(b"weights"))
    for content in (None, b"", b"weight"):
        blob.unlink() if content is None else blob.write_bytes(content)
        [(name, why)] = view.copy().withheld
        assert name == model.name
        assert "of 3 blobs" in why
        assert view.names() == []
    blob.write_bytes(b"weights")

    assert view.copy().brought == (model.name,)


def test_blob_that_cannot_be_read_withholds_the_model(view: ModelsView, tmp_path: Path) -> None:
    """A blob of the right size that cannot be opened counts as absent."""
    weights = weights_at(tmp_path)
    put(weights, sample("tiny", b"weights"))
    weights.layout.blob(digest_of(b"weights")).chmod(0)

    with modes_obeyed():
        assert "cannot be read" in view.copy().withheld[0][1]


def test_torn_manifest_is_withheld(view: ModelsView, tmp_path: Path) -> None:
    """A torn manifest on the volume never reaches the view: Ollama would answer each request with an error."""
    put_manifest(weights_at(tmp_path), "torn", b'{"schemaVersion": 2,')

    assert view.copy().withheld[0][0] == ModelName.parse("torn")
    assert view.names() == []


def test_model_that_changed_is_shown_anew(view: ModelsView, tmp_path: Path) -> None:
    """A manifest that was replaced on the volume is replaced in the view; one that broke is taken away."""
    weights = weights_at(tmp_path)
    old, new = sample("tiny", b"old"), sample("tiny", b"new")
    put(weights, old)
    view.copy()
    put(weights, new)

    assert view.copy().brought == (new.name,)
    assert view.layout.manifest(new.name).read_bytes() == new.manifest.raw
    weights.layout.blob(digest_of(b"new")).unlink()
    assert view.copy().dropped == (new.name,)
    assert list(view.layout.manifests.iterdir()) == []


NAMES = ("a", "a:b", "user/a", "hf.co/user/a:Q4")
STATES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["whole", "short", "torn", "other"]))


@given(st.lists(STATES, min_size=1, max_size=4))
def test_view_is_what_is_whole(tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, str]]) -> None:
    """After any changes to the volume, a copy shows exactly the models that are whole there."""
    root = tmp_path_factory.mktemp("view")
    weights, view = weights_at(root), ModelsView(root / "models", root / "disk")

    for state in states:
        shutil.rmtree(root / "models", ignore_errors=True)
        whole = {}
        for name, kind in state.items():
            model: Sample = sample(name, f"{name} {kind}".encode())
            put(weights, model)
            if kind == "short":
                put_blob(weights, b"short", model.manifest.layers[0].digest)
            elif kind == "torn":
                put_manifest(weights, name, model.manifest.raw[:-5])
            else:
                whole[model.name] = model.manifest.raw
        view.copy()
        assert {name: view.layout.manifest(name).read_bytes() for name in view.names()} == whole
        assert view.copy().brought == ()
