"""What cannot work is refused with its true cause, on every way in; what is odd and right gives numbers."""

# ruff: noqa: F811 — pytest hands the fixture over by its name
from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import seigh
from seigh.app import cli
from seigh.core.analysis import analyse
from seigh.core.errors import UserError
from seigh.core.problems import imported
from seigh.core.problems.graphs import files
from seigh.core.problems.graphs.network import ExportedNetwork
from seigh.core.settings import AnalysisSettings, Settings
from tests.core.problems.test_plugins import Install, install  # noqa: F401

SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].cos()


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return slope.clamp(-1e-3, 1e-3)


class Net(nn.Module):
    """Two layers; a subclass says what is between."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def between(self, h):
        return torch.tanh(h)

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def between(function, **own):
    return type("Between", (Net,), {"between": lambda self, h: function(h), **own})


def no_grad(h):
    with torch.no_grad():
        return torch.tanh(h)


def straight_through(h):
    return h + (h.round() - h).detach()


DETACHED = between(lambda h: torch.tanh(h) * h.detach())
CUT_OFF = between(no_grad)
STRAIGHT = between(straight_through)
ONCE = between(Once.apply)
CLIPPED = between(Clipped.apply)
DROPPED = between(lambda h: F.dropout(torch.tanh(h), 0.3))
FAINT_NOISE = between(lambda h: torch.tanh(h) + 1e-9 * torch.randn_like(h))
HALF = between(lambda h: torch.tanh(h.half()).to(h.dtype))
HARD = between(F.hardsigmoid)
BATCH_STATISTICS = between(lambda h: F.batch_norm(h, None, None, training=True))
REENTRANT = between(lambda h: torch.utils.checkpoint.checkpoint(torch.tanh, h, use_reentrant=True))
NUMBER = between(lambda h: torch.tanh(h) * float(h.square().mean()))


class Flash(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.o = nn.Linear(2, 6), nn.Linear(2, 3)

    def forward(self, x):
        q, k, v = self.q(x.view(len(x), 3, 2)).chunk(3, -1)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return self.o(mixed[:, 0].mean(1))


class NormStaysOn(Net):
    def __init__(self):
        super().__init__()
        self.n = nn.BatchNorm1d(5)

    def between(self, h):
        self.n.train()
        return torch.tanh(self.n(h))


class Average(Net):
    mean = 0.0

    def between(self, h):
        self.mean = 0.9 * self.mean + 0.1 * float(h.detach().mean())
        return torch.tanh(h - self.mean)


class ChangesInputs(Net):
    def forward(self, x):
        x.mul_(0.9)
        return super().forward(x)


class NothingTaught(Net):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class FeaturesFirst(Net):
    def forward(self, x):
        h = self.a(x)
        return h, self.b(torch.tanh(h))


class Nothing(Net):
    def forward(self, x):
        return None


class Complex(Net):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 5, dtype=torch.cfloat))

    def between(self, h):
        return (h.to(self.w.dtype) @ self.w).abs()


class Zero(Net):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.a.weight)
        nn.init.zeros_(self.a.bias)


class NormOfZero(Zero):
    def between(self, h):
        return h / (h.norm(dim=1, keepdim=True) + 1e-6)


class UnitOfZero(Zero):
    def between(self, h):
        return F.normalize(h, dim=1)


class Words(nn.Module):
    ids = True

    def __init__(self, **options):
        super().__init__()
        self.e, self.o = nn.Embedding(7, 3, **options), nn.Linear(3, 3)

    def forward(self, x):
        return self.o(torch.tanh(self.e(x)).mean(1))


class ShortWords(Words):
    def __init__(self):
        super().__init__(max_norm=0.5)


class PaddedWords(Words):
    def __init__(self):
        super().__init__(padding_idx=0)


class SparseWords(Words):
    def __init__(self):
        super().__init__(sparse=True)


class Bags(nn.Module):
    ids = True

    def __init__(self):
        super().__init__()
        self.e, self.o = nn.EmbeddingBag(7, 3, sparse=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.o(torch.tanh(self.e(x)))


class BagsByOffsets(Bags):
    def forward(self, x):
        return self.o(torch.tanh(self.e(x.flatten(), torch.arange(0, x.numel(), x.shape[1]))))


# What is odd, and right.
IN_PLACE = between(lambda h: (h * 1.0).mul_(2).tanh_())
ROUNDED = between(lambda h: torch.tanh(h) + h.round())
COMPILED = between(torch.compile(torch.tanh, backend="aot_eager"))
NOT_A_NUMBER_UNUSED = between(lambda h: torch.where(h > 9, h.log(), torch.tanh(h)))


class Scaled(Net):
    """With a parameter of a single number, as CLIP has."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3))

    def between(self, h):
        return torch.tanh(h * self.scale)


class HardModule(Net):
    def __init__(self):
        super().__init__()
        self.h = nn.Hardsigmoid()

    def between(self, h):
        return self.h(h)


class Distances(Net):
    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.randn(5, 5))

    def between(self, h):
        return -torch.cdist(h, self.c)


class Rotated(Net):
    """With a complex buffer, as rotary embeddings have."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(3), torch.arange(3.0)), persistent=False)

    def forward(self, x):
        pairs = torch.view_as_complex(x.view(len(x), 3, 2).contiguous())
        return super().forward(torch.view_as_real(pairs * self.turns).flatten(1))


class LateBranch(Net):
    """With a layer that only the last samples reach."""

    def __init__(self):
        super().__init__()
        self.c = nn.Linear(6, 3)

    def forward(self, x):
        return torch.where(x[:, :1] > 2, self.c(x), super().forward(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.r, self.o = nn.LSTM(2, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, x):
        return self.o(self.r(x.view(len(x), 3, 2))[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.o(torch.tanh(F.linear(torch.tanh(self.a(x)), self.a.weight.T)))


NETWORKS = {name: each for name, each in globals().items() if isinstance(each, type)}


def register(registry):
    for name, each in NETWORKS.items():
        if issubclass(each, nn.Module):
            registry.architecture(name.lower().replace("_", "-"), each)
'''

REFUSED = {
    "DETACHED": r"not the derivative of its loss.*has detach\(\) at",
    "CUT_OFF": r"not the derivative of its loss.*torch.no_grad\(\)",
    "STRAIGHT": r"not the derivative of its loss.*has detach\(\) at",
    "NUMBER": r"mixes the samples of a batch|not the derivative",
    "CLIPPED": r"not the derivative of its loss.*the backward pass of Clipped",
    "ONCE": r"operation Once of this network has no second derivative in PyTorch; .* operations\.$",
    "BagsByOffsets": r"operation embedding_bag .*write it as F.embedding\(ids, weight\)",
    "Flash": r"operation scaled_dot_product_flash\w+ .*SDPBackend.MATH",
    "REENTRANT": "use_reentrant=False",
    "DROPPED": "is random in eval mode",
    "FAINT_NOISE": "is random in eval mode",
    "Average": "by what it keeps from one time to the next",
    "NormStaysOn": "mixes the samples of a batch",
    "BATCH_STATISTICS": "mixes the samples of a batch|BatchNorm that stays in training mode",
    "HALF": "computes in float16",
    "ChangesInputs": "changes its inputs in place",
    "ShortWords": "changes its weights .*max_norm",
    "PaddedWords": "not the derivative of its loss.*padding_idx of an embedding",
    "NothingTaught": r"does not depend on any of the chosen parameters.*torch.no_grad\(\)",
    "FeaturesFirst": "returns 2 tensors that may be the logits.* does not depend on b.weight",
    "Nothing": "holds no outputs",
    "Complex": "has complex numbers",
    "NormOfZero": "derivative of Div is not defined at these very weights",
    "UnitOfZero": "loss jumps by .* at these very weights",
}

RIGHT = (
    *("Net", "IN_PLACE", "ROUNDED", "HardModule", "COMPILED", "NOT_A_NUMBER_UNUSED", "Scaled", "Distances"),
    *("Rotated", "LateBranch", "Recurrent", "Tied", "HARD", "SparseWords", "Bags"),
)

# By ``seigh.export``, and then an analysis of the file's network. Own backward passes are no part of a file.
REFUSED_OF_FILES = {
    "DETACHED": r"not the derivative of its loss.*\(it has detach\(\)\)",
    "CUT_OFF": r"computes a part without gradients, as with torch.no_grad\(\)",
    "NUMBER": r"takes a number out of a tensor, odd_networks.py, line \d+ .*; keep it in a tensor",
    "CLIPPED": "another gradient than the module .*the backward pass of Clipped",
    "DROPPED": "has dropout in training mode, .*follow self.training",
    "BATCH_STATISTICS": "has BatchNorm in training mode, .*follow self.training",
    "HALF": "computes in float16",
    "ChangesInputs": r"changes its input in place .*x.clone\(\)",
    "ShortWords": "in its module e, which changes its weights, .* leave max_norm out",
    "PaddedWords": r"\(it has padding_idx of an embedding\)",
    "FeaturesFirst": "returns 2 tensors that may be the logits.* does not depend on b.weight",
    "Nothing": "returns no tensor",
    "Complex": "parameter w of the network is complex, .* as two tensors",
    "NormOfZero": "derivative of Div is not defined at these very weights",
    "UnitOfZero": "loss jumps by .* at these very weights",
}
RIGHT_OF_FILES = ("ONCE", "HARD", "SparseWords", "Flash", "COMPILED", "Distances", "Recurrent")

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
X[-1, 0] = 2.5  # the only one that reaches a late branch
IDS = torch.randint(0, 7, (24, 4), generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("cases")
    (folder / "odd_networks.py").write_text(SOURCE)
    for name, x in (("x", X), ("ids", IDS)):
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=Y.numpy())
    sys.path.insert(0, str(folder))
    yield importlib.import_module("odd_networks")
    sys.path.remove(str(folder))
    del sys.modules["odd_networks"]
    imported._sources.clear()


def built(cases: Any, name: str) -> nn.Module:
    torch.manual_seed(1)
    network: nn.Module = getattr(cases, name)()
    return network


def in_script(cases: Any, name: str, **_: Any) -> np.ndarray[Any, Any]:
    model = built(cases, name)
    x = IDS if hasattr(model, "ids") else X
    return seigh.analyse(model, F.cross_entropy, (x, Y), k=3).eigenvalues


def saved(cases: Any, name: str, folder: Path) -> tuple[Path, Path]:
    """A checkpoint and the file of its data."""
    model = built(cases, name)
    torch.save(model.state_dict(), folder / "step_1.pt")
    data = "ids.npz" if hasattr(model, "ids") else "x.npz"
    return folder / "step_1.pt", Path(cases.__file__).parent / data


def in_command(
    cases: Any,
    name: str,
    *,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    architecture: str = "",
    **_: Any,
) -> np.ndarray[Any, Any]:
    checkpoint, data = saved(cases, name, folder)
    written = folder / "found.json"
    words = ["analyze", str(checkpoint), "--architecture", architecture or f"odd_networks:{name}"]
    with contextlib.suppress(SystemExit):
        cli.main([*words, "--data", str(data), "--subset", "all", "--k", "3", "--json", str(written)])
    if not written.exists():
        said = capsys.readouterr().err
        assert "Traceback" not in said
        raise UserError(" ".join(said.split()))
    return np.array(json.loads(written.read_text())[0]["eigenvalues"])


def as_plugin(cases: Any, name: str, *, folder: Path, install: Install, **_: Any) -> np.ndarray[Any, Any]:
    install("odd_package", SOURCE)
    checkpoint, data = saved(cases, name, folder)
    architecture = name.lower().replace("_", "-")
    settings = AnalysisSettings(architecture=architecture, data=str(data), subset="all", samples=None, k=3)
    return analyse(checkpoint, settings, environment=Settings(home=folder)).eigenvalues


def of_file(cases: Any, name: str, *, folder: Path, **_: Any) -> np.ndarray[Any, Any]:
    model = built(cases, name)
    x = IDS if hasattr(model, "ids") else X
    seigh.export(model, x[:3].clone(), folder / "net.pt2")
    network = ExportedNetwork(files.read(folder / "net.pt2").program)
    network.load_state_dict(model.state_dict())
    return seigh.analyse(network, F.cross_entropy, (x, Y), k=3).eigenvalues


WAYS: dict[str, Callable[..., np.ndarray[Any, Any]]] = {
    "script": in_script,
    "command": in_command,
    "plugin": as_plugin,
    "file": of_file,
}


@pytest.mark.parametrize(
    ("name", "way", "sentence"),
    [
        *((name, "script", said) for name, said in REFUSED.items()),
        # What refuses is the same whichever way it is reached: each is taken on one of the two others.
        *((name, ("command", "plugin")[i % 2], said) for i, (name, said) in enumerate(REFUSED.items())),
        *((name, "file", said) for name, said in REFUSED_OF_FILES.items()),
    ],
)
def test_what_cannot_work_is_refused_with_its_cause(
    name: str,
    way: str,
    sentence: str,
    cases: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    install: Install,
) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        WAYS[way](cases, name, folder=tmp_path, capsys=capsys, install=install)
    assert "\n" not in str(refused.value)


def dense(model: nn.Module, x: Tensor) -> np.ndarray[Any, Any]:
    """Eigenvalues by |λ|, of differences of gradients in float64."""
    model = model.eval().double()
    if hasattr(model, "turns"):
        model.turns = model.turns.to(torch.complex128)
    x = x.double() if x.is_floating_point() else x
    parameters = list(model.parameters())
    theta = nn.utils.parameters_to_vector(parameters).detach()

    def gradient(at: Tensor) -> Tensor:
        with torch.no_grad():
            nn.utils.vector_to_parameters(at, parameters)
        with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
            found = torch.autograd.grad(F.cross_entropy(model(x), Y), parameters)
        return torch.cat([each.to_dense().flatten() for each in found])

    step = 1e-6 * torch.eye(len(theta), dtype=torch.float64)
    rows = [(gradient(theta + each) - gradient(theta - each)) / 2e-6 for each in step]
    matrix = torch.stack(rows)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).numpy()
    return values[np.argsort(-np.abs(values))]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "script") for name in RIGHT),
        *((name, "file") for name in RIGHT_OF_FILES),
        ("Rotated", "command"),
        ("Scaled", "plugin"),
    ],
)
def test_what_is_odd_and_right_gives_true_numbers(
    name: str, way: str, cases: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], install: Install
) -> None:
    found = WAYS[way](cases, name, folder=tmp_path, capsys=capsys, install=install)
    model = built(cases, name)
    truth = dense(model, IDS if hasattr(model, "ids") else X)
    np.testing.assert_allclose(found, truth[:3], atol=2e-5 * abs(truth[0]))


def test_rows_of_zeros_and_what_no_sample_reaches_are_said(cases: Any) -> None:
    class Dead(cases.Net):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            nn.init.constant_(self.a.bias, -100.0)

        def between(self, h: Tensor) -> Tensor:
            return F.relu(h)

    torch.manual_seed(0)
    found = seigh.analyse(Dead(), F.cross_entropy, (X, Y), k=2)
    rows = next(check for check in found.record["certificate"] if check["name"] == "rows")
    assert rows["value"] == 35 + 15
    assert "a.weight, a.bias" in rows["sentence"]
    assert "without_influence" not in found.record
    late = seigh.analyse(built(cases, "LateBranch"), F.cross_entropy, (X, Y), k=2)
    assert "without_influence" not in late.record


def test_weights_that_hold_no_numbers_are_refused(cases: Any) -> None:
    model = built(cases, "Net")
    model.spare = nn.Parameter(torch.tensor([1.0, torch.nan]))
    with pytest.raises(UserError, match="hold NaN or infinite values \\('spare'\\)"):
        seigh.analyse(model, F.cross_entropy, (X, Y), k=2)
