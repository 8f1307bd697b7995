"""Plug-ins as real packages: modules and metadata in a folder on the path, as an installer leaves them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from seigh.core.analysis import analyse
from seigh.core.problems import architectures, data, losses, plugins
from seigh.core.problems.recorder import Recorder
from seigh.core.settings import AnalysisSettings, SettingsError
from tests.plugging import forget, put_package

Install = Callable[[str, str], None]

OURS = """
import torch
from torch import nn

LIMIT = torch.zeros(3)


class Net(nn.Module):
    def __init__(self, width: int = 6, num_classes: int = 10, scale: float = 1.0):
        super().__init__()
        if width > 1000:
            raise MemoryError("far too wide")
        self.first = nn.Linear(256, width)
        self.second = nn.Linear(width, width)
        self.second.weight = nn.Parameter(torch.eye(width) * (1 + float(torch.zeros(1).item())))
        self.third = nn.Linear(width, width)
        self.third.weight = self.second.weight
        self.head = nn.Linear(width, num_classes)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x):
        x = torch.tanh(self.first(x.flatten(1)))
        return self.head(torch.tanh(self.third(torch.tanh(self.second(x)))))


class Squared(nn.Module):
    def forward(self, outputs, y):
        right = outputs.gather(1, y[:, None])[:, 0]
        return (outputs.exp().sum(1) - right).square().mean()


class Sum(Squared):
    def forward(self, outputs, y):
        return super().forward(outputs, y) * len(y)


def register(registry):
    registry.architecture("our-net", Net, takes=(1, 16, 16))
    registry.architecture("sized", lambda side: nn.Sequential(nn.Flatten(), nn.Linear(side * side, 10)),
                          options={"side": 16}, takes=lambda options: (1, options["side"], options["side"]))
    registry.loss("our-loss", Squared)
    registry.loss("our-sum", Sum)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package of one module, whose ``register`` is its entry point."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def package(name: str, source: str) -> None:
        put_package(site, name, source)

    yield package
    for module in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]
    monkeypatch.undo()
    forget()


def test_a_package_adds_architectures_with_options(install: Install) -> None:
    install("our_lab", OURS)
    assert [n for n in architectures.names() if n in ("resnet18", "our-net", "sized", "alexnet")] == [
        "resnet18",
        "our-net",
        "sized",
        "alexnet",
    ]
    described = architectures.describe("our-net(width=8)")
    # "Units in each hidden layer" is said of another network's width.
    assert described.options["width"].help == "The argument width of its constructor."
    assert (described.source, described.takes) == ("our_lab", (1, 16, 16))
    assert {name: option.default for name, option in described.options.items()} == {
        "width": 6,
        "num_classes": 10,
        "scale": 1.0,
    }
    assert architectures.describe("sized(side=8)").takes == (1, 8, 8)
    assert architectures.canonical("our-net( num_classes=10, width=8 )") == "our-net(width=8)"
    with pytest.raises(SettingsError, match=r"our-net\(width=2000\) cannot be built \(far too wide\)"):
        architectures.build("our-net(width=2000)")


NAMESAKE = """
from torch import nn
from seigh.core.problems.sources import Source

def net(*_):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))

def register(registry):
    registry.architecture("single-net", net, options={})
    registry.source(Source("our_lab", lambda: ["our_lab/net-5", "net-without-prefix"], net))
"""


def test_a_package_whose_source_has_its_name_keeps_its_single_architectures(install: Install) -> None:
    install("our_lab", NAMESAKE)
    assert {"single-net", "our_lab/net-5"} < set(architectures.names())
    assert "net-without-prefix" not in architectures.names()
    for name in ("single-net", "our_lab/net-5"):
        assert architectures.parameter_count(name) == 256 * 10 + 10


def test_tied_and_frozen_parameters_of_a_package_count_as_they_should(install: Install) -> None:
    install("our_lab", OURS)
    trainable = 256 * 8 + 8 + 8 * 8 + 8 + 8 + 8 * 10 + 10
    facts = architectures.theta_facts(architectures.build("our-net(width=8)"))
    assert facts == architectures.ThetaFacts(trainable + 6, trainable, 6, 64)
    assert architectures.parameter_count("our-net(width=8)") == trainable
    expected = architectures.expected_tensors("our-net(width=8)")
    assert expected["second.weight"] is expected["third.weight"]
    assert all(tensor.device.type == "meta" for tensor in expected.values())
    shapes = {name: tuple(t.shape) for name, t in expected.items()}
    assert architectures.fitting(shapes) == ["our-net(width=8)"]


def test_a_checkpoint_of_a_package_is_analysed_with_its_loss(install: Install, tmp_path: Path) -> None:
    install("our_lab", OURS)
    torch.manual_seed(0)
    model = architectures.build("our-net")
    path = Recorder(model, tmp_path, [0])(0)
    assert path is not None
    settings = AnalysisSettings(
        architecture="our-net",
        data="digits",
        samples=40,
        k=5,
        precision="float64",
        loss="our-loss",
        method="exact",
    )
    result = analyse(path, settings)

    subset = data.fitting_subset("digits", "test", 40, 0, model)
    model.double()
    outputs = model(subset.x.double())
    right = outputs[torch.arange(40), subset.y]
    value = ((outputs.exp().sum(1) - right) ** 2).mean()
    parameters = [p for p in model.parameters() if p.requires_grad]
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, create_graph=True)])
    unit = torch.eye(len(slope), dtype=torch.float64)
    rows = torch.autograd.grad(slope, parameters, unit, is_grads_batched=True)
    values = torch.linalg.eigvalsh(torch.cat([each.flatten(1) for each in rows], 1))
    largest = values[values.abs().argsort(descending=True)[:5]]
    torch.testing.assert_close(torch.tensor(result.eigenvalues), largest.detach(), rtol=1e-8, atol=0)
    assert result.record["subset_loss"] == pytest.approx(value.item())
    assert result.record["theta"] == {
        "total": len(slope) + 6,
        "trainable": len(slope),
        "frozen": 6,
        "tied": 36,
    }

    with pytest.raises(SettingsError, match="'our-sum' is no mean over its samples"):
        analyse(path, settings.model_copy(update={"loss": "our-sum"}))
    with pytest.raises(SettingsError, match="no loss 'hinge'; choose one of cross-entropy, mse, bce, "):
        analyse(path, settings.model_copy(update={"loss": "hinge"}))
    assert losses.names() == (*losses.BUILT_IN, "our-loss", "our-sum")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('cannot be imported')", "cannot be imported"),
        ("import a_module_that_is_missing", "a_module_that_is_missing"),
        ("def other(registry): pass", "register"),
        ("def register(registry): registry.loss('half', int); raise ValueError('midway')", "midway"),
        ("def register(registry): registry.loss('half', int); registry.loss('our-loss', int)", "already"),
        ("def register(registry): registry.loss('half', int); registry.loss('no name', int)", "no name"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_broken_package_is_logged_and_left_out_whole(
    install: Install, caplog: pytest.LogCaptureFixture, source: str, reason: str
) -> None:
    install("broken", source)
    install("a_good_one", OURS)
    with caplog.at_level(logging.ERROR):
        assert set(plugins.registry().losses) == {"our-loss", "our-sum"}
    assert len(caplog.records) == 1
    assert "The plug-in 'broken' (broken:register) is left out" in caplog.text
    assert reason in caplog.text
    assert plugins.registry() is plugins.registry()


@pytest.mark.parametrize("name", ["resnet18", "3c3d", "cross-entropy"])
def test_a_package_cannot_take_the_place_of_what_is_here(
    install: Install, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    source = "from torch import nn\ndef register(registry):\n"
    kind = "loss" if name == "cross-entropy" else "architecture"
    install("bold", f"{source}    registry.{kind}('{name}', nn.Identity)")
    with caplog.at_level(logging.ERROR):
        assert not plugins.registry().architectures
        assert not plugins.registry().losses
    assert f"'{name}' is here already" in caplog.text
