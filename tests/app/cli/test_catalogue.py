"""The commands that list what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seigh.app.cli import command as cli
from seigh.core.problems import architectures, data, training
from seigh.core.settings import Settings
from tests.core.problems.originals import write_mnist

Ask = Callable[..., str]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], home: Settings) -> Ask:
    """Runs a command that must work; answers what it prints."""

    def asked(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    return asked


def test_all_architectures_are_listed_a_line_each(ask: Ask) -> None:
    assert ask("architectures").splitlines() == list(architectures.names())


def test_architectures_are_found_by_a_part_of_their_name(ask: Ask) -> None:
    found = ask("architectures", "MobileNet_v3").splitlines()
    assert [name for name in found if not name.startswith("timm/")] == [
        "mobilenet_v3_large",
        "mobilenet_v3_small",
    ]


def test_of_one_architecture_all_is_told(ask: Ask) -> None:
    told = ask("architectures", "resnet18")
    assert "D = 11,689,512." in told
    assert "Samples: 3×224×224." in told
    assert "num_classes" in told
    told = ask("architectures", "tanh-mlp( width=8, num_classes=10)")
    assert told.startswith("tanh-mlp(width=8): ")
    assert f"D = {256 * 8 + 8 + 4 * (8 * 8 + 8) + 8 * 10 + 10:,}." in told


def test_what_has_no_part_in_theta_is_told(ask: Ask) -> None:
    # https://docs.pytorch.org/vision: 13,004,888 parameters, of which 6,379,984 are in the auxiliary heads.
    told = ask("architectures", "googlenet(aux_logits=true)")
    assert "D = 6,624,904; 6,379,984 that are frozen are left out." in told


def test_a_name_that_is_nowhere_gets_one_sentence(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["architectures", "lenet-5"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("Error: No architecture has 'lenet-5' in its name")


def test_data_sets_tell_whether_they_are_there_and_how_to_get_them(ask: Ask, home: Settings) -> None:
    told = ask("datasets")
    assert all(name in told for name in data.names())
    assert str(home.data_folder / "MNIST") in told
    assert "MNIST(" in told
    write_mnist(home.data_folder)
    told = ask("datasets")
    assert str(home.data_folder / "MNIST") not in told
    assert str(home.data_folder / "FashionMNIST") in told


def test_problems_tell_their_recipe_and_whether_their_data_are_there(ask: Ask, home: Settings) -> None:
    lines = {line.split()[0]: line.split() for line in ask("problems").splitlines()[1:]}
    assert lines.keys() == training.problems().keys()
    assert lines["mnist-mlp"][1:] == ["tanh-mlp", "mnist-16x16", "(missing)", "0.3", "500", "1,000", "100"]
    assert lines["digits-mlp"][1:] == ["tanh-mlp", "digits", "0.3", "500", "1,000", "100"]
    write_mnist(home.data_folder)
    assert "(missing)" not in ask("problems").split("mnist-mlp")[1].splitlines()[0]
