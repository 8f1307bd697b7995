"""Accuracy: what sketches of some sizes make of a matrix whose spectrum is known, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from seigh.app import figures
from seigh.app.common import asked_in_url, keep_in_url
from seigh.app.digits import with_error
from seigh.app.frame import show

if TYPE_CHECKING:
    from seigh.core.spectra.study import Kind

LARGEST_D = 600  # the whole table takes some seconds then
DRAWS = 4
BYTES = 4  # of a number in single precision

# Name in the address, label, first value, least and largest.
SIZES = {
    "d": ("D, size of the matrix", 300, 50, LARGEST_D),
    "r": ("R, leading eigenvalues", 10, 1, 100),
    "k": ("k, size of Vₖ", 20, 1, 200),
    "outer": ("n_O", 60, 1, LARGEST_D),
    "inner": ("n_I", 120, 1, LARGEST_D),
}


def page() -> None:
    from seigh.core.spectra.study import TAILS, Kind

    st.title("Accuracy")
    st.markdown(
        "How exact is a sketch? Turn its sizes and see its error, its products and its memory, on a matrix "
        "of which everything is known."
    )
    asked = asked_in_url("accuracy")
    if (wanted := asked.get("tail", [""])[0]) in TAILS:
        st.session_state["accuracy_tail"] = wanted
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.segmented_control(
            "The eigenvalues behind the leading ones",
            list(TAILS),
            default=None if "accuracy_tail" in st.session_state else next(iter(TAILS)),
            format_func=lambda each: TAILS[each].title,
            key="accuracy_tail",
            required=True,
            persist_state="session",
        )
        tail = TAILS[str(name)]
        key = f"accuracy_rate_{name}"
        given = _number(asked.get("rate", [""])[0]) if wanted == name else None
        first = st.session_state.get(key, tail.default) if given is None else given
        st.session_state[key] = min(max(first, tail.least), tail.most)
        rate = float(
            st.number_input(
                figures.capitalised(tail.rate),
                tail.least,
                tail.most,
                key=key,
                format="%g",
                step=tail.default / 2,
                persist_state="session",
                width=240,
            )
        )
        if "signs" in asked:
            st.session_state["accuracy_signs"] = asked["signs"][0] != "positive"
        signs = st.checkbox(
            "Both signs",
            value=st.session_state.get("accuracy_signs", True),
            key="accuracy_signs",
            persist_state="session",
            help="Every second eigenvalue is negative, as those of a Hessian may be.",
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        dimension = _size("d", asked, 0, LARGEST_D)
        rank = _size("r", asked, 1, dimension // 4)
        k = _size("k", asked, rank, dimension // 2)
        outer = _size("outer", asked, k, dimension // 2)
        inner = _size("inner", asked, outer, dimension)
    kind = Kind(dimension, rank, str(name), rate, signs)
    study = measured(kind, k, outer, inner)
    of = f"D = {dimension:,}, R = {rank:,} and the tail {tail.title}"
    numbers(study, kind, k, outer, inner)
    show(figures.sketches_by_sizes(study, outer, inner, of), "accuracy_sizes")
    show(figures.methods_by_products(study, outer, of), "accuracy_products")
    keep_in_url(
        "accuracy",
        {
            "tail": [str(name)],
            "rate": [f"{rate:g}"],
            "signs": ["both" if signs else "positive"],
            **{
                each: [str(value)]
                for each, value in zip(SIZES, (dimension, rank, k, outer, inner), strict=True)
            },
        },
    )


def numbers(study: pd.DataFrame, kind: Kind, k: int, outer: int, inner: int) -> None:
    """What the chosen sizes give and cost, beside the other methods at the same n_O."""
    chosen = study[(study["outer"] == outer) & ((study["inner"] == inner) | study["inner"].isna())]
    columns = {"seigh": outer, "ssvd": 2 * outer}
    facts = {
        "‖H − Ĥ‖ ÷ ‖H‖": _with_std(chosen, "error"),
        f"overlap with the true V, k = {k:,}": _with_std(chosen, "overlap"),
        "products with H": [f"{products:,.0f}" for products in chosen["products"]],
        "memory, in vectors of D numbers": [
            f"{columns[name]:,}" if name in columns else f"up to {products:,.0f}"
            for name, products in zip(chosen["method"], chosen["products"], strict=True)
        ],
    }
    # A column for each method: three of them have room on a telephone, and four facts have not.
    table = pd.DataFrame(facts, index=pd.Index(chosen["method"])).T.rename_axis(None, axis=1)
    st.markdown(
        f"**At n_O = {outer:,}, n_I = {inner:,}**, mean ± std over {DRAWS} draws; the least error of any "
        f"matrix of rank {outer:,} is {kind.best(outer):.3g}:"
    )
    with st.container(key="accuracy_numbers"):
        st.table(table.rename_axis("method").reset_index(), border="horizontal", hide_index=True)
    st.caption(
        f"For a network of 10 million parameters in single precision, "
        f"SEIGH's {outer:,} take {outer * BYTES * 10**7 / 2**30:,.2f} GiB."
    )


def _with_std(chosen: pd.DataFrame, name: str) -> list[str]:
    """Mean ± std; where they differ by orders of magnitude, the mean with the digits that one can use."""
    return [
        with_error(mean, std) if std > 1e-4 * mean else f"{mean:.4g} ± {std:.0e}"
        for mean, std in zip(chosen[name], chosen[f"{name}_std"], strict=True)
    ]


def _size(name: str, asked: dict[str, list[str]], least: int, most: int) -> int:
    label, first, smallest, largest = SIZES[name]
    key = f"accuracy_{name}"
    least, most = max(least, smallest), min(most, largest)
    wanted = _number(asked.get(name, [""])[0])
    chosen = st.session_state.get(key, first) if wanted is None else int(wanted)
    st.session_state[key] = min(max(chosen, least), most)
    return int(st.number_input(label, least, most, key=key, persist_state="session", width=150))


def _number(text: str) -> float | None:
    """A number in an address, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None


@st.cache_data(show_spinner="Measuring sketches …", max_entries=50)
def measured(kind: Kind, k: int, outer: int, inner: int) -> pd.DataFrame:
    """SEIGH for a table of sizes, and every method at the chosen n_O."""
    from seigh.core.spectra.study import grid, study  # brings torch, which other pages do not need

    sizes = grid(k, kind.dimension, outer, inner)
    wanted: list[tuple[str, int, int | None]] = [
        ("seigh", one, other) for one in sizes if 2 * one <= kind.dimension for other in sizes if one <= other
    ]
    wanted += [("ssvd", outer, other) for other in sizes if other >= outer]
    wanted += [("krylov", outer, None)]
    return pd.DataFrame(study(kind, wanted, k, draws=DRAWS))
