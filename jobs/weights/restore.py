"""What a rollback does to the weights: it publishes a model's version from the trash, and throws the one that is there.

Which version that is, is decided once for a job and written down before anything is renamed, so that whatever ends an
attempt, the next one finishes the same decision.
"""

from pathlib import Path

from jobs.core.errors import Corrupt, NotFound, Refused
from jobs.core.model_name import ModelName
from jobs.store.files import translated
from jobs.weights import trash
from jobs.weights.directory import ModelsDirectory
from jobs.weights.layout import Layout
from jobs.weights.manifest import Layer
from jobs.weights.survey import BlobState, read_model
from jobs.weights.trash import Decision, StillOurs, TrashFolder


def newest_thrown(weights: ModelsDirectory, name: ModelName) -> TrashFolder:
    """The newest model of this name in the trash that is not the one published now.

    Raises:
        NotFound: there is none.

    """
    published = {each.manifest.digest for each in weights.known(name) if each.manifest is not None}
    for folder in reversed(trash.folders(weights.layout)):
        is_it = folder.name is not None and folder.name.folded() == name.folded()
        if is_it and folder.manifest is not None and folder.manifest.digest not in published:
            return folder
    raise NotFound(
        f"the trash holds no earlier {str(name)!r}",
        hint="what was replaced or pruned stays there for its grace only;"
        f" `ollama-modal pull {name}` brings the newest",
    )


def blob_paths(weights: ModelsDirectory, folder: TrashFolder) -> list[tuple[Path, Layer]]:
    """Where each blob of a model in the trash is now.

    Raises:
        Corrupt: one of them is nowhere any more.

    """
    holders = trash.Holders([folder, *trash.folders(weights.layout)])
    paths = []
    for layer in folder.manifest.blobs if folder.manifest else ():
        if weights.blob_state(layer) is BlobState.PRESENT:
            paths.append((weights.layout.blob(layer.digest), layer))
            continue
        holder = holders.of(layer)
        if holder is None:
            raise Corrupt(
                f"the earlier {str(folder.name)!r} cannot come back: its blob {layer.digest} is gone",
                hint=f"bring the newest: `ollama-modal pull {folder.name}`",
            )
        paths.append((holder.layout.blob(layer.digest), layer))
    return paths


def is_done(weights: ModelsDirectory, decision: Decision) -> bool:
    """Whether the version that was decided on stands already; false while it can still be brought back as decided.

    Raises:
        Refused: neither, because somebody replaced the model or emptied the trash since.

    """
    now = _published_digest(weights, decision.name)
    if now == decision.digest:
        return True
    if now == decision.left and _source(weights, decision).is_file():
        return False
    published = f"{now[:12]} stands there now" if now else "nothing stands there now"
    raise Refused(
        f"{decision.model!r} was to be digest {decision.digest[:12]} again, but it was changed or left the trash since"
        f" this rollback began: {published}, and nothing was touched",
        hint=f"if that is the wrong one, ask again: `ollama-modal rollback {decision.model}`",
    )


def _published_digest(weights: ModelsDirectory, name: ModelName) -> str | None:
    """The digest of the manifest in this model's place; None when there is none, or a torn one."""
    target = weights.manifest_path(name)
    file = next((file for file in weights.files_of(name) if file.path == target), None)
    known = read_model(weights.layout, file) if file else None
    return known.manifest.digest if known and known.manifest else None


def _source(weights: ModelsDirectory, decision: Decision) -> Path:
    return Layout(weights.layout.trash / decision.folder).manifest(decision.name)


def folder_of(weights: ModelsDirectory, decision: Decision) -> TrashFolder:
    """The folder that the version which was decided on comes from.

    Raises:
        NotFound: it has left the trash.

    """
    for folder in trash.folders(weights.layout):
        if folder.path.name == decision.folder and folder.manifest is not None:
            return folder
    raise NotFound(f"the earlier {decision.model!r} has left the trash meanwhile")


def finish(weights: ModelsDirectory, decision: Decision, *, still_ours: StillOurs) -> None:
    """Tidy up after an earlier attempt that published the version, and tell of it: that may be what failed.

    Raises:
        Refused: the model was replaced meanwhile.

    """
    with weights.exclusive(still_ours), translated(f"bringing {decision.model} back from the trash"):
        still_ours()
        if not is_done(weights, decision):
            raise Refused(f"{decision.model!r} was changed meanwhile: ask again")
        _finish(weights, decision)


def _finish(weights: ModelsDirectory, decision: Decision) -> None:
    weights.persist()
    folders = [
        each for each in trash.folders(weights.layout) if each.name and each.name.folded() == decision.name.folded()
    ]
    kept = [(each.path, each.manifest) for each in folders if each.manifest and each.manifest.digest == decision.left]
    if kept:
        weights.throw_unneeded(*kept)
    trash.drop_if_empty(weights.layout.trash / decision.folder)
    weights.persist()


def restore(
    weights: ModelsDirectory, folder: TrashFolder, *, still_ours: StillOurs, job: str | None = None
) -> str | None:
    """Publish a model from the trash, whole or not at all; the digest of the one that it replaced, which is thrown.

    With a job, what it decides is written down before anything is renamed: a later attempt of that job finishes the
    same decision (`is_done`, `folder_of`), where choosing anew would bring back what this attempt threw away.

    Raises:
        NotFound: it is not in the trash any more.
        Corrupt: a blob of it is gone.
        Refused: an earlier attempt of this job has decided, and the model was replaced since.

    """
    layout, manifest, name = weights.layout, folder.manifest, folder.name
    if manifest is None or name is None:
        raise NotFound(f"{str(folder.path)!r} holds no model")
    weights.prepare()
    with weights.exclusive(still_ours), translated(f"bringing {name} back from the trash"):
        still_ours()
        before = trash.decided(layout, job) if job else None
        if before is not None and is_done(weights, before):  # an attempt that was taken for dead got there
            _finish(weights, before)
            return before.left
        source = folder.layout.manifest(name)
        if not source.is_file():
            raise NotFound(f"{str(name)!r} has left the trash meanwhile")
        blobs = blob_paths(weights, folder)
        decision = Decision(str(name), manifest.digest, _published_digest(weights, name), folder.path.name)
        if job and decision != before:
            trash.decide(layout, job, decision, weights.clock.now())
        for path, layer in blobs:
            if path != layout.blob(layer.digest):
                trash.move(path, layout.blob(layer.digest), below=layout.root)
        weights.persist()
        still_ours()
        target = weights.manifest_path(name)
        weights.keep_before(target, manifest)
        weights.changed[target] = None
        weights.rename_manifest(source, target)
        _finish(weights, decision)
        return decision.left
