"""Networks go through a file and stay what they are: outputs, parameters, and their Hessian."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from seigh.core.analysis import analyse
from seigh.core.problems import architectures, checkpoints, graphs
from seigh.core.problems.graphs import files, trial
from seigh.core.problems.graphs.export import export
from seigh.core.problems.graphs.network import ExportedNetwork
from seigh.core.settings import AnalysisSettings, Settings
from tests.exported import AttentionCnn, exported


@pytest.fixture(autouse=True)
def _own(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without graphs, in a process that knows none."""
    monkeypatch.setattr(files, "_taken", {})


class TinyTransformer(nn.Module):
    """Of tokens: embeddings, a causal mask, tied output weights, a frozen position table."""

    def __init__(self, words: int = 13, width: int = 8, length: int = 6) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(length, width), requires_grad=False)
        self.norm = nn.LayerNorm(width)
        self.mixing = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, words, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places[: x.shape[1]]
        q, k, v = self.mixing(self.norm(h)).chunk(3, -1)
        h = h + functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        found: Tensor = self.out(functional.gelu(h))[:, -1]
        return found


class OwnRecurrent(nn.Module):
    """A recurrent network written out, whose state begins with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(3, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 5, dtype=x.dtype, device=x.device)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        found: Tensor = self.head(state)
        return found


class Masked(nn.Module):
    """Writes into a part of a tensor, and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = x * 1.5
        x[:, 0] = 0
        return {"features": x, "logits": self.head(x).tanh_()}


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETS: dict[str, tuple[Any, Tensor]] = {
    "attention-cnn": (AttentionCnn, torch.randn(3, 1, 16, 16)),
    "transformer": (TinyTransformer, torch.randint(0, 13, (3, 6))),
    "rnn": (OwnRecurrent, torch.randn(3, 4, 3)),
    "masked": (Masked, torch.randn(3, 6)),
    "torchvision-squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=3), IMAGES),
    "timm-vit": (lambda: timm.create_model("test_vit", num_classes=3, img_size=32), IMAGES),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, x = NETS[name]
    return make().eval(), x


@pytest.mark.parametrize("name", NETS)
def test_outputs_hessian_and_ggn_are_those_of_the_module(name: str, tmp_path: Path) -> None:
    net, x = made(name)
    found = export(net, x, tmp_path / "net.pt2")
    assert found.outputs <= 1e-10
    assert found.ggn <= 1e-8
    assert found.hessian is not None
    assert found.hessian <= 1e-8
    # And by this test's own derivatives, of the file as the lab reads it.
    program = files.read(tmp_path / "net.pt2").program
    rebuilt = ExportedNetwork(program).eval()
    rebuilt.load_state_dict(net.state_dict())
    rebuilt = copy.deepcopy(rebuilt)  # as the certificate of an analysis does
    assert [*dict(rebuilt.named_parameters())] == [*dict(net.named_parameters())]
    assert [p.requires_grad for p in rebuilt.parameters()] == [p.requires_grad for p in net.parameters()]
    assert [*rebuilt.state_dict()] == [*net.state_dict()]
    ours, theirs = (directional(each.double(), x) for each in (copy.deepcopy(net), rebuilt))
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-12)


def directional(net: nn.Module, x: Tensor) -> Tensor:
    """(∇L(θ + hv) − ∇L(θ − hv)) / 2h for a fixed v, L the mean of log-sum-exps of the outputs."""
    x = x.double() if x.is_floating_point() else x
    generator = torch.Generator().manual_seed(1)
    weights = [p for p in net.parameters() if p.requires_grad]
    vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]

    def gradient(step: float) -> Tensor:
        with torch.no_grad():
            for p, v in zip(weights, vector, strict=True):
                p += step * v
        outputs = net(x)
        outputs = outputs["logits"] if isinstance(outputs, dict) else outputs
        loss = outputs.flatten(1).logsumexp(1).mean()
        found = torch.cat([each.flatten() for each in torch.autograd.grad(loss, weights)])
        with torch.no_grad():
            for p, v in zip(weights, vector, strict=True):
                p -= step * v
        return found

    return (gradient(1e-4) - gradient(-1e-4)) / 2e-4


def dense(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The Hessian of the mean cross-entropy in float64: (D, D)."""
    net, x = net.double(), x.double()
    weights = list(net.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        loss = functional.cross_entropy(net(x), y)
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, weights, create_graph=True)])
    unit = torch.eye(len(gradient), dtype=torch.float64)
    columns = torch.autograd.grad(gradient, weights, unit, is_grads_batched=True)
    return torch.cat([each.flatten(1) for each in columns], 1)


def test_an_analysis_of_the_file_is_one_of_the_module(tmp_path: Path) -> None:
    net, x = made("attention-cnn")
    export(net, x, tmp_path / "net.pt2")
    torch.save({"state_dict": net.state_dict()}, tmp_path / "step_7.pt")
    settings = AnalysisSettings(
        architecture=str(tmp_path / "net.pt2"), data="digits", samples=20, k=4, precision="float64"
    )
    result = analyse(tmp_path / "step_7.pt", settings)
    assert result.settings.architecture.startswith("graph/net-")
    from seigh.core.problems import data

    subset = data.fitting_subset("digits", "test", 20, 0, net.float())
    values = torch.linalg.eigvalsh(dense(net, subset.x, subset.y))
    top = values[values.abs().argsort(descending=True)][:4]
    torch.testing.assert_close(torch.as_tensor(result.eigenvalues), top, rtol=1e-5, atol=0)


def test_a_file_of_torch_itself_works_and_is_tried(tmp_path: Path) -> None:
    net, x = made("attention-cnn")
    path = tmp_path / "My Net (2).pt2"
    path.write_bytes(exported(net, x))
    graph = graphs.take(path)
    assert graph.name.startswith("graph/my-net-2-")
    assert architectures.canonical(str(path)) == graph.name
    assert architectures.canonical(graph.name.replace("my-net-2", "another")) == graph.name
    about = architectures.describe(graph.name)
    assert (about.source, about.takes) == ("graph", (1, 16, 16))
    assert architectures.expected_theta(graph.name).trainable == sum(p.numel() for p in net.parameters())
    assert architectures.forward_operations(graph.name, (1, 16, 16)) > 1000
    torch.save(net.state_dict(), tmp_path / "a.pt")
    assert checkpoints.fitting_architectures(checkpoints.read(tmp_path / "a.pt")) == [graph.name]
    model = architectures.build(graph.name)
    checkpoints.load_into(model, checkpoints.read(tmp_path / "a.pt"))
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(x))


@pytest.mark.parametrize("number", [1, 3])
def test_a_fixed_number_of_samples_is_freed_where_views_tell(number: int) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(18, 4)
            self.start = nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.head(self.conv(x).view(x.shape[0], -1, 18))
            found: Tensor = torch.cat([self.start.expand(x.shape[0], -1, -1), x], 1).reshape(x.shape[0], 8)
            return found

    torch.manual_seed(0)
    net = Flat().eval()
    program = read_bytes(exported(net, torch.randn(number, 1, 5, 5), free=False))
    assert program.batch is None
    assert trial.refusal_of(program) is None
    rebuilt = ExportedNetwork(program).eval()
    rebuilt.load_state_dict(net.state_dict())
    x = torch.randn(5, 1, 5, 5)
    torch.testing.assert_close(rebuilt(x), net(x))


def read_bytes(content: bytes) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pt2"
        path.write_bytes(content)
        return files.read(path).program
