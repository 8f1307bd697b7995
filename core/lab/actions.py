"""Actions of people on work in the database: permission, change and audit entry in one transaction.

``seigh.core.lab.store`` does the deeds. Every function works in the transaction of the session it is
given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from seigh.core.access import Actor
from seigh.core.lab import audit, datafiles, exported, store
from seigh.core.lab.models import Analysis, Checkpoint, Comparison, DataFile, Model, Training, Work
from seigh.core.lab.naming import of_file
from seigh.core.names import Priority


@dataclass(frozen=True)
class StoredData:
    """A data file as it lies in the artefact store: its hash, its name and its bytes."""

    sha256: str
    filename: str
    size: int


def cancel(s: Session, actor: Actor, kind: type[Work], number: int) -> None:
    """Cancel work, as ``store.request_cancel`` does.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it has ended already, or is gone.
    """
    about = _check(s, actor, kind, number)
    store.request_cancel(s, kind, number)
    audit.record(s, actor, "cancelled", kind.__tablename__, number, about)


def prioritise(s: Session, actor: Actor, kind: type[Work], number: int, priority: Priority) -> None:
    """Set the priority of queued work, as ``store.prioritise`` does.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it is queued no more, or gone.
    """
    about = _check(s, actor, kind, number)
    store.prioritise(s, kind, number, priority)
    audit.record(s, actor, f"set to {priority} priority", kind.__tablename__, number, about)


def retry(s: Session, actor: Actor, kind: type[Work], number: int) -> None:
    """Queue work again, as ``store.retry`` does.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it has not failed, or is gone.
    """
    about = _check(s, actor, kind, number)
    store.retry(s, kind, number)
    audit.record(s, actor, "retried", kind.__tablename__, number, about)


def delete(s: Session, actor: Actor, kind: type[Work], number: int) -> list[str]:
    """Remove work, as ``store.delete`` does; the keys of files to delete after the commit.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it is gone already.
    """
    about = _check(s, actor, kind, number)
    files = store.delete(s, kind, number)
    audit.record(s, actor, "deleted", kind.__tablename__, number, about)
    return files


def pin(s: Session, actor: Actor, number: int, pinned: bool) -> None:
    """Keep an analysis's eigenvectors for good, or no longer.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it is gone.
    """
    about = _check(s, actor, Analysis, number)
    store.pin(s, number, pinned)
    audit.record(s, actor, "pinned" if pinned else "unpinned", "analysis", number, about)


def rename_model(s: Session, actor: Actor, model_id: int, name: str) -> None:
    """Give a model another name, as ``store.rename_model`` does, if all of it is the actor's.

    Raises:
        AccessError: If the actor may not.
        StoreError: If the name cannot be one, or is taken, or the model is gone.
    """
    before = _check_model(s, actor, model_id)
    store.rename_model(s, model_id, name)
    audit.record(s, actor, "renamed", "model", model_id, f"{before} → {name.strip()}")


def describe_model(s: Session, actor: Actor, model_id: int, note: str) -> None:
    """Write down what people are to know about a model, as ``store.describe_model`` does.

    Raises:
        AccessError: If the actor may not.
        StoreError: If the note is too long, or the model is gone.
    """
    name = _check_model(s, actor, model_id)
    store.describe_model(s, model_id, note)
    audit.record(s, actor, "described", "model", model_id, name)


def archive_model(s: Session, actor: Actor, model_id: int, archived: bool) -> None:
    """Put a model away or take it back, as ``store.archive_model`` does.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it is gone.
    """
    name = _check_model(s, actor, model_id)
    store.archive_model(s, model_id, archived)
    audit.record(s, actor, "archived" if archived else "taken back", "model", model_id, name)


def tag_model(s: Session, actor: Actor, model_id: int, names: Sequence[str]) -> None:
    """Put these tags, and no others, on a model; whoever may work may.

    Raises:
        AccessError: If the actor may not.
        StoreError: If a name cannot be a tag, or the model is gone.
    """
    actor.check_work()
    store.tag_model(s, model_id, names)


def tag_analyses(
    s: Session, actor: Actor, numbers: Sequence[int], add: Sequence[str], remove: Sequence[str] = ()
) -> None:
    """Put tags on analyses, and take others away; whoever may work may.

    Raises:
        AccessError: If the actor may not.
        StoreError: If a name cannot be a tag.
    """
    actor.check_work()
    store.tag_analyses(s, numbers, add, remove)


def delete_model(s: Session, actor: Actor, model_id: int) -> list[str]:
    """Remove a model with all that belongs to it, as ``store.delete_model`` does, if all is the actor's.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it is gone already.
    """
    name = _check_model(s, actor, model_id)
    files = store.delete_model(s, model_id)
    audit.record(s, actor, "deleted", "model", model_id, name)
    return files


def change_data(
    s: Session, actor: Actor, file: StoredData, name: str, split: str, reserved: Collection[str] = ()
) -> None:
    """Name a data file and say of which split it is, as ``datafiles.change`` does.

    Raises:
        AccessError: If the actor may not.
        StoreError: If the name cannot be one, or is taken, or the file is gone.
    """
    before = _check_data(s, actor, file)
    datafiles.change(s, file.sha256, name, split, reserved)
    audit.record(s, actor, "renamed", "data", 0, f"{before} → {name.strip()}, {split}")


def delete_data(s: Session, actor: Actor, file: StoredData) -> list[str]:
    """Remove a data file, as ``datafiles.delete`` does; the keys of files to delete after the commit.

    Raises:
        AccessError: If the actor may not.
        StoreError: If it is gone already, or work that is under way needs it.
    """
    name = _check_data(s, actor, file)
    files = datafiles.delete(s, file.sha256)
    audit.record(s, actor, "deleted", "data", 0, name)
    return files


def delete_graph(s: Session, actor: Actor, name: str) -> None:
    """Let go of an exported network, unless work under way needs it; its file is the caller's to remove.

    Raises:
        AccessError: If the actor may not change all models that have it.
        StoreError: If an analysis that waits or runs is of it.
    """
    actor.check_work()
    for model_id in exported.uses(s, name).models:
        _check_model(s, actor, model_id)
    exported.check_free(s, name)
    audit.record(s, actor, "deleted", "network", 0, name)


def submitted(s: Session, actor: Actor, kind: type[Work], number: int) -> None:
    """Write down who has put work in the queue."""
    work = s.get(kind, number)
    about = "" if work is None else _about(work)
    audit.record(s, actor, "submitted", kind.__tablename__, number, about)


def imported(s: Session, actor: Actor, number: int) -> None:
    """Write down who has brought a result that was computed elsewhere."""
    analysis = s.get_one(Analysis, number)
    audit.record(s, actor, "imported", "analysis", number, _about(analysis))


def _check(s: Session, actor: Actor, kind: type[Work], number: int) -> str:
    """Refuse what the actor may not change; else what it is called. Of work that is gone, the store tells."""
    actor.check_work()
    work = s.get(kind, number)
    if work is None:
        return ""
    actor.check_change(work.submitted_by, f"{kind.__tablename__.capitalize()} {number}")
    return _about(work)


def _check_model(s: Session, actor: Actor, model_id: int) -> str:
    """Refuse a model with a part that is somebody else's; else its name, "" of one that is gone."""
    actor.check_work()
    model = s.get(Model, model_id)
    name = "" if model is None else model.name
    for owner in [] if model is None else _owners(model):
        actor.check_change(owner, f"A part of the model '{name}'")
    return name


def _check_data(s: Session, actor: Actor, file: StoredData) -> str:
    """Refuse a data file that is somebody else's; else its name. One from before files had names gets one."""
    actor.check_work()
    known = s.get(DataFile, file.sha256)
    if known is None:
        first = select(Analysis.submitted_by).where(of_file(file.sha256)).order_by(Analysis.id).limit(1)
        owner = s.scalar(first) or actor.name
        known = datafiles.add(s, file.sha256, filename=file.filename, size=file.size, user=owner)
    actor.check_change(known.uploaded_by, f"The data file '{known.name}'")
    return known.name


def _about(work: Work) -> str:
    match work:
        case Analysis():
            return f"{work.checkpoint.model.name}, step {work.checkpoint.step}"
        case Training():
            return work.model.name
        case Comparison():
            return f"{len(work.analyses)} analyses"
    return ""


def _owners(model: Model) -> set[str]:
    checkpoints: list[Checkpoint] = list(model.checkpoints)
    found = {each.uploaded_by for each in checkpoints}
    found |= {analysis.submitted_by for each in checkpoints for analysis in each.analyses}
    return found | {training.submitted_by for training in model.trainings}
