"""What goes to the trash, comes back from it, and leaves it for good: all that prune and rollback do to the weights.

Away: the manifest first, then the blobs that no published manifest needs. Back: the blobs first, then the manifest.
Each step is a rename under the lock of the weights, so whoever is killed between two leaves nothing that is referenced
gone, and the next run finishes. What is to be done was decided before; what is needed is asked again under the lock.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from loguru import logger

from jobs import trash
from jobs.errors import Corrupt, NotFound, Refused
from jobs.layout import Layout, flush_folder, translated
from jobs.manifests import Layer
from jobs.names import ModelName
from jobs.pruning import Plan
from jobs.survey import BlobState, load
from jobs.trash import TrashFolder
from jobs.weights import Weights, spelt

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
    weights: Weights, plan: Plan, *, still_ours: StillOurs, tell: Callable[[str], object] = lambda _: None
) -> None:
    """Carry out a prune's plan. It deletes first: on a full disk nothing can be moved before."""
    tell("emptying the trash")
    empty(weights, [each.path for each in plan.delete if each.path], still_ours=still_ours)
    tell("moving to the trash")
    unfinished, orphans = ([each.path for each in plan.of(what) if each.path] for what in ("unfinished", "orphan"))
    throw_rest(weights, unfinished, still_ours=still_ours)
    throw_orphans(weights, orphans, still_ours=still_ours)
    throw_models(weights, [ModelName.parse(each.name) for each in plan.of("model")], still_ours=still_ours)


def throw_models(weights: Weights, names: Sequence[ModelName], *, still_ours: StillOurs) -> int:
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


def throw_orphans(weights: Weights, paths: Sequence[Path], *, still_ours: StillOurs) -> int:
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


def throw_rest(weights: Weights, paths: Sequence[Path], *, still_ours: StillOurs) -> None:
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


def empty(weights: Weights, paths: Sequence[Path], *, still_ours: StillOurs) -> int:
    """Delete folders of the trash for good; the bytes that are free now.

    What a published manifest lacks goes back to it instead, and what another model in the trash needs joins that one.
    """
    layout = weights.layout
    freed = 0
    with weights.exclusive(still_ours), translated("emptying the trash"):
        trash.sweep(layout)
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


def take_back(weights: Weights, layers: Sequence[Layer], *, still_ours: StillOurs) -> int:
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


def _bring_back(weights: Weights, layer: Layer, folders: Sequence[TrashFolder]) -> bool:
    if weights.blob_state(layer) is not BlobState.MISSING:
        return False
    place = next((folder.layout.blob(layer.digest) for folder in folders if folder.holds(layer)), None)
    return place is not None and trash.move(place, weights.layout.blob(layer.digest), below=weights.layout.root)


def thrown(weights: Weights, name: ModelName) -> TrashFolder:
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


def places(weights: Weights, folder: TrashFolder) -> list[tuple[Path, Layer]]:
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


def restore(weights: Weights, folder: TrashFolder, *, still_ours: StillOurs) -> str | None:
    """Publish a model from the trash, whole or not at all; the digest of the one that it replaced, which is thrown.

    Raises:
        NotFound: it is not in the trash any more.
        Corrupt: a blob of it is gone.

    """
    layout, manifest, name = weights.layout, folder.manifest, folder.name
    if manifest is None or name is None:
        raise NotFound(f"{str(folder.path)!r} holds no model")
    weights.prepare()
    with weights.exclusive(still_ours), translated(f"bringing {name} back from the trash"):
        still_ours()
        source = folder.layout.manifest(name)
        if not source.is_file():
            raise NotFound(f"{str(name)!r} has left the trash meanwhile")
        for place, layer in places(weights, folder):
            if place != layout.blob(layer.digest):
                trash.move(place, layout.blob(layer.digest), below=layout.root)
        weights.persist()
        still_ours()
        target = weights.place_of(name)
        present = next((file for file in weights.files_of(name) if file.path == target), None)
        before = load(layout, present) if present else None
        kept = weights.keep_before(target, manifest)
        weights.rename_manifest(source, target)
        weights.persist()
        if kept is not None:
            weights.throw_unneeded(kept)
        trash.drop_if_empty(folder.path)
        weights.persist()
        return before.manifest.digest if before and before.manifest else None
