"""The parts of a form that asks for analyses, as New analysis and Train have them.

Every widget keeps its value while its page is left. ``page`` is the prefix of its keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import streamlit as st
from pydantic import ValidationError

from seigh.app import identity
from seigh.app.common import database, plain, settings, typed_name
from seigh.core import curves, methods
from seigh.core.lab import queries, store
from seigh.core.names import KINDS, NO_SPLIT, PATHS, PRIORITIES, SUBSETS, TEST_MATRICES, Priority, SubsetName
from seigh.core.problems import architectures, data, losses
from seigh.core.problems.data import DataError, Description
from seigh.core.settings import (
    PRECISIONS,
    SPLITS,
    AnalysisSettings,
    SettingsError,
    refusal,
)

CURVATURE_NOTES = {
    "hessian": "Matrix of all second derivatives of the loss.",
    "ggn": "Generalised Gauss–Newton matrix: the Hessian without the network's own second derivatives. If "
    "the loss is convex in the outputs, no eigenvalue is negative.",
}
SUBSET_NOTES: dict[SubsetName, str] = {
    "balanced": "N at random, equally many of each class",
    "all": "the whole split or file",
    "first-per-class": "the first of each class, as in the paper",
    "random": "any N, at random",
    "indices": "listed by number",
}
# What somebody can say of a data file.
SPLIT_WORDS = {"train": "training data", "test": "test data", NO_SPLIT: "neither: they have no split"}
LOSS_NOTES = {
    "cross-entropy": "Cross-entropy of the softmax",
    "mse": "Squared difference to the targets, or to the label's unit vector; mean over the outputs",
    "bce": "Binary cross-entropy of a sigmoid for each output; mean over the outputs",
    "next-token": "Cross-entropy of each token with the one after it, mean over the tokens",
    "token-cross-entropy": "Cross-entropy of each token with its own label, mean over the tokens",
}
# The paper's settings for the Hessian, its Table 1; SEIGH with n_I = 2·n_O, of the MLP as printed.
PRESETS: dict[str, dict[str, Any]] = {
    f"{name}: N = {samples:,}, n_O = {outer:,}": {
        "subset": "first-per-class",
        "samples": samples,
        "k": outer,
        "method": "seigh",
        "outer": outer,
        "inner": inner,
        "splits": splits,
    }
    for name, samples, outer, inner, splits in (
        ("MNIST MLP", 500, 355, 700, SPLITS),
        ("CIFAR-10 3c3d", 500, 1000, 2000, SPLITS),
        ("CIFAR-100 All-CNN-C", 1000, 1000, 2000, SPLITS[-1:]),
        ("ImageNet ResNet-18", 5000, 1500, 3000, SPLITS[-1:]),
    )
}
_KEPT: Any = {"persist_state": "session"}


def model_name(page: str) -> str:
    """The name of a model, new or known."""
    with database()() as s:
        known = queries.model_names(s)
    chosen = st.selectbox(
        "Model name",
        known,
        index=None,
        key=f"{page}_model",
        accept_new_options=True,
        placeholder="Type a new name, or choose a model to add to",
        help="The training run that these checkpoints belong to.",
        **_KEPT,
    )
    return str(chosen or "").strip()


def user_name() -> str:
    """Who submits; the same on all pages. Somebody who has signed in cannot choose."""
    if not identity.is_local():
        name = identity.current().name
        st.caption(f"Your runs are shown beside your name, {plain(name)}.")
        return name
    name = st.text_input(
        "Your name",
        value=typed_name(),
        max_chars=100,
        key="new_user",
        help="Shown beside your runs.",
        **_KEPT,
    )
    return str(name).strip()


PRIORITY_NOTES: dict[Priority, str] = {
    "high": "about a day before others",
    "normal": "short work first, a fair share for everybody",
    "low": "about a day behind others",
}


def priority(page: str) -> Priority:
    """How soon what is asked for is to be begun beside other work."""
    chosen: Priority = st.selectbox(
        "Priority",
        PRIORITIES,
        index=PRIORITIES.index("normal"),
        format_func=lambda name: f"{name} – {PRIORITY_NOTES[name]}",
        key=f"{page}_priority",
        help="Of work that waits, short pieces are begun first and everybody has their turn. What has waited "
        "for long comes before all that is new. Runs can change it as long as work waits.",
        **_KEPT,
    )
    return chosen


def missing_names(model: str, user: str) -> list[str]:
    """What is still to be filled in of the two above, or put right."""
    wrong = store.wrong_name(model) if model else "Give the model a name."
    return [each for each in (wrong, "" if user else "Enter your name.") if each]


def say_theta(architecture: str, patterns: Sequence[str] = ()) -> None:
    """D, and which numbers of the model are no part of it; wrong patterns are said beside Start."""
    with suppress(SettingsError):
        theta = architectures.expected_theta(architecture)
        words = f"D = {theta.trainable:,}: all {'trainable ' if theta.frozen else ''}parameters."
        if patterns:
            chosen = architectures.parameter_count(architecture, patterns)
            words = f"D = {chosen:,} of {theta.trainable:,} parameters."
        if theta.tied:
            words += f" {theta.tied:,} that are tied to others count once."
        if theta.frozen:
            words += f" {theta.frozen:,} that are frozen are left out."
        st.caption(words)


# --- Data -------------------------------------------------------------------------------------------------


def say_data(about: Description) -> None:
    """Describe a data set, and how to get its files where they are absent."""
    if about.missing:
        st.caption(plain(about.about))
        looked = ", ".join(f"`{path}`" for path in about.missing[:2])
        more = f" and {len(about.missing) - 2} more" if len(about.missing) > 2 else ""
        st.warning(f"Not there: {looked}{more}. {plain(about.how)}", icon=":material/folder_off:")
        return
    if about.synthetic:
        st.caption(
            f":orange-badge[synthetic] {plain(about.about)} Results on them are no findings, and are marked "
            "as synthetic wherever they appear."
        )
        return
    st.caption(plain(about.about) + (" Its files are there." if about.files else ""))


def absent(about: Description) -> list[str]:
    """Return the obstacle to Start where files are absent, which ``say_data`` explains."""
    return [f"Get the files of {about.name} first."] if about.missing else []


# The settings that decide whether data fit: which samples, and what the loss compares.
_OF_DATA = {"architecture", "data", "split", "subset", "samples", "seed", "indices"}
_OF_DATA |= {"loss", "class_weights", "ignore_index"}


@st.cache_data(max_entries=200, show_spinner="Checking the data …")
def drawn(asked: str) -> tuple[int, str | None]:
    """N, and why the subset cannot be drawn or fed to the architecture, if it cannot; of settings as JSON."""
    wanted = AnalysisSettings.model_validate_json(asked)
    try:
        _, index = data.fitting_index(
            *(wanted.data, wanted.split, wanted.samples, wanted.seed),
            architectures.build(wanted.architecture),
            subset=wanted.subset,
            indices=wanted.listed,
            env=settings(),
            settings=wanted,
        )
    except DataError as error:
        return 0, str(error)
    return len(index), None


# --- Settings ---------------------------------------------------------------------------------------------


def analysis_settings(
    page: str, architecture: str, dataset: str | None
) -> tuple[list[AnalysisSettings], list[str]]:
    """Settings for every chosen split of a data set, and what is wrong with them."""
    defaults = AnalysisSettings(architecture=architecture, data=dataset or "")
    _suit(page, architecture)
    choose_preset(page)
    left, right = st.columns(2)
    with left:
        splits = list(SPLITS[-1:])
        if dataset is None or data.has_splits(dataset):
            splits = st.pills(
                "Hessian on", SPLITS, selection_mode="multi", default=[defaults.split], key=f"{page}_splits",
                help="The split that the loss is taken on; an analysis for each.", **_KEPT,
            )  # fmt: skip
        subset, samples, indices = _subset(page)
        said = st.empty()
        k = st.number_input(
            "k, eigenpairs", min_value=1, value=defaults.k, key=f"{page}_k",
            help="The overlap is computed for every k from 1 to this one.", **_KEPT,
        )  # fmt: skip
        seed = st.number_input(
            "Seed", min_value=0, max_value=2**31 - 1, value=defaults.seed, key=f"{page}_seed",
            help="Seed of the subset and of all random vectors.", **_KEPT,
        )  # fmt: skip
    with right:
        method = st.radio(
            "Method", list(methods.available()), key=f"{page}_method",
            captions=[each.note for each in methods.available().values()], **_KEPT,
        )  # fmt: skip
        outer, inner = _sketch_sizes(page) if "outer" in methods.get(method).options else (None, None)
    more = _advanced(page, architecture)
    if dataset is None:
        return [], []
    if not splits:
        return [], ["Choose at least one split."]
    same = {"subset": subset, "samples": samples, "indices": indices, "k": k, "seed": seed}
    same |= {"method": method, "outer": outer, "inner": inner}
    try:
        chosen = [
            AnalysisSettings(architecture=architecture, data=dataset, split=split, **same, **more)
            for split in splits
        ]
    except ValidationError as error:
        return [], [refusal(error)]
    found = [drawn(each.model_dump_json(include=_OF_DATA)) for each in chosen]
    if problems := list(dict.fromkeys(problem for _, problem in found if problem)):
        return [] if subset == "all" else chosen, problems
    complete = [
        each.model_copy(update={"samples": number}) for each, (number, _) in zip(chosen, found, strict=True)
    ]
    if subset == "all":
        whole = " of the {} split" if data.has_splits(dataset) else ""
        numbers = [f"{each.n_samples:,}{whole.format(each.split)}" for each in complete]
        said.caption(f"N: all {' and '.join(numbers)}.")
    elif subset == "indices":
        said.caption(f"N = {complete[0].n_samples:,}.")
    return complete, []


def _suit(page: str, architecture: str) -> None:
    """Choose the usual loss of another architecture, and samples that need no classes for one of tokens."""
    loss = architectures.usual_loss(architecture)
    if st.session_state.get(f"{page}_usual_loss", "cross-entropy") != loss:
        st.session_state[f"{page}_usual_loss"] = st.session_state[f"{page}_loss"] = loss
        st.session_state[f"{page}_subset"] = "balanced" if loss == "cross-entropy" else "random"


def _subset(page: str) -> tuple[SubsetName, int | None, str | None]:
    """Which samples, how many of them where that is to be chosen, and the list where they are listed."""
    subset: SubsetName = st.selectbox(
        "Samples", SUBSETS, key=f"{page}_subset", format_func=lambda name: f"{name} – {SUBSET_NOTES[name]}",
        help="The samples on which the Hessian is computed. balanced and first-per-class have equal "
        "numbers of each class; the others need not.", **_KEPT,
    )  # fmt: skip
    if subset == "all":
        return subset, None, None
    if subset == "indices":
        indices = st.text_area(
            "Indices", key=f"{page}_indices", placeholder="0-99, 105",
            help="Numbers of samples from 0 and ranges, with commas, blanks or new lines between them. "
            "The command line takes files.", **_KEPT,
        )  # fmt: skip
        return subset, None, str(indices or "")
    samples = st.number_input(
        "N, samples", min_value=1, value=AnalysisSettings.model_fields["samples"].get_default(),
        key=f"{page}_samples", help="Number of samples that the Hessian is taken on.", **_KEPT,
    )  # fmt: skip
    return subset, samples, None


def choose_preset(page: str) -> None:
    """The paper's settings by name, which fill in the fields below; another value there is no preset."""
    chosen = st.session_state.get(f"{page}_preset")
    if chosen and any(st.session_state.get(f"{page}_{name}") != value for name, value in _fields(chosen)):
        st.session_state[f"{page}_preset"] = None
    st.selectbox(
        "As in the paper",
        list(PRESETS),
        index=None,
        placeholder="Fill in a setting of the paper's Table 1",
        key=f"{page}_preset",
        on_change=_fill_in,
        args=(page,),
        help="SEIGH as published, n_I = 2·n_O. Change the method to krylov for smaller errors at the same k.",
        **_KEPT,
    )


def _fill_in(page: str) -> None:
    if chosen := st.session_state.get(f"{page}_preset"):
        for name, value in _fields(chosen):
            st.session_state[f"{page}_{name}"] = value


def _fields(preset: str) -> list[tuple[str, Any]]:
    """Return the fields that a preset fills, each with its value."""
    return [(name, list(value) if name == "splits" else value) for name, value in PRESETS[preset].items()]


def _sketch_sizes(page: str) -> tuple[int | None, int | None]:
    """n_O and n_I; None where they follow from k."""
    left, right = st.columns(2)
    outer = left.number_input(
        "n_O", min_value=1, value=None, placeholder="k", key=f"{page}_outer",
        help="Columns of the outer sketch.", **_KEPT,
    )  # fmt: skip
    inner = right.number_input(
        "n_I", min_value=1, value=None, placeholder="2 · n_O", key=f"{page}_inner",
        help="Size of the inner sketch.", **_KEPT,
    )  # fmt: skip
    return outer, inner


def _advanced(page: str, architecture: str) -> dict[str, Any]:
    """Settings that a first analysis can do without, at their defaults until somebody opens them."""
    with st.expander("Advanced", icon=":material/tune:"):
        left, right = st.columns(2)
        with left:
            curvature = st.radio(
                "Curvature", KINDS, captions=[CURVATURE_NOTES[name] for name in KINDS],
                key=f"{page}_curvature", **_KEPT,
            )  # fmt: skip
            patterns = st.text_input(
                "Parameters", key=f"{page}_parameters", placeholder="all of them", max_chars=1000,
                help="Names of the parameters that make up θ, with * for any characters, separated by "
                "commas: layer4.*, fc.weight.", **_KEPT,
            )  # fmt: skip
            parameters = tuple(pattern for each in patterns.split(",") if (pattern := each.strip()))
            say_theta(architecture, parameters)
            loss = _loss(page)
        with right:
            precision = st.selectbox(
                "Precision", PRECISIONS, key=f"{page}_precision",
                help="Of weights, vectors and products. tf32 and bfloat16 are float32 with coarser products, "
                "for GPUs; the residuals say what that costs.", **_KEPT,
            )  # fmt: skip
            tolerance = st.number_input(
                "Tolerance", min_value=1e-8, max_value=0.5, value=None, format="%.1e", step=1e-4,
                placeholder="until the overlap is resolved", key=f"{page}_tolerance",
                help="krylov goes on until every residual is at most this share of |λ₁|.", **_KEPT,
            )  # fmt: skip
            hvp_path = st.selectbox(
                "Path of the products", PATHS, index=None, placeholder="the fastest, by a measurement",
                key=f"{page}_hvp_path", help="How Hessian-vector products are computed.", **_KEPT,
            )  # fmt: skip
            chosen_curves = st.multiselect(
                "Observables", list(curves.available()), key=f"{page}_curves",
                format_func=lambda name: curves.available()[name].title,
                help="Curves over k, profiles and quantities, besides the overlap of the largest |θ|.",
                **_KEPT,
            )  # fmt: skip
            learning_rate = st.number_input(
                "Learning rate", min_value=1e-12, value=None, format="%.3e", step=1e-3,
                placeholder="the checkpoint's", key=f"{page}_learning_rate",
                help="Learning rate η of the training, for observables such as λ·η/2.", **_KEPT,
            )  # fmt: skip
            test_matrix = st.selectbox(
                "Test matrices", TEST_MATRICES, key=f"{page}_test_matrix",
                help="Random test matrices of seigh and ssvd; ssrft is the paper's.", **_KEPT,
            )  # fmt: skip
    return loss | {
        "curvature": curvature, "parameters": parameters, "precision": precision, "tolerance": tolerance,
        "hvp_path": hvp_path, "test_matrix": test_matrix, "curves": tuple(chosen_curves),
        "learning_rate": learning_rate,
    }  # fmt: skip


def _loss(page: str) -> dict[str, Any]:
    """The loss whose matrix is taken, and whether weight decay is in."""
    loss = st.selectbox(
        "Loss", losses.names(), key=f"{page}_loss",
        format_func=lambda name: f"{name} – {LOSS_NOTES.get(name, 'of a plug-in')}",
        help="A mean over the samples. Choose the loss of the training for its Hessian.", **_KEPT,
    )  # fmt: skip
    smoothing = 0.0
    if loss == "cross-entropy":
        smoothing = st.number_input(
            "Label smoothing", min_value=0.0, max_value=0.99, value=0.0, step=0.05, key=f"{page}_smoothing",
            help="Share of each target that is spread evenly over all classes.", **_KEPT,
        )  # fmt: skip
    weights, ignored = "", None
    if loss in ("cross-entropy", "bce"):
        weights = st.text_input(
            "Class weights", key=f"{page}_class_weights", placeholder="1 for all", max_chars=100_000,
            help="Weight of each class, separated by commas: 1,0.5,2. In bce, weight of each output's "
            "positive targets.", **_KEPT,
        )  # fmt: skip
    if loss == "cross-entropy":
        ignored = st.number_input(
            "Label without loss", value=None, step=1, placeholder="-100", key=f"{page}_ignore_index",
            help="Samples, pixels or positions with this label are left out of the mean.", **_KEPT,
        )  # fmt: skip
    decay = st.number_input(
        "Weight decay λ", min_value=0.0, max_value=1e5, value=0.0, step=1e-4, format="%g",
        key=f"{page}_decay", help="As in torch.optim.SGD: (λ/2)‖θ‖² is added to the loss.", **_KEPT,
    )  # fmt: skip
    groups = st.text_input(
        "Weight decay by parameter group", key=f"{page}_penalty", placeholder="the same for all",
        max_chars=1000, help="λ of parameters by name, separated by commas: *.bias=0, head.*=0.01.",
        **_KEPT,
    )  # fmt: skip
    penalty = tuple(part for each in groups.split(",") if (part := each.strip()))
    in_matrix = f"λ·I with λ = {decay:g} is added to the matrix, which shifts every eigenvalue."
    if penalty:
        in_matrix = "diag(λ), with the λ of each parameter's group, is added to the matrix."
    st.caption(
        f"Weight decay is included: {in_matrix}"
        if decay or penalty
        else "Weight decay is not included: the matrix belongs to the loss on the samples alone."
    )
    return {
        "loss": loss, "label_smoothing": smoothing, "class_weights": weights or "", "ignore_index": ignored,
        "weight_decay": decay, "penalty": penalty,
    }  # fmt: skip
