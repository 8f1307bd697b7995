import doctest
import math

import pytest
import torch
from torch import Tensor, nn

from core.problems import architectures, checkpoints, training
from core.settings import SettingsError


@pytest.mark.parametrize(
    ("name", "parameters", "sample", "outputs"),
    [
        ("tanh-mlp", 7_030, (1, 16, 16), 10),
        ("3c3d", 895_210, (3, 32, 32), 10),
        ("all-cnn-c", 1_387_108, (3, 32, 32), 100),
        ("resnet18", 11_689_512, (3, 224, 224), 1000),
    ],
)
def test_architectures_have_the_papers_sizes(
    name: str, parameters: int, sample: tuple[int, ...], outputs: int
) -> None:
    model = architectures.build(name)
    assert architectures.parameter_count(name) == parameters
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert not model.training
    assert model(torch.rand(2, *sample)).shape == (2, outputs)
    expected = architectures.expected_tensors(name)
    assert {key: t.shape for key, t in model.state_dict().items()} == {
        key: t.shape for key, t in expected.items()
    }


def test_mlp_has_the_papers_tensor_names_in_order_and_tanh_between() -> None:
    model = architectures.build("tanh-mlp")
    names = [f"linear{layer}.{kind}" for layer in range(1, 7) for kind in ("weight", "bias")]
    assert [name for name, _ in model.named_parameters()] == names

    x = torch.rand(3, 1, 16, 16)
    out = x.flatten(1)
    state = model.state_dict()
    for layer in range(1, 7):
        out = out @ state[f"linear{layer}.weight"].T + state[f"linear{layer}.bias"]
        out = out.tanh() if layer < 6 else out
    torch.testing.assert_close(model(x), out)


def same_padding(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's "same" padding: as little as needed, the odd row below and the odd column right."""
    rows, columns = (
        max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in (x.shape[-2], x.shape[-1])
    )
    return nn.functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def test_3c3d_computes_what_deepobs_defines() -> None:
    model = architectures.build("3c3d")
    state = model.state_dict()
    x = torch.rand(2, 3, 32, 32)

    def block(x: Tensor, name: str) -> Tensor:
        out = nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"]).relu()
        return nn.functional.max_pool2d(same_padding(out, 3, 2), 3, 2)

    out = block(block(x, "conv1"), "conv2")
    out = block(same_padding(out, 3, 1), "conv3").flatten(1)
    for name in ("dense1", "dense2", "dense3"):
        out = nn.functional.linear(out, state[f"{name}.weight"], state[f"{name}.bias"])
        out = out if name == "dense3" else out.relu()
    torch.testing.assert_close(model(x), out)


def test_all_cnn_c_computes_what_deepobs_defines() -> None:
    model = architectures.build("all-cnn-c")
    state = model.state_dict()
    x = out = torch.rand(2, 3, 32, 32)
    for number in range(1, 10):
        weight, bias = state[f"conv{number}.weight"], state[f"conv{number}.bias"]
        stride = 2 if number in (3, 6) else 1
        out = out if number == 7 else same_padding(out, weight.shape[-1], stride)
        out = nn.functional.conv2d(out, weight, bias, stride=stride).relu()
    torch.testing.assert_close(model(x), out.mean(dim=(2, 3)))


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no architecture 'mlp'; choose one of tanh-mlp, 3c3d"):
        architectures.build("mlp")
    with pytest.raises(SettingsError):
        architectures.parameter_count("mlp")


def test_chosen_parameters_are_counted_once_each() -> None:
    assert architectures.parameter_count("tanh-mlp", ["linear1.*", "*.weight"]) == 7030 - 5 * 20 - 10 + 20
    assert architectures.parameter_count("3c3d", ("dense3.bias",)) == 10
    with pytest.raises(SettingsError, match=r"No trainable parameter matches 'layer9.\*'"):
        architectures.parameter_count("tanh-mlp", ["linear1.*", "layer9.*"])


@pytest.mark.parametrize("module", [architectures, checkpoints, training])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
