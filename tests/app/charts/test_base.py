from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from seigh.app import charts


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(color: str, background: str) -> float:
    low, high = sorted((luminance(color), luminance(background)))
    return (high + 0.05) / (low + 0.05)


def oklab(color: str) -> np.ndarray:
    """Perceptual coordinates (Ottosson 2020)."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    mixed = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(mixed) @ np.cbrt(np.array(cones) @ linear)


def test_twenty_colours_stay_apart() -> None:
    places = [oklab(color) for color in (*charts.MODEL_COLORS, charts.NEUTRAL)]
    assert len(places) == 21
    assert min(np.linalg.norm(a - b) for a, b in combinations(places, 2)) > 0.07


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
