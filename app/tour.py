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
        "largest magnitude: how sharply the loss curves in the direction of most curvature. **Overlap** "
        "compares two subspaces of k dimensions: the span of the top k eigenvectors, and the "
        "coordinates of the k weights of largest magnitude. It is 1 if they are equal, and k/D for k "
        "weights drawn at random; the **ratio to chance** is the overlap divided by k/D. Move k, and "
        "the numbers follow. The number after ± says how far a value may be off.",
    ),
    Stop(
        "Do the largest weights span the directions of most curvature?",
        "The chart compares the largest |θ| with **chance**, with **random masks**, and with the "
        "**best mask**, the k weights that have most of the eigenspace. Look at the distance from "
        "chance, and at how far the largest weights are from the best mask. In the shaded part, "
        "not every overlap is known to 1 %.",
    ),
    Stop(
        "How does the curvature fall off?",
        "Usually a few eigenvalues stand out, and a long tail follows; along eigenvectors of negative "
        "eigenvalues, the loss bends down. A residual says how accurately a pair solves Hv = λv: a pair is "
        "well resolved if its residual is far below its eigenvalue. The missed share is the share of the "
        "sum of all squared eigenvalues that the k pairs leave out.",
    ),
    Stop(
        "Where does it lie?",
        "The first chart shows in which layers the eigenspace, the mask and their overlap lie: look for "
        "a layer with much of one and little of another. The second chart shows the share of the "
        "eigenspace that a weight of a given magnitude has; by chance, it would be 1/D.",
    ),
    Stop(
        "Can one rely on it?",
        "Here you see how the result was computed: every setting, the command that computes the same numbers "
        "without a server, and under *Numerics* the checks of the matrix and of its products, with their "
        "limits.",
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
