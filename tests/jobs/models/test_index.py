"""The index says what was whole when it was written, or nothing at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.core.model_name import ModelName
from jobs.models import index
from jobs.models.index import Index
from jobs.weights.layout import Layout
from jobs.weights.manifest import Manifest
from jobs.weights.survey import read_models
from tests.support.models_directory import put, put_blob, put_manifest, sample, weights_at


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A directory with two whole models, one torn and one short, and their index, of generation "g1"."""
    weights = weights_at(tmp_path)
    for name in ("tiny", "hf.co/User/Repo:Q4"):
        put(weights, sample(name))
    put_manifest(weights, "torn", b"{")
    short = sample("short", b"short of it")
    put(weights, short)
    put_blob(weights, b"s", short.manifest.layers[0].digest)
    index.write(weights.layout, Index.of(read_models(weights.layout)), "g1")
    return weights.layout


def test_the_index_says_what_a_walk_finds(layout: Layout) -> None:
    """Each manifest comes back byte for byte, with the names of those that are not whole, in whatever spelling."""
    found = index.read(layout, "g1")
    assert found == Index.of(read_models(layout))
    assert found is not None
    assert sorted(map(str, found.whole)) == ["hf.co/User/Repo:Q4", "tiny:latest"]
    assert sorted(map(str, found.broken)) == ["short:latest", "torn:latest"]


def test_the_index_is_no_stray_file(tmp_path: Path, layout: Layout) -> None:
    """A survey takes it for ours, and so does a prune; a directory with nothing else becomes a models directory."""
    assert weights_at(tmp_path).survey().of("unknown") == ()
    (tmp_path / "other").mkdir()
    other = weights_at(tmp_path / "other")
    other.layout.root.mkdir()
    other.layout.index.write_bytes(layout.index.read_bytes())
    other.prepare()
    assert other.models() == []


def test_any_bytes_of_a_manifest_survive(tmp_path: Path) -> None:
    """A manifest in another encoding than UTF-8 is kept as it is: its digest is the model's."""
    raw = sample().manifest.raw.decode().encode("utf-16")
    layout, known = Layout(tmp_path), Index({ModelName.parse("odd"): Manifest.parse(raw)})
    index.write(layout, known, "g1")
    assert index.read(layout, "g1") == known


@pytest.mark.parametrize("generation", ["g2", "", None, 1, {}])
def test_an_index_of_another_generation_says_nothing(layout: Layout, generation: object) -> None:
    """Whoever wants another generation, or does not know which, looks through the directory."""
    assert index.read(layout, generation) is None


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "torn": lambda raw: raw[:-20],
    "no JSON": lambda raw: b"\xff" + raw,
    "a list": lambda _: b"[]",
    "a later form": lambda raw: raw.replace(b'"v": 1', b'"v": 2'),
    "another name": lambda raw: raw.replace(b"tiny:latest", b"tinx:latest"),
    "another digest in it": lambda raw: raw.replace(b"sha256:", b"sha256:0", 1),
    "no models": lambda raw: json.dumps({**json.loads(raw), "whole": None}).encode(),
    "half a model": lambda raw: json.dumps({**json.loads(raw), "whole": [["tiny"]]}).encode(),
    "numbers": lambda raw: json.dumps({**json.loads(raw), "whole": [[1, 2, 3]]}).encode(),
    "no name": lambda raw: json.dumps({**json.loads(raw), "broken": ["../x"]}).encode(),
    "too deep": lambda _: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_says_nothing(layout: Layout, damage: str) -> None:
    """Torn, changed or of another form, it is passed over as if it were not there."""
    raw = layout.index.read_bytes()
    damaged = DAMAGES[damage](raw)
    assert damaged != raw
    layout.index.write_bytes(damaged)
    assert index.read(layout, "g1") is None


def test_an_index_that_is_none_says_nothing(tmp_path: Path) -> None:
    """Neither an absent one, nor a folder in its place, is an error."""
    assert index.read(Layout(tmp_path), "g1") is None
    Layout(tmp_path).index.mkdir()
    assert index.read(Layout(tmp_path), "g1") is None


def test_one_too_large_is_not_kept(layout: Layout) -> None:
    """Beyond its bound there is no index rather than an old one, and a file beyond it is not read."""
    huge = Manifest.parse(sample().manifest.raw + b" " * 7_000_000)
    many = {ModelName.parse(f"m{number}"): huge for number in range(10)}
    index.write(layout, Index(many), "g1")
    assert not layout.index.exists()
    layout.index.write_bytes(b" " * (index.MOST_BYTES + 1))
    assert index.read(layout, "g1") is None
