"""The lab's database: what was uploaded, what was asked, what came out."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from seigh.core.access import Role
from seigh.core.lab.keys import checkpoint_key
from seigh.core.names import Place, Priority


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on every backend (SQLite drops the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class State(enum.StrEnum):
    """Life of a piece of work: queued → running → finished | failed | cancelled."""

    queued = "queued"
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"


UNDER_WAY: tuple[State, ...] = (State.queued, State.running)


class Mask(enum.StrEnum):
    """The rule that chooses the k coordinates to compare with the eigenspace."""

    magnitude = "magnitude"  # the largest |θ|
    random = "random"  # uniformly drawn; mean over the draws
    best = "best"  # the k rows of V_k with the largest norms


class Base(DeclarativeBase):
    """All tables.

    Every constraint has a name, the same one on every backend, so that a later migration can drop it.
    """

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UTCDateTime(), dict[str, Any]: JSON(), float: Double()}  # noqa: RUF012


class Model(Base):
    """One training run: checkpoints of one architecture under one name."""

    __tablename__ = "model"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    architecture: Mapped[str] = mapped_column(String(2000))  # a name, with options if any
    created_at: Mapped[datetime] = mapped_column(default=now)
    note: Mapped[str] = mapped_column(Text, default="", server_default="")  # what people say of it
    archived: Mapped[bool] = mapped_column(default=False, server_default=false())  # offered no more

    checkpoints: Mapped[list[Checkpoint]] = relationship(
        back_populates="model", order_by="Checkpoint.step", cascade="all, delete-orphan"
    )
    trainings: Mapped[list[Training]] = relationship(back_populates="model", cascade="all, delete-orphan")


class Checkpoint(Base):
    """The weights of a model at one training step; the file lies in the artefact store under its hash.

    Of weights that only results computed elsewhere tell of there is no file, and its size is 0.
    """

    __tablename__ = "checkpoint"
    __table_args__ = (UniqueConstraint("model_id", "step"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), index=True)
    step: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    parameters: Mapped[int]  # of the whole model
    train_loss: Mapped[float | None]
    train_accuracy: Mapped[float | None]  # in [0, 1]
    test_loss: Mapped[float | None]
    test_accuracy: Mapped[float | None]  # in [0, 1]
    uploaded_by: Mapped[str] = mapped_column(String(100))
    uploaded_at: Mapped[datetime] = mapped_column(default=now)

    model: Mapped[Model] = relationship(back_populates="checkpoints")
    analyses: Mapped[list[Analysis]] = relationship(back_populates="checkpoint", cascade="all, delete-orphan")

    @property
    def is_stored(self) -> bool:
        """Whether its file is in the artefact store."""
        return self.size > 0

    @property
    def key(self) -> str:
        """The key of its file in the artefact store."""
        return checkpoint_key(self.sha256, self.filename)


class DataFile(Base):
    """A data file that somebody has brought; it lies in the artefact store under its hash.

    ``split`` is the one that it was said to be of, or ``NO_SPLIT``. Of a file that has been deleted while
    analyses of it remain, the size is 0.
    """

    __tablename__ = "data_file"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    filename: Mapped[str] = mapped_column(String(255))
    split: Mapped[str] = mapped_column(String(16))
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    uploaded_by: Mapped[str] = mapped_column(String(100))
    uploaded_at: Mapped[datetime] = mapped_column(default=now)


class Environment(Base):
    """Software and hardware that produced a result, stored once per distinct content."""

    __tablename__ = "environment"

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)  # SHA-256 of the details
    details: Mapped[dict[str, Any]]


# SQLite would give the id of a deleted row to the next one: links, folders and keys would mean other work.
_EVERY_ID_ONCE = {"sqlite_autoincrement": True}


class Work(Base):
    """Base of all queued work: the columns from its submission to its end.

    A kind of work is a subclass; the name of its table is its name in messages and to the user.
    ``seigh.core.lab.store`` has what changes these columns, the same for all kinds.
    """

    __abstract__ = True

    # Columns that count what an attempt has done so far; unknown before its first report.
    counts: ClassVar[tuple[str, ...]] = ()
    # Whether another machine may go on from what a killed attempt has left (``seigh.tasks.scratch``).
    shared: ClassVar[bool] = False
    # What the user can do when there is too little memory for it, as the end of a sentence.
    relief: ClassVar[str]

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[State] = mapped_column(
        Enum(State, native_enum=False, length=16, create_constraint=True), default=State.queued
    )
    stage: Mapped[str | None] = mapped_column(String(64))
    progress: Mapped[float] = mapped_column(default=0.0)  # in [0, 1]
    message: Mapped[str | None] = mapped_column(Text)  # why it failed, one sentence
    attempts: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    claim: Mapped[str | None] = mapped_column(String(64))  # token of the attempt that owns it
    worker: Mapped[str | None] = mapped_column(String(255))  # where that attempt runs
    place: Mapped[Place] = mapped_column(String(8), default="any", server_default="any")  # where it may run
    priority: Mapped[Priority] = mapped_column(String(8), default="normal", server_default="normal")
    expected_seconds: Mapped[float | None]  # that it will take, as far as that is known before
    expected_spread: Mapped[float | None]  # the factor by which it may take longer or shorter
    progress_at: Mapped[datetime | None]  # when ``progress`` last grew

    submitted_by: Mapped[str] = mapped_column(String(100))
    submitted_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Analysis(Work):
    """One checkpoint, one set of settings: from the queue to its numbers.

    The columns ``data`` … ``seed`` repeat entries of ``settings`` so that SQL can filter on them;
    they are written once, with it. But ``split`` is what pages call it: of a data file it is the one that was
    declared of it, or ``NO_SPLIT``. ``parameters`` counts what the patterns in ``settings`` choose.
    """

    __tablename__ = "analysis"
    __table_args__ = (
        UniqueConstraint("checkpoint_id", "settings_key"),
        Index("ix_analysis_state_heartbeat", "state", "heartbeat_at"),
        _EVERY_ID_ONCE,
    )
    counts = ("hvps",)
    relief = "choose a smaller k or N"

    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoint.id", ondelete="CASCADE"))
    settings: Mapped[dict[str, Any]]
    settings_key: Mapped[str] = mapped_column(String(64))
    data: Mapped[str] = mapped_column(String(255))
    split: Mapped[str] = mapped_column(String(16))
    curvature: Mapped[str] = mapped_column(String(16))
    method: Mapped[str] = mapped_column(String(16))
    samples: Mapped[int]
    k: Mapped[int]
    seed: Mapped[int]
    parameters: Mapped[int]  # D, of θ: all parameters of the checkpoint, or the chosen ones

    hvps: Mapped[int | None]
    resolved_k: Mapped[int | None]  # up to there every overlap is known to 1 %; None where errors are not
    data_sha256: Mapped[str | None] = mapped_column(String(64))  # content of the subset used
    record: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # facts beside the tables below
    eigenvectors: Mapped[str | None] = mapped_column(String(255))  # key in the artefact store
    eigenvectors_sha256: Mapped[str | None] = mapped_column(String(64))  # of that file; None of older ones
    pinned: Mapped[bool] = mapped_column(default=False, server_default=false())  # they are kept for good
    imported: Mapped[str | None] = mapped_column(String(255))  # the file of a result computed elsewhere
    plan: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # how products are computed, once measured
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environment.id"))

    checkpoint: Mapped[Checkpoint] = relationship(back_populates="analyses")
    environment: Mapped[Environment | None] = relationship()
    stages: Mapped[list[StageTiming]] = relationship(
        order_by="StageTiming.position", cascade="all, delete-orphan"
    )


class Training(Work):
    """The training of a problem's recipe, whose checkpoints become those of ``model`` as they are recorded.

    ``analyses`` are queued for each of them: objects with ``settings`` (those of an analysis) and
    ``parameters`` (D, how many these choose). They are no part of the ``key``: more may be asked for later.
    """

    __tablename__ = "training"
    __table_args__ = (Index("ix_training_state_heartbeat", "state", "heartbeat_at"), _EVERY_ID_ONCE)
    counts = ("steps_done",)
    shared = True  # machines round differently: one that started anew would find other weights
    relief = "choose a smaller problem"

    model_id: Mapped[int] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), index=True)
    problem: Mapped[str] = mapped_column(String(300))
    settings: Mapped[dict[str, Any]]
    key: Mapped[str] = mapped_column(String(64), unique=True)  # of model, problem and settings
    analyses: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    steps: Mapped[int]  # of the whole training, as in ``settings``
    steps_done: Mapped[int | None]

    model: Mapped[Model] = relationship(back_populates="trainings")


class Comparison(Work):
    """All pairs of some analyses, compared at some k; the numbers are in ``pair_value``."""

    __tablename__ = "comparison"
    __table_args__ = (Index("ix_comparison_state_heartbeat", "state", "heartbeat_at"), _EVERY_ID_ONCE)
    relief = "choose fewer analyses or smaller k"

    analyses: Mapped[list[int]] = mapped_column(JSON)  # ids, ascending
    ks: Mapped[list[int]] = mapped_column(JSON)  # ascending
    key: Mapped[str] = mapped_column(String(64), unique=True)  # of both


# The kinds of work by name.
WORK: MappingProxyType[str, type[Work]] = MappingProxyType(
    {kind.__tablename__: kind for kind in (Analysis, Training, Comparison)}
)


class AnalysisTag(Base):
    """A word that somebody has put on an analysis, to find it by."""

    __tablename__ = "analysis_tag"

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    name: Mapped[str] = mapped_column(String(60), primary_key=True, index=True)


class ModelTag(Base):
    """A word that somebody has put on a model; its analyses are found by it, too."""

    __tablename__ = "model_tag"

    model_id: Mapped[int] = mapped_column(
        ForeignKey("model.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    name: Mapped[str] = mapped_column(String(60), primary_key=True, index=True)


class Part(Base):
    """A part of an analysis that several workers share, while its round lasts.

    A round is what the analysis needs next before it can go on; its name is a hash of what it is, so that an
    attempt that comes to the same round finds what was done of it. The numbers are in files (``spec``).
    """

    __tablename__ = "part"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    round: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    spec: Mapped[dict[str, Any]]  # what is to be done
    folder: Mapped[str] = mapped_column(String(255))  # below the shared one: where its files are
    claim: Mapped[str | None] = mapped_column(String(64))  # token of whoever performs it
    worker: Mapped[str | None] = mapped_column(String(255))
    heartbeat_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    checksum: Mapped[str | None] = mapped_column(String(64))  # of its result, once there is one


class PairValue(Base):
    """One measure of how alike two finished analyses are at one k, whichever comparison asked for it."""

    __tablename__ = "pair_value"
    __table_args__ = (
        CheckConstraint("first_id <= second_id", name="order"),
        {"sqlite_with_rowid": False},
    )

    first_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    second_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, index=True
    )
    k: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    measure: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[float]


class Eigenvalue(Base):
    """Eigenvalue number ``position`` (1 … k, descending |λ|) with its residual ‖Hv − λv‖₂.

    ``scree_lower`` and ``scree_upper`` bound the share of ‖H‖²_F that a matrix of this rank misses; the
    bounds of all positions hold together with 95 % probability.
    """

    __tablename__ = "eigenvalue"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float]
    residual: Mapped[float | None]
    scree_lower: Mapped[float | None]
    scree_upper: Mapped[float | None]


class OverlapPoint(Base):
    """overlap(M, V_k) for one mask and one k.

    ``error`` is how far the overlap may be from that of the true eigenspace. For random masks, whose mean k/D
    is exact, it is the error of ``std``, which is over all masks of k coordinates. For the magnitude mask
    there is what equal magnitudes leave open: ``tied`` of them compete for places in the mask (0: none do),
    and over all choices the overlap is ``overlap`` on average, and between ``least`` and ``greatest``. The
    chance level is k/D, with D in the analysis's row.
    """

    __tablename__ = "overlap_point"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    mask: Mapped[Mask] = mapped_column(
        Enum(Mask, native_enum=False, length=16, create_constraint=True), primary_key=True
    )
    k: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    overlap: Mapped[float]
    std: Mapped[float | None]
    error: Mapped[float | None]
    least: Mapped[float | None]
    greatest: Mapped[float | None]
    tied: Mapped[int | None] = mapped_column(BigInteger)


class FurtherCurve(Base):
    """A further curve that was asked for (``seigh.core.curves``), with what it is called where it is shown.

    ``points`` has value, error and chance for k = 1 … K (``seigh.core.results.packed``), and ``ends`` between
    what the values lie, where that is not the error to both sides.
    """

    __tablename__ = "curve"

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(Text)
    points: Mapped[bytes]
    ends: Mapped[bytes | None]


class Observation(Base):
    """A profile or a quantity that was asked for, with what is said of it where it is shown.

    ``points`` has the rows of a profile, or the one of a quantity (``seigh.core.results.packed``); ``words``
    the kind, title, note, unit and axes (``Observable.words``).
    """

    __tablename__ = "observation"

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    title: Mapped[str] = mapped_column(String(200))
    words: Mapped[dict[str, Any]]
    points: Mapped[bytes]


class LayerShare(Base):
    """The shares of one parameter tensor in V_k, in the mask of size k, and in their overlap.

    ``position`` counts the tensors in the model's order, from 0. A share of no overlap at all is unknown.
    """

    __tablename__ = "layer_share"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    k: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(300))
    parameters: Mapped[int] = mapped_column(BigInteger)
    eigenspace: Mapped[float]
    mask: Mapped[float]
    overlap: Mapped[float | None]


class MagnitudeBin(Base):
    """Coordinates of about the same |θ|, and the mass ‖row of V_k‖² / k of one of them, 1/D on average.

    ``position`` counts the bins from 0, that of the largest |θ|; ``low`` and ``high`` are the 10 % and 90 %
    quantiles.
    """

    __tablename__ = "magnitude_bin"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    k: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(BigInteger)
    largest: Mapped[float]
    smallest: Mapped[float]
    mean: Mapped[float]
    low: Mapped[float]
    median: Mapped[float]
    high: Mapped[float]


class SubspaceMetric(Base):
    """A Grassmannian metric between the mask of size k and V_k, and over random subspaces instead of V_k.

    ``error``, how far it may be from that of the true eigenspace, is known for some metrics only.
    """

    __tablename__ = "subspace_metric"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    k: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    metric: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[float]
    error: Mapped[float | None]
    random_mean: Mapped[float]
    random_std: Mapped[float]


class StageTiming(Base):
    """Seconds and HVPs of one stage of an analysis, in the order they ran."""

    __tablename__ = "stage_timing"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    analysis_id: Mapped[int] = mapped_column(
        ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    hvps: Mapped[int]


class Worker(Base):
    """A worker, as its main process last said; a row that is not fresh is one's that died."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)  # as in the column of its work
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(16))  # cpu or cuda
    device_name: Mapped[str] = mapped_column(String(255))
    memory: Mapped[int] = mapped_column(BigInteger)  # bytes of the device
    torch: Mapped[str] = mapped_column(String(64))  # its version
    threads: Mapped[int]  # of each child
    concurrency: Mapped[int]
    queues: Mapped[list[str]] = mapped_column(JSON)
    artifacts: Mapped[str | None] = mapped_column(String(64))  # mark of the folder that it sees
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


class Account(Base):
    """Somebody who can sign in.

    ``password`` is Argon2's hash of it, None for those whom somebody else signs in; of them ``subject`` is
    the SHA-256 of who says so and of what they call the person.
    """

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    role: Mapped[Role] = mapped_column(Enum(Role, native_enum=False, length=16, create_constraint=True))
    password: Mapped[str | None] = mapped_column(String(255))
    subject: Mapped[str | None] = mapped_column(String(64), unique=True)
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)


class SignIn(Base):
    """A browser in which somebody has signed in, until it expires or is revoked.

    ``token`` is the SHA-256 of what the browser has in its cookie; ``address`` is where it was.
    """

    __tablename__ = "sign_in"
    __table_args__ = _EVERY_ID_ONCE

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    address: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked: Mapped[bool] = mapped_column(default=False)

    account: Mapped[Account] = relationship()


class Audit(Base):
    """Something that somebody did: to the ``kind`` of work or account with this ``number``, called ``about``
    then. It outlasts what it tells of."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_kind_number", "kind", "number"),
        Index("ix_audit_what_at", "what", "at"),
        _EVERY_ID_ONCE,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str] = mapped_column(String(100))
    what: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str | None] = mapped_column(String(16))
    number: Mapped[int | None]
    about: Mapped[str] = mapped_column(String(255), default="")
    address: Mapped[str] = mapped_column(String(64), default="")


class Incident(Base):
    """Something about the installation that people should know (``seigh.core.lab.incidents``)."""

    __tablename__ = "incident"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)  # what it is about
    message: Mapped[str] = mapped_column(Text)  # one sentence
    times: Mapped[int]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
