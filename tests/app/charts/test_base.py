from __future__ import annotations

from itertools import combinations

import altair as alt
import numpy as np
import pandas as pd
import pytest

from seigh.app import charts


def linear(color: str) -> np.ndarray:
    """A colour in linear sRGB."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def contrast(color: str, background: str) -> float:
    low, high = sorted((luminance(color), luminance(background)))
    return (high + 0.05) / (low + 0.05)


# Simulations of what people without one kind of cones see, on linear RGB (Machado et al. 2009, severity 1).
NO_CONES = {
    "none": np.eye(3),
    "red": [
        *([0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]),
    ],
    "green": [
        *([0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]),
    ],
    "blue": [
        *([1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]),
    ],
}


def cielab(linear: np.ndarray) -> np.ndarray:
    """CIELAB coordinates of a colour in linear sRGB, white D65."""
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.119192, 0.9503041],
    ]
    x = np.array(to_xyz) @ linear / np.array([0.95047, 1.0, 1.08883])
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(first: np.ndarray, second: np.ndarray) -> float:
    """Colour difference (Sharma et al. 2005, equations 2–22)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    h = (h1 + turn / 2) % 360
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 - 0.17 * np.cos(np.radians(h - 30)) + 0.24 * np.cos(np.radians(2 * h))
    t += 0.32 * np.cos(np.radians(3 * h + 6)) - 0.2 * np.cos(np.radians(4 * h - 63))
    parts = [
        (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2)),
        (c2 - c1) / (1 + 0.045 * c),
        2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c * t),
    ]
    rotation = np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    rotation *= -2 * np.sqrt(c**7 / (c**7 + 25**7))
    return float(np.sqrt(sum(part**2 for part in parts) + rotation * parts[1] * parts[2]))


def test_the_colour_difference_is_that_of_its_authors() -> None:
    """Pairs 1, 7 and 25 of their test data."""
    pairs = [
        ([50, 2.6772, -79.7751], [50, 0, -82.7485], 2.0425), ([50, 0, 0], [50, -1, 2], 2.3669),
        ([60.2574, -34.0099, 36.2677], [60.4626, -34.1751, 39.4387], 1.2644),
    ]  # fmt: skip
    for first, second, expected in pairs:
        assert ciede2000(np.array(first), np.array(second)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("cones", "of_colours", "of_both"), [("none", 10, 10), *((c, 4, 8) for c in ("red", "green", "blue"))]
)
def test_twenty_models_are_told_apart_by_colour_and_shape(
    cones: str, of_colours: float, of_both: float
) -> None:
    """All colours differ, and those that are alike without a kind of cones have points of different shape."""
    seen = np.clip([np.array(NO_CONES[cones]) @ linear(color) for color in charts.MODEL_COLORS], 0, 1)
    places = [cielab(each) for each in seen]
    shapes = [charts.COLOR_SHAPES[color] for color in charts.MODEL_COLORS]
    apart = {(a, b): ciede2000(places[a], places[b]) for a, b in combinations(range(len(places)), 2)}
    assert min(apart.values()) > of_colours
    assert min(value for (a, b), value in apart.items() if shapes[a] == shapes[b]) > of_both


def compared(*models: tuple[int, str], settings: tuple[str, ...] = ("",)) -> pd.DataFrame:
    """model_id, model and group of models, each with every one of these settings."""
    rows = [(number, name, name + setting) for number, name in models for setting in settings]
    return pd.DataFrame(rows, columns=["model_id", "model", "group"])


def test_no_two_groups_that_are_compared_have_the_same_colour() -> None:
    """Six apart, as many as twenty apart, settings of one model: whatever their numbers in the database."""
    for numbers in ([1, 7], [3, 23], range(1, 21), range(5, 100, 5), [1, 21, 41, 61, 2, 3]):
        colors = charts.group_colors(compared(*((number, f"m{number}") for number in numbers)))
        assert len(set(colors.values())) == len(colors) == len(numbers)
    colors = charts.group_colors(compared((7, "mlp"), (8, "conv"), settings=(" · N = 100", " · N = 500")))
    assert len({color for name, color in colors.items() if "N" in name}) == 4
    assert colors["mlp"] == colors["mlp · N = 100"]


def test_a_model_keeps_its_colour_as_others_come() -> None:
    first = charts.group_colors(compared((3, "mlp"), (4, "conv")))
    later = charts.group_colors(compared((1, "old"), (3, "mlp"), (4, "conv"), (9, "new")))
    assert first.items() <= later.items()
    assert first["mlp"] == charts.model_color(3)


@pytest.mark.parametrize(
    "names",
    [
        [f"cifar10-resnet18-seed{i}-lr0.1-batch128-augmented" for i in range(20)],
        [f"a-model-of-the-group-with-a-name-that-is-too-long-{end}" for end in ("a", "b", "ab", "")],
        [f"{start}-trained-on-the-whole-of-imagenet-for-90-epochs" for start in "abc"],
        ["x" * 300, "x" * 299 + "y", "short"],
        ["mlp · N = 100 · first-per-class", "mlp · N = 500 · first-per-class"],
        ["one", "two"],
    ],
)
def test_names_in_a_legend_differ_where_the_models_do(names: list[str]) -> None:
    short = charts.shortened(names)
    assert list(short) == names
    assert len(set(short.values())) == len(names)
    assert all(len(text) <= 18 + len(" (20)") for text in short.values())
    assert all(short[name] == name for name in names if len(name) <= 18)


@pytest.mark.parametrize("background", ["#ffffff", "#171614"])  # Streamlit's light and dark page
def test_colours_are_visible_in_both_themes(background: str) -> None:
    assert contrast(charts.NEUTRAL, background) > 3
    assert all(contrast(color, background) >= 2.99 for color in charts.MODEL_COLORS)


def test_titles_of_plug_ins_are_no_names_of_fields() -> None:
    """Vega takes dots and brackets of a field for a path, and fails at a lone quote."""
    values = pd.DataFrame({"the 'last' layer's a.b[0]": [0.5, 0.25], "named": ["x", "y"]}, index=[1, 2])
    chart = charts.base.reading(values.rename_axis("k"), alt.X("k:Q")).to_dict()
    told = {each["title"]: each["field"] for each in chart["encoding"]["tooltip"] if "title" in each}
    assert list(told) == ["the 'last' layer's a.b[0]", "named"]
    (rows,) = chart["datasets"].values()
    assert all(field.isidentifier() and field in rows[0] for field in told.values())
    assert [rows[0][field] for field in told.values()] == [0.5, "x"]
