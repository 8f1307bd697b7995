"""Configuration from the environment, and the settings of one analysis."""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from seigh.core import methods, ranges
from seigh.core.access import Role
from seigh.core.errors import UserError
from seigh.core.names import (
    EARLIER,
    NO_SPLIT,
    OF_EARLIER,
    Kind,
    LogFormat,
    PathName,
    Reduced,
    Share,
    SubsetName,
    TestMatrixName,
)

Split = Literal["train", "test"]
Precision = Literal["float32", "float64", Reduced]

SPLITS: tuple[Split, ...] = get_args(Split)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# How settings name a file of the artefact store; its hash follows.
MARK = "sha256:"
_FILE = re.compile(r"\.[a-z]+(\([^()]*\))?$")  # a path, as a result that was computed elsewhere names it

# AF_UNIX paths are limited to 108 bytes on Linux and 104 on macOS, the final NUL included.
_LONGEST_SOCKET_PATH = 100

# What Celery and redis-py read alike in an address.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")


# What has a meaning in an address, and may be in the name of a folder.
_MARKS = re.compile(r"[?#;%]")


def _quoted(mark: re.Match[str]) -> str:
    return quote(mark[0])


class Settings(BaseSettings):
    """Where this installation keeps its things: the environment variables ``SEIGH_*``.

    The defaults are the embedded stack, everything under ``SEIGH_HOME``. A lab sets ``SEIGH_DATABASE_URL``,
    ``SEIGH_REDIS_URL`` and ``SEIGH_ARTIFACTS`` (a folder that app and workers share); nothing else changes.
    ``SEIGH_DATA_DIR`` is the folder of the data sets that are not shipped, for the workers and the app.
    ``SEIGH_SHARE`` says when a worker lets others take part in an analysis: ``auto``, where that is worth it.

    ``SEIGH_HOSTS`` lists by which names, besides the loopback ones and the address it listens on, the
    dashboard may be called; what calls it otherwise is refused. ``max_upload_mb`` is the largest file that
    may be uploaded, and ``max_uploads_mb`` what all uploads together may take of the server's memory.

    Who signs in: ``session_hours``, how long that lasts; ``oidc_issuer``, ``oidc_client_id`` and
    ``oidc_client_secret`` of an OpenID Connect provider, whose claim ``oidc_name`` is the account's name;
    ``proxies``, the addresses of those that ``seigh app --behind-proxy`` stands behind, and
    ``proxy_user_header``, the header in which they name who has signed in there; ``new_role``, what somebody
    may do whom the provider or the proxy brings for the first time.

    Files that somebody brings are read in a process of its own, which takes at most ``reading_memory_gb`` GiB
    (half of the machine's by default) and ``reading_seconds`` of CPU time, and a second more for every 4 MiB
    of the file.

    The limits of an installation, none by default: ``max_k``, the largest k that can be submitted;
    ``max_running_per_user``, how many analyses of one user run at a time; ``artifacts_quota_gb``, how many
    GiB the artefacts may take; ``retention_days``, after how many days eigenvectors that nobody has pinned
    are deleted (the numbers stay).
    """

    model_config = SettingsConfigDict(env_prefix="SEIGH_", env_ignore_empty=True)

    home: Path = Path(".seigh")
    database_url: str = ""
    redis_url: str = ""
    artifacts: Path | None = None
    data_dir: Path | None = None
    scratch: Path | None = None
    memory_gb: float | None = Field(default=None, gt=0)
    device: str = "auto"
    share: Share = "auto"
    log: LogFormat = "text"
    max_upload_mb: int = Field(default=2048, gt=0)
    max_uploads_mb: int = Field(default=4096, gt=0)
    hosts: str = ""
    proxies: str = "127.0.0.1,::1"
    proxy_user_header: str = ""
    new_role: Role = Role.reader
    session_hours: float = Field(default=168, gt=0, le=8760)
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret: SecretStr = SecretStr("")
    oidc_name: str = "preferred_username"
    reading_memory_gb: float | None = Field(default=None, gt=0)
    reading_seconds: float = Field(default=4, gt=0)
    max_k: int | None = Field(default=None, gt=0)
    max_running_per_user: int | None = Field(default=None, gt=0)
    artifacts_quota_gb: float | None = Field(default=None, gt=0)
    retention_days: float | None = Field(default=None, gt=0)

    @cached_property
    def root(self) -> Path:
        """The absolute path of ``SEIGH_HOME``."""
        return self.home.expanduser().resolve()

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the lab's database."""
        return self.database_url or f"sqlite:///{_MARKS.sub(_quoted, str(self.root / 'seigh.db'))}"

    @property
    def artifact_folder(self) -> Path:
        """Folder of checkpoints, data files and eigenvectors."""
        return (self.artifacts or self.root / "artifacts").expanduser().resolve()

    @property
    def artifacts_quota(self) -> int | None:
        """Bytes that the artefacts may take; None without a limit."""
        return None if self.artifacts_quota_gb is None else int(self.artifacts_quota_gb * 2**30)

    @property
    def known_hosts(self) -> list[str]:
        """The names and origins in ``SEIGH_HOSTS``."""
        return self.hosts.replace(",", " ").split()

    @property
    def data_folder(self) -> Path:
        """Folder of the data sets that are not shipped, in their original formats."""
        return (self.data_dir or self.root / "data").expanduser().resolve()

    @property
    def scratch_folder(self) -> Path:
        """Folder of the bases of analyses that run, from which a killed one goes on; best on a local disk."""
        return (self.scratch or self.root / "scratch").expanduser().resolve()

    @property
    def redis_socket(self) -> Path:
        """Socket of the embedded Redis: under the home, or, where that path is too long for a socket or no
        plain part of an address, in a private folder of the system's temporary one that depends on the home
        alone."""
        socket = self.root / "run" / "redis.sock"
        if len(os.fsencode(socket)) <= _LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(socket)):
            return socket
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"seigh-{os.getuid()}-{name}" / "redis.sock"

    @property
    def redis(self) -> str:
        """URL of the broker, as Celery and redis-py both read it."""
        return self.redis_url or f"redis+socket://{self.redis_socket}"

    @property
    def embedded_redis(self) -> bool:
        """Whether Redis is ours to start."""
        return not self.redis_url


class SettingsError(UserError):
    """Settings that cannot work; the message is one sentence for the person who chose them."""


def refusal(error: ValidationError) -> str:
    """The first thing that is wrong with settings, as a sentence."""
    first = error.errors()[0]
    where = f"{first['loc'][0]}: " if first["loc"] else ""
    return f"{where}{first['msg'].removeprefix('Value error, ')}."


def _indices(given: Any) -> list[int]:
    """Indices, listed or written as text, in ascending order.

    Raises:
        ValueError: If they are none, or one is there twice.
    """
    if not given:
        return []
    numbers = ranges.parse(given) if isinstance(given, str) else list(given)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("indices are whole numbers, 0 or more")
    if len(numbers) > ranges.MOST:
        raise ValueError(f"more than {ranges.MOST:,} indices are listed; list fewer")
    ascending = sorted(numbers)
    for one, following in pairwise(ascending):
        if one == following:
            raise ValueError(f"the indices name sample {one} twice; name each once")
    return ascending


def _weights(text: str) -> list[float]:
    """Class weights, written as text.

    Raises:
        ValueError: If they are no positive numbers.
    """
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(each) and each > 0 for each in found):
        raise ValueError("class weights are positive numbers with commas between, like 1,0.5,2")
    return found


def _decay(text: str) -> tuple[str, float]:
    """The pattern and λ of a penalty ``PATTERN=λ``.

    Raises:
        ValueError: If it is none.
    """
    pattern, _, number = text.rpartition("=")
    try:
        decay = float(number)
    except ValueError:
        decay = math.nan
    if not pattern.strip() or not 0 <= decay < 1e6:
        raise ValueError(f"the penalty '{text[:80]}' is not understood; write PATTERN=λ, like *.bias=0")
    return pattern.strip(), decay


# Of ``initial`` and ``previous``: that step of the model, which is chosen when an analysis is queued.
BY_STEP = "step"

# Names of masks; a path is none.
_MASK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


def named_file(given: str) -> tuple[str, str]:
    """Name and file of a mask, ``NAME=FILE`` or a file alone, which is called like itself.

    >>> named_file("lottery=final.pt"), named_file("out/Final_Mask.safetensors")
    (('lottery', 'final.pt'), ('final-mask', 'out/Final_Mask.safetensors'))

    Raises:
        ValueError: There is no file, or it has no name that can be a mask's.
    """
    name, mark, file = given.partition("=")
    if not mark or not _MASK_NAME.fullmatch(name):
        stem = re.sub(r"[^a-z0-9]+", "-", PurePath(given).stem.lower()).strip("-")
        name, file = stem[:40].rstrip("-"), given
    if not _MASK_NAME.fullmatch(name) or not file or (file.startswith("sha256:") and not mark):
        raise ValueError(
            f"'{given}' names no mask; write NAME=FILE, the name in small letters, digits and hyphens"
        )
    return name, file


class AnalysisSettings(BaseModel):
    """Everything that decides the numbers of one analysis, apart from the checkpoint.

    Two analyses with the same checkpoint and equal settings are the same analysis (``key``).

    Attributes:
        architecture: The architecture with its options, as
            ``seigh.core.problems.architectures.canonical`` writes it.
        entry: Which of a checkpoint's entries with weights to take, or the name under which they lie in it;
            what is beyond doubt when empty.
        match: By what a checkpoint's tensors are matched with the architecture's: ``names``, or ``order`` and
            shape, for networks whose layers have other names.
        data: Name of a data set, ``random(CxHxW,classes=n)``, the path of a ``.npz``/``.safetensors`` file,
            or ``sha256:<digest>`` of such a file in the artefact store.
        split: Which split of the data set the Hessian is taken on.
        curvature: ``hessian``, or ``ggn`` for the generalised Gauss–Newton matrix, its part that is positive
            semi-definite for a convex loss.
        parameters: Patterns of names of the parameters that make up θ (``layer4.*``); all trainable ones when
            empty.
        loss: Name of the loss (``seigh.core.problems.losses``), the mean over the samples.
        label_smoothing: ε of cross-entropy: the share of each target that is spread evenly over all classes.
        class_weights: Weight of each class in cross-entropy, or of the positive targets of each output in bce
            (``pos_weight``), as text with commas: ``1,0.5,2``; all are 1 when empty.
        ignore_index: The label of positions and samples that have no loss, of cross-entropy; −100, as in
            PyTorch, when not given.
        weight_decay: λ, as of ``torch.optim.SGD``: (λ/2)‖θ‖² is part of the loss and λ·I of the Hessian, and
            of the GGN.
        penalty: λ of some parameters in place of ``weight_decay``, as of an optimiser's parameter groups:
            texts ``PATTERN=λ`` such as ``*.bias=0``, of which the last that matches a name counts.
        subset: Which samples the Hessian is taken on: ``balanced``, N of them, drawn with as many of one
            class as of another; ``all``; ``first-per-class``, the paper's, the first N / classes samples of
            each class; ``random``, any N of them; or ``indices``.
        samples: Number of samples N. Of ``all`` it is None until the data set has been read, then their
            number; of ``indices`` it is how many there are.
        indices: The samples of the subset ``indices``, counted from 0, as text in ascending order:
            ``0-99,105``. A list of numbers is accepted too.
        k: Number of eigenpairs, and the end of the overlap curve.
        method: ``krylov``, ``seigh``, ``ssvd``, ``exact``, or the method of a plug-in
            (``seigh.core.methods``).
        seed: Seeds the subset and the test matrices.
        outer: n_O of SEIGH and SSVD, columns of the outer sketch; k when not given.
        inner: n_I of SEIGH and SSVD, size of the inner sketch; 2·n_O when not given (the paper's choice).
        test_matrix: Random test matrices of SEIGH and SSVD; ``ssrft`` is the paper's.
        tolerance: Krylov goes on until every residual is at most ``tolerance`` · |λ₁|; for the usual number
            of products when not given.
        error_tests: Random vectors that estimate ‖H‖_F and ‖H − Ĥ‖_F, one product each.
        curves: Names of further curves to compute (``seigh.core.curves``), each once, in alphabetical order.
        initial: The checkpoint θ_0 that some curves compare with, such as the mask ``movement``: a file, or
            ``sha256:<digest>`` of one in the artefact store. In the queue, ``step`` stands for the first step
            of the model until it is known.
        previous: The checkpoint before this one, as of the mask ``update``, likewise.
        masks: The user's own masks, each ``<name>=<file>`` or ``<name>=sha256:<digest>``: a file of scores,
            or of zeros and ones, by the names of the parameters (``seigh.core.problems.masks``). The overlap
            of each is the curve ``overlap-<name>``.
        pruned: Pruned checkpoints, likewise: the mask is where their parameters are not zero.
        learning_rate: η of the training, for what compares the curvature with it; the checkpoint's when not
            given.
        random_masks: Deprecated; decides nothing, as the mean and standard deviation over all random masks
            are computed exactly. It stays so that old settings are read and have the ``key`` they had.
        precision: Floating-point format of weights, vectors and HVPs; ``tf32`` and ``bfloat16`` are float32
            with coarser matrix products inside the HVPs.
        hvp_path: How products are computed; the fastest of a short measurement when not given.
        hvp_columns: Vectors that are multiplied at once; likewise.
        batch_size: Samples that are differentiated at once; likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    entry: str = Field(default="", max_length=300)
    match: Literal["names", "order"] = "names"
    data: str
    split: Split = "test"
    curvature: Kind = "hessian"
    parameters: tuple[str, ...] = ()
    loss: str = Field(default="cross-entropy", max_length=100)
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    class_weights: str = Field(default="", max_length=100_000)
    ignore_index: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    weight_decay: float = Field(default=0, ge=0, lt=1e6)
    penalty: tuple[Annotated[str, Field(max_length=400)], ...] = Field(default=(), max_length=1000)
    subset: SubsetName = "balanced"
    samples: int | None = Field(default=500, ge=1)
    indices: str = ""
    k: int = Field(default=100, ge=1)
    method: str = Field(default="krylov", max_length=16)
    seed: int = Field(default=0, ge=0, lt=2**31)
    outer: int | None = Field(default=None, ge=1)
    inner: int | None = Field(default=None, ge=1)
    test_matrix: TestMatrixName = "ssrft"
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    error_tests: int = Field(default=10, ge=2, le=10_000)
    curves: tuple[Annotated[str, Field(max_length=64)], ...] = Field(default=(), max_length=100)
    initial: str = Field(default="", max_length=1000)
    previous: str = Field(default="", max_length=1000)
    masks: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(default=(), max_length=20)
    pruned: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(default=(), max_length=20)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    random_masks: int = Field(default=10, ge=2, le=1000)
    precision: Precision = "float32"
    hvp_path: PathName | None = None
    hvp_columns: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)

    @property
    def said_split(self) -> str:
        """The split that the data are said to be of. Files have none: of one, the default says nothing."""
        is_file = self.data.startswith(MARK) or _FILE.search(self.data) is not None
        return NO_SPLIT if is_file and self.split == "test" else self.split

    @model_validator(mode="before")
    @classmethod
    def _samples_belong_to_their_subset(cls, values: Any) -> Any:
        """Fill in what follows: N of listed indices, and that N of all samples is not known yet."""
        if not isinstance(values, dict):
            return values
        given = {name: values[name] for name in values if name not in ("samples", "subset", "indices")}
        indices = _indices(values.get("indices"))
        subset = values.get("subset") or ("indices" if indices else "balanced")
        samples = values.get("samples")
        if subset == "indices":
            if not indices:
                raise ValueError("the subset indices has none; list them, or choose another subset")
            if samples is not None and samples != len(indices):
                raise ValueError(f"N = {samples} is not the number of indices, {len(indices):,}; leave N out")
            return given | {"subset": subset, "samples": len(indices), "indices": ranges.text(indices)}
        if indices:
            raise ValueError(f"indices belong to the subset indices; leave them out for {subset}")
        if samples is None and subset != "all":
            return given | {"subset": subset}
        return given | {"subset": subset, "samples": samples}

    @field_validator("curves")
    @classmethod
    def _each_once(cls, curves: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(curves)))

    @field_validator("class_weights")
    @classmethod
    def _positive_weights(cls, text: str) -> str:
        return ",".join(f"{each:.17g}" for each in _weights(text))

    @field_validator("penalty")
    @classmethod
    def _patterns_with_numbers(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{pattern}={decay:.17g}" for pattern, decay in map(_decay, given))

    @field_validator("masks", "pruned")
    @classmethod
    def _with_their_names(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """Masks by their names, in alphabetical order; a file without a name is called like itself."""
        return tuple(sorted(f"{name}={file}" for name, file in map(named_file, given)))

    @model_validator(mode="after")
    def _masks_have_names_of_their_own(self) -> AnalysisSettings:
        names = [f"overlap-{name}" for name, _ in self.own_masks] + [*self.curves]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"{name.removeprefix('overlap-')} names two masks; give each another name, as NAME=FILE"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is usual of later settings, which earlier versions do not know."""
        written: dict[str, Any] = serialise(self)
        if self.subset == "balanced":
            written.pop("subset", None)
        if not self.indices:
            written.pop("indices", None)
        for name in ("curves", "initial", "previous", "masks", "pruned", "class_weights", "penalty", "entry"):
            if not getattr(self, name):
                written.pop(name, None)
        if self.ignore_index is None:
            written.pop("ignore_index", None)
        if self.learning_rate is None:
            written.pop("learning_rate", None)
        if self.match == "names":
            written.pop("match", None)
        return written

    @model_validator(mode="after")
    def _options_belong_to_their_method(self) -> AnalysisSettings:
        # A plug-in's method has no options; it need not be here for its settings to be read.
        own = methods.BUILT_IN[self.method].options if self.method in methods.BUILT_IN else frozenset()
        for name, subject in methods.OPTIONS.items():
            if name not in own and getattr(self, name) != type(self).model_fields[name].get_default():
                owners = [each.name for each in methods.BUILT_IN.values() if name in each.options]
                them = "them" if subject.endswith("belong") else "it"
                raise ValueError(f"{subject} to {' and '.join(owners)}; leave {them} out for {self.method}")
        if self.loss != "cross-entropy" and self.label_smoothing:
            raise ValueError(f"label smoothing belongs to cross-entropy; leave it out for {self.loss}")
        if self.loss != "cross-entropy" and self.ignore_index is not None:
            raise ValueError(f"an ignored label belongs to cross-entropy; leave it out for {self.loss}")
        if self.loss not in ("cross-entropy", "bce") and self.class_weights:
            raise ValueError(f"class weights belong to cross-entropy and bce; leave them out for {self.loss}")
        if self.penalty and self.method in methods.BUILT_IN and not methods.BUILT_IN[self.method].penalised:
            raise ValueError(
                "a penalty by parameter group gives the matrix full rank, of which a sketch finds no "
                f"eigenvectors; choose krylov or exact in place of {self.method}"
            )
        if self.hvp_path is None and (self.hvp_columns is not None or self.batch_size is not None):
            raise ValueError("hvp_columns and batch_size belong to a forced path; give hvp_path with them")
        return self

    @property
    def own_masks(self) -> list[tuple[str, str]]:
        """Name and file of the user's own masks and pruned checkpoints."""
        return [named_file(each) for each in (*self.masks, *self.pruned)]

    @property
    def files(self) -> dict[str, str]:
        """The files beside checkpoint and data that these settings name, each by what it is for:
        ``initial``, ``previous`` and ``mask:<name>``."""
        earlier = {setting: getattr(self, setting) for setting in EARLIER}
        masks = {f"mask:{name}": file for name, file in self.own_masks}
        return {name: file for name, file in earlier.items() if file} | masks

    def with_files(self, stored: Mapping[str, str]) -> AnalysisSettings:
        """These settings with other names of the files that ``stored`` has."""
        changes: dict[str, Any] = {
            setting: stored.get(getattr(self, setting), getattr(self, setting)) for setting in EARLIER
        }
        for setting in ("masks", "pruned"):
            given = map(named_file, getattr(self, setting))
            changes[setting] = tuple(sorted(f"{name}={stored.get(file, file)}" for name, file in given))
        return self.model_copy(update=changes)

    def among(self, steps: Mapping[int, str], step: int) -> AnalysisSettings:
        """These settings for the checkpoint at ``step`` of a model: ``initial`` and ``previous`` that say
        ``step`` are the first step and the one before this one. A curve that needs what is not there is left
        out.

        Args:
            steps: The hashes of the model's checkpoints, by their steps.
            step: Step of the checkpoint that is analysed.

        Example:
            >>> wanted = AnalysisSettings(
            ...     architecture="a", data="b", curves=["overlap-update"], previous=BY_STEP
            ... )
            >>> wanted.among({0: "f0", 100: "f1", 200: "f2"}, 200).previous
            'sha256:f1'
            >>> wanted.among({0: "f0", 100: "f1"}, 0).curves
            ()
        """
        earlier = sorted(each for each in steps if each < step)
        chosen = [setting for setting in EARLIER if getattr(self, setting) == BY_STEP]
        if earlier:
            ends = {"initial": earlier[0], "previous": earlier[-1]}
            return self.model_copy(update={each: f"sha256:{steps[ends[each]]}" for each in chosen})
        kept = [each for each in self.curves if OF_EARLIER.get(each) not in chosen]
        return self.model_copy(update={**dict.fromkeys(chosen, ""), "curves": tuple(kept)})

    @property
    def n_samples(self) -> int:
        """N.

        Raises:
            SettingsError: If it is that of all samples, and they have not been counted yet.
        """
        if self.samples is None:
            raise SettingsError(
                "N is the number of all samples, which is known when the data have been read."
            )
        return self.samples

    @property
    def weights(self) -> list[float]:
        """The class weights; empty where all are 1."""
        return _weights(self.class_weights)

    @property
    def decays(self) -> list[tuple[str, float]]:
        """Pattern and λ of each penalty of a parameter group."""
        return [_decay(each) for each in self.penalty]

    @property
    def listed(self) -> list[int]:
        """The samples of the subset ``indices``, ascending."""
        return ranges.parse(self.indices)

    def request(self, parameters: int, **more: Any) -> methods.Request:
        """Build the request to the method.

        Args:
            parameters: D.
            more: The fields of a ``Request`` that no setting decides.

        Raises:
            UnknownMethod: There is no such method.
        """
        options = {name: getattr(self, name) for name in methods.get(self.method).options}
        return methods.Request(
            self.k, parameters, self.samples, self.seed, options, itemsize=self.itemsize, **more
        )

    @property
    def itemsize(self) -> int:
        """Bytes of a weight, and of a number of a vector."""
        return 8 if self.precision == "float64" else 4

    @property
    def key(self) -> str:
        """Hexadecimal SHA-256 of the settings in canonical JSON.

        Settings at their default are left out, so that a setting which is added later does not make a new
        analysis of an old one.
        """
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()

    def check(self, parameters: int) -> None:
        """Raise ``SettingsError`` if these settings cannot work for a model of D = ``parameters``."""
        if self.k > parameters:
            raise SettingsError(
                f"k = {self.k:,} is more than the model's {parameters:,} parameters; choose k ≤ D."
            )
        method = methods.get(self.method)
        try:
            if method.check is not None:
                method.check(self.request(parameters))
        except ValueError as error:
            raise SettingsError(str(error)) from error


class TrainingSettings(BaseModel):
    """Everything that decides the weights of one training, apart from the machine.

    Attributes:
        problem: Name of the problem, whose recipe is followed.
        steps: Number of optimiser steps.
        record: The steps to record, in 0 … ``steps``; 0 is the initialisation. Kept sorted, each once.
        seed: Seed of the initialisation and the batches.
        batch: Samples in a batch; the recipe's when not given.
        learning_rate: Learning rate of SGD; the recipe's when not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str
    steps: int = Field(ge=0, lt=2**31)
    record: tuple[int, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    batch: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("record")
    @classmethod
    def _in_order(cls, record: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(record)))

    @model_validator(mode="after")
    def _record_lies_within_steps(self) -> TrainingSettings:
        if self.record[0] < 0 or self.record[-1] > self.steps:
            raise ValueError(
                f"the steps to record must lie between 0 and the {self.steps:,} steps of training"
            )
        return self

    @property
    def key(self) -> str:
        """Hex SHA-256 of the settings in canonical JSON, without those at their default."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()
