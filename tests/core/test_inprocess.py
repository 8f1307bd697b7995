"""Models in memory, with any loss and any data: the numbers of a double loop, and the refusals of a file."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import seigh
from seigh.core.errors import UserError
from seigh.core.problems import architectures
from seigh.core.problems.recorder import Recorder
from tests.core.curvature.problems import dense

WEIGHTS = torch.tensor([1.0, 0.5, 3.0])  # in float32, as people have them


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x)))


class Several(nn.Module):
    """Takes ids and numbers, and gives its logits among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.head = nn.Embedding(7, 4), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = torch.tanh(self.first(x) + self.embed(ids).mean(1))
        return {"logits": self.head(hidden if mask is None else hidden * mask), "hidden": hidden}


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(11, 5), torch.randint(0, 3, (11,))


def weighted(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, weight=WEIGHTS)


class Given(nn.Module):
    """A function as a module, for the dense truth."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.function(outputs, y)


def largest(matrix: Tensor, k: int) -> np.ndarray:
    values = torch.linalg.eigvalsh(matrix)
    return values[values.abs().argsort(descending=True)[:k]].numpy()


LOSSES: dict[str, tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = {
    "module": (nn.CrossEntropyLoss(label_smoothing=0.1), partial(F.cross_entropy, label_smoothing=0.1)),
    "weighted module": (
        nn.CrossEntropyLoss(weight=WEIGHTS),
        lambda f, y: F.cross_entropy(f, y, weight=WEIGHTS.double()),
    ),
    "function": (F.cross_entropy, F.cross_entropy),
    "closure": (weighted, lambda f, y: F.cross_entropy(f, y, weight=WEIGHTS.double())),
    "partial": (
        partial(F.cross_entropy, weight=WEIGHTS),
        lambda f, y: F.cross_entropy(f, y, weight=WEIGHTS.double()),
    ),
    "name": ("cross-entropy", F.cross_entropy),
    "own": (
        lambda f, y: (f.softmax(1) - F.one_hot(y, 3)).square().sum(1).mean(),
        lambda f, y: (f.softmax(1) - F.one_hot(y, 3)).square().sum(1).mean(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_gives_the_eigenvalues_of_the_dense_matrix(name: str, data: tuple[Tensor, Tensor]) -> None:
    loss, defined = LOSSES[name]
    x, y = data
    for kind in ("hessian", "ggn") if name in ("closure", "own") else ("hessian",):
        model = Net()
        result = seigh.analyse(model, loss, data, k=4, method="exact", precision="float64", curvature=kind)
        truth = dense(Net.double(model), Given(defined), x.double(), y, kind)
        np.testing.assert_allclose(result.eigenvalues, largest(truth, 4), rtol=1e-6, atol=1e-9)
        assert all(check["passed"] for check in result.record["certificate"])
        assert result.parameters == len(truth)
        assert result.record["data"]["samples"] == result.settings.samples == 11


class Items(Dataset[Any]):
    """A data set that decodes on demand, and counts what it has decoded."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors, self.decoded = tensors[:-1], 0
        self.targets = tensors[-1]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        self.decoded += 1
        return (*(each[index] for each in self.tensors), int(self.targets[index]))


def test_all_forms_of_data_give_the_same_numbers(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    model = Net()
    ask: dict[str, Any] = {"k": 3, "method": "exact", "precision": "float64"}
    expected = seigh.analyse(model, weighted, data, **ask)
    forms: list[Any] = [
        [x, y],
        (x.numpy(), y.numpy().astype(np.uint8)),
        {"x": x, "labels": y},
        TensorDataset(x, y),
        Items(x, y),
        DataLoader(TensorDataset(x, y), batch_size=4),  # the last batch has 3
        DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True),
        [(x[:5], y[:5]), (x[5:6], y[5:6]), (x[6:], y[6:])],
        ({"x": part, "labels": labels} for part, labels in zip(x.split(2), y.split(2), strict=True)),
    ]
    for form in forms:
        found = seigh.analyse(model, weighted, form, **ask)
        np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=1e-9)
        assert found.record["subset_loss"] == pytest.approx(expected.record["subset_loss"], rel=1e-12)
        if isinstance(form, TensorDataset | Items):
            assert found.data_sha256 == expected.data_sha256
    forced = seigh.analyse(model, weighted, data, **ask, hvp_path="double-backward", batch_size=4)
    np.testing.assert_allclose(forced.eigenvalues, expected.eigenvalues, rtol=1e-9)


@pytest.mark.parametrize("form", ["tuple", "longer tuple", "mapping", "batches"])
@pytest.mark.parametrize("method", ["exact", "krylov"])
def test_a_network_of_several_inputs_is_given_all_of_them(
    form: str, method: str, data: tuple[Tensor, Tensor]
) -> None:
    x, y = data
    ids, mask = torch.randint(0, 7, (11, 4)), (torch.rand(11, 4) > 0.3).float()
    model = Several()
    with_mask = form in ("mapping", "batches")
    given: Any = {
        "tuple": ((ids, x), y),
        "longer tuple": (ids, x, y),
        "mapping": {"ids": ids, "x": x, "mask": mask, "labels": y, "text": None},
        "batches": DataLoader(
            [{"ids": a, "x": b, "mask": c, "target": d} for a, b, c, d in zip(ids, x, mask, y, strict=True)],
            batch_size=3,
        ),
    }[form]
    more = {"hvp_path": "double-backward", "batch_size": 4} if method == "exact" else {}
    result = seigh.analyse(model, weighted, given, k=3, method=method, precision="float64", **more)

    class Whole(nn.Module):
        """One input for the dense truth."""

        def __init__(self) -> None:
            super().__init__()
            self.net = model.double()

        def forward(self, _: Tensor) -> Tensor:
            return self.net(ids, x.double(), mask.double() if with_mask else None)["logits"]

    defined = Given(lambda f, y: F.cross_entropy(f, y, weight=WEIGHTS.double()))
    truth = dense(Whole(), defined, x, y, "hessian")
    assert np.all(np.abs(result.eigenvalues - largest(truth, 3)) <= result.residuals + 1e-7)
    assert [row["name"] for row in result.layers][:2] == ["embed.weight", "first.weight"]


def test_integers_of_one_input_and_float_targets_stay_what_they_are(data: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Tanh(), nn.Linear(12, 2))
    ids, y = torch.randint(0, 7, (9, 4)), torch.randn(9, 2)
    result = seigh.analyse(model, nn.MSELoss(), (ids, y), k=3, method="exact", precision="float64")
    truth = dense(model.double(), nn.MSELoss(), ids, y.double(), "hessian")
    np.testing.assert_allclose(result.eigenvalues, largest(truth, 3), rtol=1e-7, atol=1e-10)
    assert result.record["subset_accuracy"] is None


def test_the_model_and_all_random_numbers_are_left_as_they_were(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3))
    F.cross_entropy(model(x), y).backward()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True, generator=torch.Generator())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradients = [p.grad for p in model.parameters()]
    values = [None if g is None else g.clone() for g in gradients]
    needed = [p.requires_grad for p in model.parameters()]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    rng = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    of_loader = loader.generator.get_state()
    with torch.no_grad(), torch.autocast("cpu"):
        result = seigh.analyse(model, F.cross_entropy, loader, k=3, method="exact", precision="float64")
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needed
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(a is b.grad for a, b in zip(gradients, model.parameters(), strict=True))
    assert all(a is None or torch.equal(a, b) for a, b in zip(values, gradients, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), rng[0])
    assert np.array_equal(np.random.get_state()[1], rng[1])
    assert random.getstate() == rng[2]
    assert torch.equal(loader.generator.get_state(), of_loader)
    assert "in training mode" in result.record["notes"][0]
    assert result.record["theta"]["frozen"] == 4
    assert result.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("loss", ["cross-entropy", "bce"])
def test_class_weights_of_an_analysis_in_float64_are_not_rounded(loss: str) -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.1, 0.7, 3.3], dtype=torch.float64)
    model, x = Net().double(), torch.randn(11, 5, dtype=torch.float64)
    y = torch.randint(0, 3, (11,)) if loss == "cross-entropy" else torch.randint(0, 2, (11, 3))
    options = {"k": 4, "method": "exact", "class_weights": "0.1,0.7,3.3"}
    found = seigh.analyse(model, loss, (x, y), **options)
    defined = {
        "cross-entropy": partial(F.cross_entropy, weight=weights),
        "bce": lambda f, y: F.binary_cross_entropy_with_logits(f, y.double(), pos_weight=weights),
    }
    truth = largest(dense(model, Given(defined[loss]), x, y, "hessian"), 4)
    assert (np.abs(found.eigenvalues - truth) <= found.residuals + 1e-14).all()


def test_data_in_float64_are_not_rounded_in_an_analysis_in_float64(tmp_path: Any) -> None:
    torch.manual_seed(0)
    name = "tanh-mlp(depth=1,inputs=9,num_classes=3,width=2)"
    model = architectures.build(name)
    path = Recorder(model, tmp_path, [0])(0)
    x = torch.rand(12, 1, 3, 3, dtype=torch.float64)
    for number, y in enumerate((torch.arange(12) % 3, torch.rand(12, 3, dtype=torch.float64))):
        loss = ("cross-entropy", "mse")[number]
        np.savez(tmp_path / f"{loss}.npz", x=x.numpy(), y=y.numpy())
        settings = seigh.AnalysisSettings(
            architecture=name, data=str(tmp_path / f"{loss}.npz"), loss=loss, subset="all", k=4,
            method="exact", precision="float64",
        )  # fmt: skip
        found = seigh.analyse(path, settings)
        defined = Given({"cross-entropy": F.cross_entropy, "mse": F.mse_loss}[loss])
        truth = largest(dense(copy.deepcopy(model).double(), defined, x, y, "hessian"), 4)
        assert (np.abs(found.eigenvalues - truth) <= found.residuals + 1e-14).all()
        single = settings.model_copy(update={"precision": "float32"})
        np.savez(tmp_path / "rounded.npz", x=x.float().numpy(), y=y.float().numpy() if number else y.numpy())
        rounded = single.model_copy(update={"data": str(tmp_path / "rounded.npz")})
        assert seigh.analyse(path, single).data_sha256 == seigh.analyse(path, rounded).data_sha256


def test_a_file_and_the_model_in_memory_give_the_same(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = architectures.build("tanh-mlp(depth=1,inputs=9,num_classes=3,width=2)")
    path = Recorder(model, tmp_path, [0])(0)
    x, y = torch.rand(12, 1, 3, 3), torch.arange(12) % 3
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
    settings = seigh.AnalysisSettings(
        architecture="tanh-mlp(depth=1,inputs=9,num_classes=3,width=2)",
        data=str(tmp_path / "d.npz"),
        samples=6,
        k=4,
        seed=3,
    )
    of_file = seigh.analyse(path, settings)
    of_model = seigh.analyse(model, "cross-entropy", (x, y), samples=6, subset="balanced", k=4, seed=3)
    np.testing.assert_allclose(of_model.eigenvalues, of_file.eigenvalues, rtol=1e-6)
    np.testing.assert_allclose(of_model.overlap, of_file.overlap, rtol=1e-5)
    assert of_model.data_sha256 == of_file.data_sha256
    assert of_model.record["data"]["indices"] == of_file.record["data"]["indices"]
    assert of_model.record.keys() == of_file.record.keys()
    assert [c["name"] for c in of_model.record["certificate"]] == [
        c["name"] for c in of_file.record["certificate"]
    ]


def test_samples_are_drawn_or_are_the_first_that_come(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    items = Items(x, y)
    ask: dict[str, Any] = {"k": 2, "method": "exact"}
    drawn = seigh.analyse(Net(), weighted, items, samples=5, seed=4, **ask)
    assert items.decoded == 5
    assert drawn.settings.subset == "random"
    again = seigh.analyse(Net(), weighted, data, samples=5, seed=4, **ask)
    assert again.record["data"]["indices"] == drawn.record["data"]["indices"]
    first = seigh.analyse(Net(), weighted, DataLoader(TensorDataset(x, y), batch_size=3), samples=5, **ask)
    assert first.record["data"]["indices"] == [0, 1, 2, 3, 4]
    listed = seigh.analyse(Net(), weighted, items, indices="2,7-9", **ask)
    assert listed.record["data"]["indices"] == [2, 7, 8, 9]
    even = seigh.analyse(Net(), weighted, items, samples=3, subset="balanced", **ask)
    assert sorted(y[even.record["data"]["indices"]].tolist()) == [0, 1, 2]


def test_what_the_loss_does_not_depend_on_is_counted(data: tuple[Tensor, Tensor]) -> None:
    model = Net()
    model.spare = nn.Linear(2, 2)
    result = seigh.analyse(model, weighted, data, k=2, method="exact", step=30, name="mine")
    assert result.record["without_influence"] == {"spare.weight": 4, "spare.bias": 2}
    assert float(result.eigenvectors[:, -6:].abs().max()) < 1e-6
    assert result.record["step"] == 30


# --- Refusals ---------------------------------------------------------------------------------------------


class Dropping(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        return self.head(hidden * hidden.detach())


class Lying(torch.autograd.Function):
    """x³ whose backward pass is right, and the backward of that is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return slope * 3 * x.detach() ** 2


class Liar(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(Lying.apply(self.first(x)))


def norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))


X, Y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


@pytest.mark.parametrize(
    ("model", "loss", "given", "said"),
    [
        (Dropping, F.cross_entropy, (X, Y), "is random in eval mode"),
        (
            norm,
            F.cross_entropy,
            (torch.cat([X] * 3), torch.cat([Y] * 3)),
            r"\(BatchNorm1d\) mixes the samples of a batch",
        ),
        (Detached, F.cross_entropy, (X, Y), "is not the derivative of its loss"),
        (Liar, F.cross_entropy, (X, Y), "path 'double-backward'|second derivative|are wrong"),
        (Net, nn.CrossEntropyLoss(reduction="sum"), (X, Y), "is no mean over its samples"),
        (Net, nn.CrossEntropyLoss(reduction="none"), (X, Y), "gives no single number"),
        (Net, lambda f, y: f.var(0).sum(), (X, Y), "looks at several samples together"),
        (Net, F.cross_entropy, (X, Y.float()), "does not take outputs of shape"),
        (Net, "cross-entropy", (X, Y.float()), "save the labels as integers"),
        (Net, "hinge", (X, Y), "no loss 'hinge'"),
        (Net, 3, (X, Y), "The loss is int; give a function"),
        (Net, F.cross_entropy, (X[:, :3], Y), r"Net fails on the first samples of inputs \(8, 3\)"),
        (Net, F.cross_entropy, (X, Y[:5]), "5 and 8 samples"),
        (Net, F.cross_entropy, (X * torch.nan, Y), "inputs hold NaN"),
        (Net, F.cross_entropy, (X[:0], Y[:0]), "no samples"),
        (Net, F.cross_entropy, X, "The data are Tensor|A batch is Tensor"),
        (Net, F.cross_entropy, {"x": X, "ids": Y}, "mapping of x, ids, without targets"),
        (Net, F.cross_entropy, [(X, Y), (X[:, :4], Y)], "samples of several shapes"),
        (Net, F.cross_entropy, (["a"] * 8, Y), "no numbers of one shape|real numbers|are list"),
        (Net, F.cross_entropy, None, "There are no data"),
        (lambda: Net().requires_grad_(False), F.cross_entropy, (X, Y), "no trainable parameter"),
        (lambda: Net().to("meta"), F.cross_entropy, (X, Y), "meta device"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), F.cross_entropy, (X, Y), "without a shape yet"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(
    model: Callable[[], nn.Module], loss: Any, given: Any, said: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=said) as refused:
        seigh.analyse(model(), loss, given, k=2)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 50}, "k = 50 is more than the model's 39 parameters"),
        ({"k": 2, "curvature": "fisher"}, "curvature: "),
        ({"k": 2, "architecture": "resnet18"}, "architecture is what is analysed here"),
        ({"k": 2, "parameters": ("none.*",)}, "No trainable parameter matches 'none"),
        ({"k": 2, "penalty": ("none.*=1",)}, "penalty of 'none"),
        ({"k": 2, "curves": ("none",)}, "no curve 'none'"),
        ({"k": 2, "samples": 90}, "The data has 8 samples, fewer than N = 90"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        seigh.analyse(Net(), F.cross_entropy, (X, Y), **options)


def test_too_many_samples_are_refused_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def batches() -> Any:
        nonlocal read
        while True:
            read += 1
            yield X, Y

    monkeypatch.setattr("seigh.core.inprocess.available_memory", lambda _: 10 * 10_000)
    with pytest.raises(UserError, match=r"tenth of this machine's free memory; choose fewer: samples=\d+"):
        seigh.analyse(Net(), F.cross_entropy, batches(), k=2)
    assert read < 60
