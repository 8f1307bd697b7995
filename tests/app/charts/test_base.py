from __future__ import annotations

import numpy as np
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


def test_a_model_keeps_its_colour_and_the_first_six_differ() -> None:
    assert charts.model_color(3) == charts.model_color(3)
    assert len({charts.model_color(number) for number in range(1, 7)}) == 6


@pytest.mark.parametrize("background", ["#ffffff", "#171614"])  # Streamlit's light and dark page
def test_colours_are_visible_in_both_themes(background: str) -> None:
    assert contrast(charts.NEUTRAL, background) > 3
    assert all(contrast(color, background) > 2.2 for color in charts.MODEL_COLORS)
