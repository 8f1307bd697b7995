"""The page Accuracy: a reader turns the sizes of a sketch, and the address restores them."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]


def values(app: AppTest) -> dict[str, float]:
    return {each.key.removeprefix("accuracy_"): each.value for each in app.number_input}


def facts(app: AppTest) -> pd.DataFrame:
    """The numbers of every method, by what they are."""
    return app.table[0].value.set_index("method")


def test_sizes_can_be_turned_and_the_address_has_them(open_page: Open) -> None:
    app = open_page("accuracy", d="100", r="5", k="8", outer="10", inner="20", tail="exponential", rate="0.2")
    assert not app.exception
    assert values(app) == {"rate_exponential": 0.2, "d": 100, "r": 5, "k": 8, "outer": 10, "inner": 20}
    table = facts(app)
    assert list(table.columns) == ["seigh", "ssvd", "krylov"]
    assert list(table.loc["products with H"])[:2] == ["20", "40"]
    for fact in ("‖H − Ĥ‖ ÷ ‖H‖", "overlap with the true V, k = 8"):
        # Krylov hardly varies: as many digits as one can use, and not all that its spread would allow.
        assert len(table.loc[fact, "krylov"].split()[0]) <= 8
    before = table.loc["‖H − Ĥ‖ ÷ ‖H‖", "seigh"]
    app.number_input(key="accuracy_inner").set_value(60).run()
    after = facts(app).loc["‖H − Ĥ‖ ÷ ‖H‖", "seigh"]
    assert float(after.split()[0]) < float(before.split()[0])
    assert app.query_params["inner"] == ["60"] or app.query_params["inner"] == "60"
    titles = {each.value for each in app.header}
    assert titles == {"SEIGH by its sizes", "Error per product, n\\_O = 10"}


def test_what_an_address_asks_for_is_brought_into_bounds(open_page: Open) -> None:
    app = open_page(
        "accuracy", d="70", k="9999", outer="3", inner="x", r="-5", rate="1e400", signs="positive"
    )
    assert not app.exception
    found = values(app)
    assert found["k"] == 35
    assert found["outer"] == 35
    assert 35 <= found["inner"] <= 70
    assert found["r"] == 1
    assert not app.checkbox(key="accuracy_signs").value
