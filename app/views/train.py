"""Train: one of the problems is trained as a job, and every checkpoint analysed as it is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from seigh.app import analysis_form as form
from seigh.app import identity
from seigh.app.common import counted, plain, settings
from seigh.app.costs import costs
from seigh.app.navigation import link
from seigh.core.errors import UserError
from seigh.core.names import Priority
from seigh.core.problems import architectures, data, training
from seigh.core.problems.data import DataError
from seigh.core.problems.training import Problem
from seigh.core.settings import AnalysisSettings
from seigh.tasks import submit


def page() -> None:
    st.title("Train")
    identity.current().check_work()
    report_last_training()
    with st.container(border=True):
        st.header("Problem", anchor=False)
        name, recipe, problems = choose_problem()
    with st.container(border=True):
        st.header("Training", anchor=False)
        plan, wrong = choose_plan(name, recipe)
        problems += wrong
        left, right = st.columns(2)
        with left:
            model = form.model_name("train")
        with right:
            user = form.user_name()
            priority = form.priority("train")
    with st.container(border=True):
        st.header("Analyses", anchor=False)
        chosen: list[AnalysisSettings] = []
        if st.toggle(
            "Analyse every checkpoint as it is recorded", key="train_analyse", persist_state="session"
        ):
            architecture = architectures.canonical(recipe.architecture)
            chosen, wrong = form.analysis_settings("train", architecture, None if problems else recipe.data)
            problems += wrong + costs(chosen, len(plan.get("record", ())), "train")
        else:
            st.caption("None: the checkpoints join the model, and can be analysed at any time.")
    problems = form.missing_names(model, user) + problems
    start(name, plan, chosen, problems, model=model, priority=priority)


def report_last_training() -> None:
    """What Start has done."""
    queued = st.session_state.pop("train_submission", None)
    if queued is None:
        return
    number, warning = queued
    st.success(f"Training {number} is queued.", icon=":material/check_circle:")
    if warning:
        st.warning(plain(warning), icon=":material/warning:")
    link("runs", "Watch it in Runs", icon=":material/list:")


def choose_problem() -> tuple[str, Problem, list[str]]:
    """A problem by name, its recipe, and whether its data are missing."""
    known = training.problems()
    name = str(st.selectbox("Problem", list(known), key="train_problem", persist_state="session"))
    recipe = known[name]
    st.markdown(
        f"**{plain(recipe.architecture)}** on **{plain(recipe.data)}**: plain SGD on the mean {recipe.loss}, "
        f"learning rate {recipe.learning_rate:.4g}, batches of {recipe.batch:,}, no schedule and no weight "
        "decay."
        + (f" {recipe.held_out:.0%} of the training split is held out." if recipe.held_out else "")
        + (" Images are augmented." if recipe.augment else "")
    )
    form.say_theta(recipe.architecture)
    try:
        about = data.describe(recipe.data, env=settings())
    except DataError as error:
        return name, recipe, [str(error)]
    form.say_data(about)
    return name, recipe, form.absent(about)


def choose_plan(name: str, recipe: Problem) -> tuple[dict[str, Any], list[str]]:
    """Steps, steps to record, seed and changes of the recipe, and what is wrong with them."""
    left, right = st.columns(2)
    with left:
        steps = int(
            st.number_input(
                "Steps", min_value=0, max_value=2**31 - 1, value=recipe.steps, key=f"train_steps_{name}",
                help="Optimiser steps.", persist_state="session",
            )
        )  # fmt: skip
        usual = ", ".join(map(str, recipe.record(steps)))
        record = str(
            st.text_input(
                "Record at steps", value=usual, max_chars=10_000, key=f"train_record_{name}_{steps}",
                help="A checkpoint is kept at each; step 0 is the initialisation.", persist_state="session",
            )
        )  # fmt: skip
    with right:
        seed = int(
            st.number_input(
                "Seed", min_value=0, max_value=2**31 - 1, value=0, key="train_training_seed",
                help="Seed of the initialisation and the batches.", persist_state="session",
            )
        )  # fmt: skip
        batch, learning_rate = st.columns(2)
        changes = {
            "batch": batch.number_input(
                "Batch", min_value=1, value=None, placeholder=f"{recipe.batch}", key=f"train_batch_{name}",
                help="Samples in a batch; the recipe's where nothing is given.", persist_state="session",
            ),
            "learning_rate": learning_rate.number_input(
                "Learning rate", min_value=1e-9, value=None, placeholder=f"{recipe.learning_rate:.4g}",
                format="%g", key=f"train_rate_{name}", help="Likewise.", persist_state="session",
            ),
        }  # fmt: skip
    plan = {"steps": steps, "seed": seed} | changes
    words = record.replace(",", " ").split()
    if not words or not all(word.isdecimal() and len(word) < 11 for word in words):
        return plan, ["Give the steps to record as numbers, separated by commas: 0, 100, 500."]
    numbers = sorted({int(word) for word in words})
    if numbers[-1] > steps:
        return plan, [f"Step {numbers[-1]:,} is to be recorded, but training ends at step {steps:,}."]
    return plan | {"record": numbers}, []


def start(
    name: str,
    plan: Mapping[str, Any],
    chosen: Sequence[AnalysisSettings],
    problems: Sequence[str],
    *,
    model: str,
    priority: Priority,
) -> None:
    """The button, and beside it why it cannot be pressed yet."""
    checkpoints = len(plan.get("record", ()))
    label = "Start"
    if not problems:
        label += f" training, {counted(checkpoints, 'checkpoint', 'checkpoints')}"
        if chosen:
            label += f", {counted(checkpoints * len(chosen), 'analysis', 'analyses')}"
    pressed = st.button(
        label, type="primary", icon=":material/play_arrow:", disabled=bool(problems), key="train_start"
    )
    if problems:
        st.warning("\n".join(f"- {plain(problem)}" for problem in dict.fromkeys(problems)))
    if not pressed:
        return
    try:
        with st.spinner("Checking everything once more and queueing …"):
            st.session_state["train_submission"] = submit.train(
                name,
                model,
                analyses=chosen,
                user=identity.current(),
                priority=priority,
                env=settings(),
                **plan,
            )
    except UserError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    st.rerun()
