"""What goes to the trash, comes back from it, and leaves it for good: all that prune and rollback do to the weights.

Away: the manifest first, then the blobs that no published manifest needs. Back: the blobs first, then the manifest.
Each step is a rename under the lock of the weights, so whoever is killed between two leaves nothing that is referenced
gone, and the next run finishes. What is to be done was decided before; what is needed is asked again under the lock.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from loguru import logger

from jobs.core.errors import Corrupt, NotFound, Refused
from jobs.core.model_name import ModelName
from jobs.store.files import flush_folder, translated
from jobs.weights import trash
from jobs.weights.directory import ModelsDirectory, spelt
from jobs.weights.layout import Layout
from jobs.weights.manifest import Layer
from jobs.weights.prune_plan import PrunePlan
from jobs.weights.survey import BlobState, load
from jobs.weights.trash import Decision, TrashFolder

StillOurs = Callable[[], None]


def require_models_directory(layout: Layout) -> None:
    """Refuse to prune what may be something else.

    Raises:
        Refused: it has not both folders of a models directory.

    """
    lacking = [folder.name for folder in (layout.blobs, layout.manifests) if not folder.is_dir()]
    if lacking:
        raise Refused(
            f"{str(layout.root)!r} does not look like a models directory: it has no folder {' and no '.join(lacking)}",
            hint="name the directory that OLLAMA_MODELS names; nothing was touched",
        )


def follow(
    weights: ModelsDirectory, plan: PrunePlan, *, still_ours: StillOurs, tell: Callable[[str], object] = lambda _: None
) -> None:
    """Carry out a prune's plan. It deletes first: on a full disk nothing can be moved before."""
    tell("emptying the trash")
    empty(weights, [each.path for each in plan.delete if each.path], still_ours=still_ours)
    tell("moving to the trash")
    unfinished, orphans = ([each.path for each in plan.of(what) if each.path] for what in ("unfinished", "orphan"))
    throw_rest(weights, unfinished, still_ours=still_ours)
    throw_orphans(weights, orphans, still_ours=still_ours)
    throw_models(weights, [ModelName.parse(each.name) for each in plan.of("model")], still_ours=still_ours)


def throw_models(weights: ModelsDirectory, names: Sequence[ModelName], *, still_ours: StillOurs) -> int:
    """Move models to the trash, all manifests before any blob; the bytes of the blobs that went with them.

    What every manifest needs is asked twice, however many go. A model that is gone already is passed over.

    Raises:
        Refused: another manifest is torn, so nobody can tell what may go.

    """
    if not names:
        return 0
    layout, what = weights.layout, str(names[0]) if len(names) == 1 else f"{len(names)} models"
    with weights.exclusive(still_ours), translated(f"moving {what} to the trash"):
        still_ours()
        if weights.needed() is None:
            raise Refused(f"{what} must stay: a manifest is torn, and nobody can tell which blobs that one needs")
        weights.require_trash()
        files = layout.manifest_files()[0]
        folders = []
        for name in names:
            if (file := next(iter(spelt(files, name)), None)) is None:
                logger.info("{} is gone already", name)
                continue
            still_ours()
            weights.require_inside(file.path)
            folders.append(trash.make(layout, str(file.name), weights.clock.now()))
            trash.move(file.path, Layout(folders[-1]).manifest(file.name), below=layout.root)
            weights.drop_empty_folders(file.path.parent)
        weights.persist()
        still_ours()
        return weights.throw_unneeded(*folders)


def throw_orphans(weights: ModelsDirectory, paths: Sequence[Path], *, still_ours: StillOurs) -> int:
    """Move blobs that no published manifest needs to the trash; their bytes.

    A blob that a model in the trash needs joins it there, so that the model can come back whole.
    """
    layout = weights.layout
    with weights.exclusive(still_ours), translated("moving orphans to the trash"):
        still_ours()
        needed = weights.needed()
        if needed is None:
            return 0
        weights.require_trash()
        folders, _ = trash.listed(layout)
        common: Path | None = None
        moved = 0
        for path in paths:
            digest = path.name.replace("-", ":", 1)
            if digest in needed:
                continue
            home = next((folder.path for folder in reversed(folders) if folder.wants(digest)), None)
            if home is None:
                common = common or trash.make(layout, "orphans", weights.clock.now())
            size = path.stat().st_size if path.exists() else 0
            if trash.move(path, Layout(home or common or layout.trash).blob(digest), below=layout.root):
                moved += size
        weights.persist()
        return moved


def throw_rest(weights: ModelsDirectory, paths: Sequence[Path], *, still_ours: StillOurs) -> None:
    """Move part files and staging folders to the trash. Whoever still held such a folder is fenced by that."""
    if not paths:
        return
    with weights.exclusive(still_ours), translated("moving unfinished pulls to the trash"):
        still_ours()
        weights.require_trash()
        folder = trash.make(weights.layout, "unfinished", weights.clock.now())
        for path in paths:
            trash.move(path, folder / "rest" / path.name, below=weights.layout.root)
        weights.persist()


def empty(weights: ModelsDirectory, paths: Sequence[Path], *, still_ours: StillOurs) -> int:
    """Delete folders of the trash for good; the bytes that are free now.

    What a published manifest lacks goes back to it instead, and what another model in the trash needs joins that one.
    """
    layout = weights.layout
    freed = 0
    with weights.exclusive(still_ours), translated("emptying the trash"):
        trash.sweep(layout, weights.clock.now())
        needed = weights.needed()
        folders, leaving = trash.listed(layout)[0], set(paths)
        others = [each for each in folders if each.path not in leaving]
        for folder in folders:
            still_ours()
            if needed is not None and folder.path in leaving:
                freed += folder.size - _save(layout, folder, needed, others)
                trash.delete(layout, folder.path)
        weights.persist()
    return freed


def _save(layout: Layout, folder: TrashFolder, needed: frozenset[str], others: Sequence[TrashFolder]) -> int:
    """Move out of a folder that is to be deleted what somebody still needs; its bytes."""
    saved = 0
    for path in sorted(folder.layout.blobs.glob("sha256-*")):
        digest = path.name.replace("-", ":", 1)
        heirs = [layout] if digest in needed else [each.layout for each in others if each.wants(digest)]
        if heirs and not heirs[0].blob(digest).exists():
            saved += path.stat().st_size
            trash.move(path, heirs[0].blob(digest), below=layout.root)
    return saved


def take_back(weights: ModelsDirectory, layers: Sequence[Layer], *, still_ours: StillOurs) -> int:
    """Bring blobs back that lie in the trash, for a pull that would fetch them; their bytes. They are not hashed."""
    layout = weights.layout
    if not trash.listed(layout)[0]:
        return 0
    with weights.exclusive(still_ours), translated("taking blobs back from the trash"):
        folders, _ = trash.listed(layout)
        taken = [layer.size for layer in layers if _bring_back(weights, layer, folders)]
        if taken:
            flush_folder(layout.blobs)
            weights.persist()
        return sum(taken)


def _bring_back(weights: ModelsDirectory, layer: Layer, folders: Sequence[TrashFolder]) -> bool:
    if weights.blob_state(layer) is not BlobState.MISSING:
        return False
    place = next((folder.layout.blob(layer.digest) for folder in folders if folder.holds(layer)), None)
    return place is not None and trash.move(place, weights.layout.blob(layer.digest), below=weights.layout.root)


def thrown(weights: ModelsDirectory, name: ModelName) -> TrashFolder:
    """The newest model of this name in the trash that is not the one published now.

    Raises:
        NotFound: there is none.

    """
    now = weights.named(name)
    published = {each.manifest.digest for each in now if each.manifest is not None}
    for folder in reversed(trash.listed(weights.layout)[0]):
        is_it = folder.name is not None and folder.name.folded() == name.folded()
        if is_it and folder.manifest is not None and folder.manifest.digest not in published:
            return folder
    raise NotFound(
        f"the trash holds no earlier {str(name)!r}",
        hint="what was replaced or pruned stays there for its grace only; `ollama-modal pull` brings the newest",
    )


def places(weights: ModelsDirectory, folder: TrashFolder) -> list[tuple[Path, Layer]]:
    """Where each blob of a model in the trash is now.

    Raises:
        Corrupt: one of them is nowhere any more.

    """
    folders = [folder, *trash.listed(weights.layout)[0]]
    found = []
    for layer in folder.manifest.blobs if folder.manifest else ():
        if weights.blob_state(layer) is BlobState.PRESENT:
            found.append((weights.layout.blob(layer.digest), layer))
            continue
        holder = next((each for each in folders if each.holds(layer)), None)
        if holder is None:
            raise Corrupt(
                f"the earlier {str(folder.name)!r} cannot come back: its blob {layer.digest} is gone",
                hint=f"bring the newest: `ollama-modal pull {folder.name}`",
            )
        found.append((holder.layout.blob(layer.digest), layer))
    return found


def decided(weights: ModelsDirectory, job: str) -> Decision | None:
    """What an earlier attempt of this rollback decided; None when there was none that came so far.

    Raises:
        Corrupt: it is written down, and cannot be read.

    """
    return trash.decided(weights.layout, job)


def is_done(weights: ModelsDirectory, decision: Decision) -> bool:
    """Whether the version that was decided on stands already; false while it can still be brought back as decided.

    Raises:
        Refused: neither, because somebody replaced the model or emptied the trash since.

    """
    now = _standing(weights, decision.name)
    if now == decision.digest:
        return True
    if now == decision.left and _source(weights, decision).is_file():
        return False
    stands = f"{now[:12]} stands there now" if now else "nothing stands there now"
    raise Refused(
        f"{decision.model!r} was to be digest {decision.digest[:12]} again, but it was changed or left the trash since"
        f" this rollback began: {stands}, and nothing was touched",
        hint=f"if that is the wrong one, ask again: `ollama-modal rollback {decision.model}`",
    )


def _standing(weights: ModelsDirectory, name: ModelName) -> str | None:
    """The digest of the manifest in this model's place; None when there is none, or a torn one."""
    target = weights.place_of(name)
    file = next((file for file in weights.files_of(name) if file.path == target), None)
    known = load(weights.layout, file) if file else None
    return known.manifest.digest if known and known.manifest else None


def _source(weights: ModelsDirectory, decision: Decision) -> Path:
    return Layout(weights.layout.trash / decision.folder).manifest(decision.name)


def folder_of(weights: ModelsDirectory, decision: Decision) -> TrashFolder:
    """The folder that the version which was decided on comes from.

    Raises:
        NotFound: it has left the trash.

    """
    for folder in trash.listed(weights.layout)[0]:
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
        each for each in trash.listed(weights.layout)[0] if each.name and each.name.folded() == decision.name.folded()
    ]
    kept = [each.path for each in folders if each.manifest and each.manifest.digest == decision.left]
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
        found = places(weights, folder)
        decision = Decision(str(name), manifest.digest, _standing(weights, name), folder.path.name)
        if job and decision != before:
            trash.decide(layout, job, decision, weights.clock.now())
        for place, layer in found:
            if place != layout.blob(layer.digest):
                trash.move(place, layout.blob(layer.digest), below=layout.root)
        weights.persist()
        still_ours()
        target = weights.place_of(name)
        weights.keep_before(target, manifest)
        weights.rename_manifest(source, target)
        _finish(weights, decision)
        return decision.left
