"""Promises of jobs.weights.survey, asked through Weights: what is listed, and what everything else is called."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.core.model_name import ModelName
from jobs.weights.manifest import ModelDetails
from jobs.weights.survey import BlobState
from tests.support.file_modes import modes_obeyed
from tests.support.models_directory import CONFIG, digest_of, layer_of, put, put_blob, put_manifest, sample, weights_at

HEX = "ab" * 32
WHOLE, TORN, MISSING, SHORT = "whole", "torn", "missing", "short"


def test_a_model_is_listed_as_ollama_shows_it(tmp_path: Path) -> None:
    """Name, digest, size, time and details come from the manifest, its file and its config blob."""
    weights = weights_at(tmp_path)
    tiny = sample("hf.co/user/repo:Q4", b"weights")
    os.utime(put(weights, tiny), (1_700_000_000, 1_700_000_000))
    (model,) = weights.models()
    assert str(model.name) == "hf.co/user/repo:Q4"
    assert model.digest == tiny.manifest.digest
    assert model.size == len(b"weights") + len(CONFIG)
    assert model.modified_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert model.details == ModelDetails("gguf", "llama", (), "1B", "Q4_0")


def test_a_registry_with_a_port_keeps_it(tmp_path: Path) -> None:
    """The port stays in the folder's name."""
    weights = weights_at(tmp_path)
    path = put(weights, sample("127.0.0.1:5001/library/tiny:latest"))
    assert path.parts[-4] == "127.0.0.1:5001"
    assert [str(model.name) for model in weights.models()] == ["127.0.0.1:5001/library/tiny:latest"]


def test_no_directory_has_no_models(tmp_path: Path) -> None:
    """Where nothing is, or a file stands, nothing is listed and nothing is made."""
    weights = weights_at(tmp_path)
    assert weights.models() == []
    assert weights.survey().usage_bytes == 0
    assert not weights.layout.root.exists()
    weights.layout.root.write_text("a file")
    assert weights.models() == []


def test_a_model_is_found_in_any_case_under_its_stored_spelling(tmp_path: Path) -> None:
    """Lookups fold case as Ollama's do; an exact spelling wins; a broken model is not found."""
    weights = weights_at(tmp_path)
    put(weights, sample("User/Repo:Q4_K_M"))
    put(weights, sample("user/repo:q4_k_m", b"another"))
    put(weights, sample("Big:7B"))
    put_manifest(weights, "torn", b"")
    assert [
        str(model.name) if (model := weights.find(ModelName.parse(name))) else None
        for name in ("User/Repo:Q4_K_M", "user/repo:q4_k_m", "bIG:7b", "torn", "absent")
    ] == ["User/Repo:Q4_K_M", "user/repo:q4_k_m", "Big:7B", None, None]


def test_a_view_onto_a_volume_can_be_read(tmp_path: Path) -> None:
    """Where `blobs` is a link to another place, models are listed and verified through it."""
    volume = weights_at(tmp_path / "volume")
    tiny = sample("tiny")
    put(volume, tiny)
    view = weights_at(tmp_path / "view")
    put_manifest(view, tiny.name, tiny.manifest.raw)
    view.layout.blobs.symlink_to(volume.layout.blobs)
    assert [model.digest for model in view.models()] == [tiny.manifest.digest]
    assert view.verify(tiny.manifest.blobs) == []
    assert view.survey().usage_bytes == tiny.manifest.size + len(tiny.manifest.raw)


def test_a_damaged_config_leaves_the_model_listed_without_details(tmp_path: Path) -> None:
    """A config of the right size that says nothing readable is for verify to find."""
    weights = weights_at(tmp_path)
    tiny = sample("tiny")
    put(weights, tiny)
    put_blob(weights, b"x" * len(CONFIG), digest_of(CONFIG))
    assert [model.details for model in weights.models()] == [ModelDetails()]


def test_the_survey_calls_everything_by_its_name(tmp_path: Path) -> None:
    """Orphans, partials, part files, poisoned ones, temp files, staging and the rest are told apart, with sizes."""
    weights = weights_at(tmp_path)
    tiny = sample("tiny")
    put(weights, tiny)
    blobs = weights.layout.blobs
    orphan = put_blob(weights, b"nobody's")
    with (blobs / f"sha256-{HEX}-partial").open("wb") as sparse:
        sparse.truncate(50_000_000)
        sparse.write(b"x" * 8192)
    (blobs / f"sha256-{HEX}-partial-0").write_text('{"N":0,"Offset":0,"Size":100,"Completed":42}')
    (blobs / f"sha256-{HEX}-partial-1").write_text("")
    (blobs / f"sha256-{HEX}-partial-2").write_text('{"N":0,"Off')
    (blobs / f"sha256-{HEX}-partial-3").write_text("[" * 100_000)
    (blobs / f"sha256-{HEX}.tmp").write_text("temp")
    (blobs / "sha256-318927341").write_text("temp")
    (blobs / "README").write_text("foreign")
    (blobs / f"sha256-{'cd' * 32}").mkdir()
    (weights.layout.manifests / ".DS_Store").write_text("foreign")
    (weights.layout.root / "notes").mkdir()
    (weights.layout.root / "notes" / "n").write_text("foreign")
    os.mkfifo(weights.layout.manifest(ModelName.parse("fifo")).parent.parent / "fifo")
    staging = weights.stage("pull", "holder")
    staging.path(digest_of(b"x")).write_bytes(b"x" * 8192)

    survey = weights.survey()
    named = {(stray.kind, stray.path.name) for stray in survey.strays}
    assert named == {
        ("orphan", orphan.name),
        ("partial", f"sha256-{HEX}-partial"),
        *(("part", f"sha256-{HEX}-partial-{number}") for number in range(4)),
        ("temp", f"sha256-{HEX}.tmp"),
        ("temp", "sha256-318927341"),
        *(("unknown", name) for name in ("README", f"sha256-{'cd' * 32}", ".DS_Store", "notes", "fifo")),
    }
    assert {stray.path.name[-1] for stray in survey.poisoned} == {"1", "2", "3"}
    (partial,) = survey.of("partial")
    assert partial.size < 1_000_000
    ((folder),) = survey.stagings
    assert (folder.holder, folder.size) == ("holder", 8192)
    assert survey.usage_bytes == tiny.manifest.size + len(tiny.manifest.raw) + folder.size + sum(
        stray.size for stray in survey.strays
    )


def test_broken_models_say_how(tmp_path: Path) -> None:
    """A torn manifest names its cause; an incomplete model names the blobs that are missing or short."""
    weights = weights_at(tmp_path)
    put_manifest(weights, "torn", b'{"schemaVersion":2')
    gone, cut = sample("gone", b"gone"), sample("cut", b"content")
    put(weights, gone)
    weights.layout.blob(digest_of(b"gone")).unlink()
    put(weights, cut)
    weights.layout.blob(digest_of(b"content")).write_bytes(b"con")
    survey = weights.survey()
    assert survey.models == ()
    (torn,) = survey.torn
    assert (str(torn.name), torn.size) == ("torn:latest", 18)
    assert "torn or no JSON" in torn.cause
    by_name = {str(each.name): each for each in survey.incomplete}
    assert by_name["gone:latest"].missing == (layer_of(b"gone"),)
    assert by_name["cut:latest"].short == (layer_of(b"content"),)
    assert by_name["cut:latest"].cause == "of 2 blobs 0 are missing and 1 has a wrong size"


def test_a_blob_is_present_short_or_missing(tmp_path: Path) -> None:
    """A folder or a dangling link under a blob's name is no blob."""
    weights = weights_at(tmp_path)
    put_blob(weights, b"here")
    put_blob(weights, b"sho", digest_of(b"short"))
    weights.layout.blob(digest_of(b"link")).symlink_to(tmp_path / "nowhere")
    weights.layout.blob(digest_of(b"folder")).mkdir()
    assert [weights.blob_state(layer_of(each)) for each in (b"here", b"short", b"none", b"link", b"folder")] == [
        BlobState.PRESENT,
        BlobState.SHORT,
        *[BlobState.MISSING] * 3,
    ]


def test_a_file_where_a_folder_should_be_hides_nothing_else(tmp_path: Path) -> None:
    """Strange shapes under manifests are passed over; the models beside them are listed."""
    weights = weights_at(tmp_path)
    put(weights, sample("tiny"))
    manifests = weights.layout.manifests
    (manifests / "file").write_text("x")
    (manifests / "registry.ollama.ai" / "library" / "tiny" / "deep" / "er").mkdir(parents=True)
    (manifests / "registry.ollama.ai" / "library" / "tiny" / "bad name").write_text("{}")
    assert [str(model.name) for model in weights.models()] == ["tiny:latest"]
    assert weights.survey().torn == ()


def test_a_manifest_that_cannot_be_read_counts_as_torn(tmp_path: Path) -> None:
    """Nobody knows what it refers to."""
    weights = weights_at(tmp_path)
    put(weights, sample("tiny")).chmod(0)
    with modes_obeyed():
        assert [each.cause for each in weights.survey().torn] == ["the manifest cannot be read: Permission denied"]


fates = st.dictionaries(
    st.sampled_from(["a", "A", "b:7b", "user/c", "hf.co/u/d:Q4"]), st.sampled_from([WHOLE, TORN, MISSING, SHORT])
)
strays = st.lists(
    st.sampled_from(
        [
            "blobs/sha256-x",
            f"blobs/sha256-{HEX}",
            f"blobs/sha256-{HEX}-partial",
            f"blobs/sha256-{HEX}-partial-0",
            "manifests/stray",
            "manifests/h/n/stray",
            "manifests/h/n/m/t t",
            "manifests/h/n/m/t/u",
            "staging/x",
            "staging/a@b/c",
            "top",
        ]
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates, strays)
def test_exactly_the_whole_models_are_listed(
    tmp_path_factory: pytest.TempPathFactory, fate: dict[str, str], litter: list[str]
) -> None:
    """Whatever else lies in the directory, models() is the whole ones and the survey accounts for the others."""
    weights = weights_at(tmp_path_factory.mktemp("any"))
    for name, end in fate.items():
        own = f"own {name}".encode()
        put(weights, sample(name, b"shared", own))
        if end == TORN:
            put_manifest(weights, name, b"{")
        elif end == MISSING:
            weights.layout.blob(digest_of(own)).unlink()
        elif end == SHORT:
            weights.layout.blob(digest_of(own)).write_bytes(b"")
    for path in litter:
        file = weights.layout.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"litter")
    expected = {end: {ModelName.parse(name) for name, e in fate.items() if e == end} for end in fate.values()}
    survey = weights.survey()
    assert {model.name for model in weights.models()} == expected.get(WHOLE, set())
    assert {each.name for each in survey.torn} == expected.get(TORN, set())
    assert {each.name for each in survey.incomplete} == expected.get(MISSING, set()) | expected.get(SHORT, set())
    everything = sum(path.stat().st_size for path in weights.layout.root.rglob("*") if path.is_file())
    assert survey.usage_bytes <= everything + 8192 * len(litter)
    assert survey.usage_bytes >= sum(model.size for model in survey.models[:1])
