"""A tour of one result: its parts one after the other, each with the question that it answers."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from seigh.app.navigation import link


@dataclass(frozen=True)
class Stop:
    """A part of the page Result.

    Attributes:
        question: That it answers.
        answer: What one is looking at, and what to look for; plain Markdown.
    """

    question: str
    answer: str


STOPS = (
    Stop(
        "What came out?",
        "Take the Hessian H of the loss, a D×D matrix, at these weights. **λ₁** is its eigenvalue of "
        "largest magnitude: how sharply the loss bends in the steepest direction. **Overlap** "
        "compares two subspaces of k dimensions: the one that the top k eigenvectors span, and the "
        "one of the k weights of largest magnitude. It is 1 where they are the same, and k/D for k "
        "weights drawn at random; the **ratio to chance** is how many times more it is. Move k, and "
        "the numbers follow. Behind ± stands how far each may be off.",
    ),
    Stop(
        "Do the largest weights span the directions of most curvature?",
        "The line of the largest |θ| stands beside three others: **chance**, **random masks**, and "
        "the **best mask**, the k weights that have most of the eigenspace. Look for the distance "
        "from chance, and for how much of the way to the best mask the largest weights go. A "
        "shaded end means that from that k on the error is more than 1 %.",
    ),
    Stop(
        "How does the curvature fall off?",
        "Mostly a few eigenvalues stand out, and a long tail follows; negative ones bend the loss down. "
        "Residuals say how exactly each pair solves Hv = λv: far below its eigenvalue, a pair is "
        "certain. The share that is missed says how much of the sum of all squared eigenvalues the k "
        "pairs leave out.",
    ),
    Stop(
        "Where does it lie?",
        "The first chart shows in which layers the eigenspace, the mask and their overlap have their "
        "parts: look for a layer with much of one and little of the other. The second shows how much "
        "of the eigenspace one weight has, by its magnitude; by chance it would be 1/D.",
    ),
    Stop(
        "Can one rely on it?",
        "Here is how it was made: every setting, the command that makes the same numbers without a server, "
        "and under *Numerics* the checks of the matrix and of its products, with the limit of each.",
    ),
)


def asked(found: dict[str, list[str]]) -> None:
    """Begin the tour where the address asks for it."""
    text = found.get("tour", [""])[0]
    if text.isdecimal() and 1 <= int(text[:3]) <= len(STOPS):
        st.session_state["result_tour"] = int(text)


def stop() -> int | None:
    """The stop that is shown, counted from 1; None while nobody is on the tour."""
    found: int | None = st.session_state.get("result_tour")
    return found


def offer() -> None:
    """The way onto the tour."""
    st.button(
        "What am I looking at?", icon=":material/tour:", type="tertiary", key="tour_begin", on_click=go,
        args=(1,), help="A tour of this page: each part by itself, explained.",
    )  # fmt: skip


def go(number: int | None) -> None:
    st.session_state["result_tour"] = number


def box(number: int) -> None:
    """What the shown part answers, and the way on."""
    here = STOPS[number - 1]
    with st.container(border=True, key="tour"):
        st.header(f"{number} of {len(STOPS)} · {here.question}", anchor=False)
        st.markdown(here.answer)
        with st.container(horizontal=True):
            st.button(
                "Back", icon=":material/arrow_back:", key="tour_back", disabled=number == 1, on_click=go,
                args=(number - 1,),
            )  # fmt: skip
            if number < len(STOPS):
                st.button(
                    "Next", icon=":material/arrow_forward:", type="primary", key="tour_next", on_click=go,
                    args=(number + 1,),
                )  # fmt: skip
            else:
                link(
                    "compare",
                    "On to Compare: how it changes over training",
                    icon=":material/stacked_line_chart:",
                )
            st.button("End the tour", icon=":material/close:", key="tour_end", on_click=go, args=(None,))
