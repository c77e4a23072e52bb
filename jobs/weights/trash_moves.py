"""What a prune does to the weights: what goes to the trash, and what leaves it for good. And what a pull takes back.

A model goes manifest first, then the blobs that no published manifest needs. Each step is a rename under the lock of
the weights, so whoever is killed between two leaves nothing that is referenced gone, and the next run finishes. What is
to be done was decided before; what is needed is asked again under the lock.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobs.core.errors import Corrupt, Refused
from jobs.core.model_name import ModelName
from jobs.core.units import counted
from jobs.store.files import flush_folder, translated
from jobs.weights import trash
from jobs.weights.directory import ModelsDirectory
from jobs.weights.layout import Layout, ManifestFile, entries
from jobs.weights.manifest import Layer, Manifest
from jobs.weights.prune_plan import PrunePlan
from jobs.weights.survey import BlobState
from jobs.weights.trash import StillOurs, TrashFolder


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
    weights: ModelsDirectory,
    plan: PrunePlan,
    *,
    still_ours: StillOurs,
    begin_phase: Callable[[str], object] = lambda _: None,
) -> None:
    """Carry out a prune's plan. It deletes first: on a full disk nothing can be moved before."""
    begin_phase("emptying the trash")
    empty(weights, [each.path for each in plan.delete if each.path], still_ours=still_ours)
    begin_phase("moving to the trash")
    unfinished, orphans = ([each.path for each in plan.of(what) if each.path] for what in ("unfinished", "orphan"))
    throw_rest(weights, unfinished, still_ours=still_ours)
    throw_orphans(weights, orphans, still_ours=still_ours)
    throw_models(weights, [ModelName.parse(each.name) for each in plan.of("model")], still_ours=still_ours)


def throw_models(weights: ModelsDirectory, names: Sequence[ModelName], *, still_ours: StillOurs) -> int:
    """Move models to the trash, all manifests before any blob; the bytes of the blobs that went with them.

    What all manifests say is asked twice, however many go. A model that is gone already is passed over.

    Raises:
        Refused: another manifest is torn, so nobody can tell what may go.

    """
    if not names:
        return 0
    layout, what = weights.layout, str(names[0]) if len(names) == 1 else counted(len(names), "model")
    with weights.exclusive(still_ours), translated(f"moving {what} to the trash"):
        still_ours()
        here: dict[ModelName, list[tuple[ManifestFile, Manifest]]] = defaultdict(list)
        for file, manifest in weights.published():
            if isinstance(manifest, Corrupt):
                raise Refused(f"{what} must stay: a manifest is torn, and nobody can tell which blobs that one needs")
            here[file.name.folded()].append((file, manifest))
        weights.require_trash()
        thrown = []
        for name in names:
            called = sorted(here.get(name.folded(), ()), key=lambda each: (each[0].name != name, each[0].name))
            if not called:
                from loguru import logger  # noqa: PLC0415 - takes long to import, and a command that reads seldom needs it

                logger.info("{} is gone already", name)
                continue
            file, manifest = called[0]
            still_ours()
            weights.require_inside(file.path)
            folder = trash.make(layout, str(file.name), weights.clock.now())
            weights.changed[file.path] = None
            trash.move(file.path, Layout(folder).manifest(file.name), below=layout.root)
            weights.drop_empty_folders(file.path.parent)
            thrown.append((folder, manifest))
        weights.persist()
        still_ours()
        return weights.throw_unneeded(*thrown)


def throw_orphans(weights: ModelsDirectory, paths: Sequence[Path], *, still_ours: StillOurs) -> int:
    """Move blobs that no published manifest needs to the trash; their bytes.

    A blob that a model in the trash needs joins it there, so that the model can come back whole.
    """
    if not paths:
        return 0
    layout = weights.layout
    with weights.exclusive(still_ours), translated("moving orphans to the trash"):
        still_ours()
        needed = weights.needed()
        if needed is None:
            return 0
        weights.require_trash()
        homes = {digest: folder.path for folder in trash.folders(layout) for digest in folder.wanted}  # the newest
        common: Path | None = None
        moved = 0
        for path in paths:
            digest = path.name.replace("-", ":", 1)
            if digest in needed:
                continue
            home = homes.get(digest)
            if home is None:
                common = common or trash.make(layout, "orphans", weights.clock.now())
            size = path.stat().st_size if path.exists() else 0
            if trash.move(path, Layout(home or common or layout.trash).blob(digest), below=layout.root):
                moved += size
                weights.changed[layout.trash] = None
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
        weights.changed[weights.layout.trash] = None
        weights.persist()


def empty(weights: ModelsDirectory, paths: Sequence[Path], *, still_ours: StillOurs) -> int:
    """Delete folders of the trash for good; the bytes that are free now.

    What a published manifest lacks goes back to it instead, and what another model in the trash needs joins that one.
    """
    layout = weights.layout
    freed = 0
    with weights.exclusive(still_ours), translated("emptying the trash"):
        trash.sweep(layout, weights.clock.now())
        if not paths:
            weights.persist()
            return 0
        needed = weights.needed()
        folders, leaving = trash.folders(layout, measure=True), set(paths)
        heirs = {digest: each for each in reversed(folders) if each.path not in leaving for digest in each.wanted}
        for folder in folders:
            still_ours()
            if needed is not None and folder.path in leaving:
                weights.changed[layout.trash] = None
                freed += folder.size - _save(layout, folder, needed, heirs)
                trash.delete(layout, folder.path)
        weights.persist()
    return freed


def _save(layout: Layout, folder: TrashFolder, needed: frozenset[str], heirs: Mapping[str, TrashFolder]) -> int:
    """Move out of a folder that is to be deleted what somebody still needs: a model, or one in the trash that stays,
    of which `heirs` has the oldest for each digest; its bytes."""
    saved = 0
    for path in sorted(folder.layout.blobs.glob("sha256-*")):
        digest = path.name.replace("-", ":", 1)
        heir = layout if digest in needed else heirs[digest].layout if digest in heirs else None
        if heir is not None and not heir.blob(digest).exists():
            saved += path.stat().st_size
            trash.move(path, heir.blob(digest), below=layout.root)
    return saved


def take_back(weights: ModelsDirectory, layers: Sequence[Layer], *, still_ours: StillOurs) -> int:
    """Bring blobs back that lie in the trash, for a pull that would fetch them; their bytes. They are not hashed."""
    layout = weights.layout
    if all(weights.blob_state(layer) is not BlobState.MISSING for layer in layers) or not entries(layout.trash):
        return 0
    with weights.exclusive(still_ours), translated("taking blobs back from the trash"):
        holders = trash.Holders(trash.folders(layout))
        taken = [layer.size for layer in layers if _bring_back(weights, layer, holders)]
        if taken:
            flush_folder(layout.blobs)
            weights.persist()
        return sum(taken)


def _bring_back(weights: ModelsDirectory, layer: Layer, holders: trash.Holders) -> bool:
    holder = holders.of(layer) if weights.blob_state(layer) is BlobState.MISSING else None
    if holder is None:
        return False
    to, root = weights.layout.blob(layer.digest), weights.layout.root
    return trash.move(holder.layout.blob(layer.digest), to, below=root)
