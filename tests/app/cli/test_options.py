"""Options and settings of an analysis stand for each other."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from seigh.app.cli import options
from seigh.app.cli.options import Files, command_line, with_settings
from seigh.core.settings import AnalysisSettings


def parsed(words: list[str]) -> tuple[list[Path], AnalysisSettings]:
    """What a command with the options is called with."""
    called = []
    cli = typer.Typer(add_completion=False)

    @cli.command()
    @with_settings(lambda _, **options: AnalysisSettings(**options))
    def command(files: Files, settings: AnalysisSettings) -> None:
        called.append((files, settings))

    cli(words, standalone_mode=False)
    return called[0]


def test_every_setting_has_an_option() -> None:
    assert set(options._OPTIONS) == set(AnalysisSettings.model_fields)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"split": "train", "samples": 40, "k": 7, "seed": 3, "random_masks": 20, "error_tests": 5},
        {"method": "seigh", "outer": 9, "inner": 30, "test_matrix": "rademacher"},
        {
            "curvature": "ggn",
            "parameters": ("layer4.*", "*.bias"),
            "precision": "bfloat16",
            "tolerance": 1e-5,
        },
        {"label_smoothing": 0.1, "weight_decay": 5e-4},
        {"subset": "all"},
        {"subset": "random", "samples": 40},
        {"subset": "first-per-class"},
        {"architecture": "resnet18(num_classes=10)", "loss": "mse"},
        {"hvp_path": "linearize", "hvp_columns": 4, "batch_size": 10, "data": "my data/it's.npz"},
    ],
)
def test_the_command_line_of_settings_gives_them_back(changes: dict[str, Any]) -> None:
    settings = AnalysisSettings(**({"architecture": "tanh-mlp", "data": "digits"} | changes))
    line = command_line(settings, "a checkpoint.pt")
    program, command, *words = shlex.split(line)
    assert (program, command) == ("seigh", "analyze")
    assert parsed(words) == ([Path("a checkpoint.pt")], settings)
    assert line.count(" --") == 2 + sum(
        len(value) if isinstance(value, tuple) else 1
        for name, value in changes.items()
        if name not in ("data", "architecture")
    )  # nothing that is as it would be anyway
