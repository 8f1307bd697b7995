import doctest
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from seigh.core.curvature import CurvatureOperator
from seigh.core.problems import architectures, checkpoints, training, zoo
from seigh.core.settings import SettingsError


def shapes_of(spec: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in architectures.expected_tensors(spec).items()}


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


def test_timm_is_loaded_for_its_own_models_only() -> None:
    # What asks for timm is told, and does not wait for it: importing it takes seconds.
    script = """
import sys
from importlib.abc import MetaPathFinder

class Told(MetaPathFinder):
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "timm":
            print("timm is asked for", flush=True)
            sys.exit()

sys.meta_path.insert(0, Told())
from seigh.core.problems import architectures
architectures.build("tanh-mlp")
print("tanh-mlp is built", flush=True)
architectures.canonical("timm/resnet18")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["tanh-mlp is built", "timm is asked for"]


def test_chosen_parameters_are_counted_once_each() -> None:
    assert architectures.parameter_count("tanh-mlp", ["linear1.*", "*.weight"]) == 7030 - 5 * 20 - 10 + 20
    assert architectures.parameter_count("3c3d", ("dense3.bias",)) == 10
    with pytest.raises(SettingsError, match=r"No trainable parameter matches 'layer9.\*'"):
        architectures.parameter_count("tanh-mlp", ["linear1.*", "layer9.*"])


# One of each family, whose models share their code. Sizes of all, and their tensors, are in a test below.
FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vit_b_16",
    "vit_h_14",
    "wide_resnet50_2",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_classifiers_of_torchvision_have_their_published_sizes_and_give_one_tensor(name: str) -> None:
    weights = models.get_model_weights(name).DEFAULT
    crop = weights.transforms.keywords["crop_size"]
    size = crop[0] if isinstance(crop, list) else crop
    spec = name
    if name == "googlenet":  # published without its auxiliary heads
        spec = "googlenet(aux_logits=false)"
    elif name.startswith("vit"):  # some were published for larger images than the model is defined for
        spec = f"{name}(image_size={size})"
    described = architectures.describe(spec)
    assert described.source == ("paper" if name == "resnet18" else "torchvision")
    assert described.takes == (3, size, size)
    assert described.options["num_classes"].default == 1000

    skeleton = architectures._skeleton(architectures.canonical(spec))
    assert architectures.theta_facts(skeleton).total == weights.meta["num_params"]
    assert all(t.device.type == "meta" for t in (*skeleton.parameters(), *skeleton.buffers()))
    outputs = skeleton(torch.empty(2, *described.takes, device="meta"))
    assert isinstance(outputs, Tensor)
    assert outputs.shape == (2, 1000)


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "tanh-mlp(inputs=784)",
            "tanh-mlp(depth=2,inputs=10,num_classes=3,width=7)",
            "3c3d(num_classes=100)",
        ),
        *("3c3d(in_channels=1)", "all-cnn-c(in_channels=1,num_classes=10)", "resnet18(num_classes=10)"),
        *("resnet50(groups=2,num_classes=7)", "mobilenet_v3_small(num_classes=10,width_mult=0.5)"),
        *("vit_b_32(image_size=64,num_classes=10)", "googlenet(aux_logits=false,transform_input=true)"),
        *(
            "mobilenet_v2(num_classes=5,width_mult=1.4)",
            "densenet121(bn_size=2)",
            "regnet_y_400mf(stem_width=16)",
        ),
        *("maxvit_t(image_size=448)", "swin_t(mlp_ratio=2.0)", "inception_v3(aux_logits=false)"),
    ],
)
def test_a_model_with_options_is_the_one_that_its_library_makes(spec: str) -> None:
    assert architectures.canonical(spec) == spec
    torch.manual_seed(3)
    model = architectures.build(spec)
    assert not any(module.training for module in model.modules())
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == shapes_of(spec)
    takes = architectures.describe(spec).takes
    assert takes is not None
    outputs = model(torch.rand(1, *takes))
    assert outputs.ndim == 2
    assert torch.isfinite(outputs).all()


def test_options_reach_the_library() -> None:
    torch.manual_seed(0)
    ours = architectures.build("mobilenet_v2(num_classes=5,width_mult=1.4)").state_dict()
    torch.manual_seed(0)
    theirs = models.mobilenet_v2(num_classes=5, width_mult=1.4).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18(classes=10)", r"resnet18 has no option 'classes'; it has num_classes\."),
        ("resnet18(groups=2)", "resnet18 has no option 'groups'"),
        ("vit_b_16(patch_size=8)", "vit_b_16 has no option 'patch_size'; it has image_size, num_classes"),
        ("resnet50(dropout=0.5)", "no option 'dropout'"),
        ("resnet18(pretrained=true)", "no option 'pretrained'"),
        ("resnet18(weights=DEFAULT)", "no option 'weights'"),
        ("resnet18(num_classes=ten)", "num_classes is a whole number, not 'ten'"),
        ("resnet18(num_classes=1.5)", r"num_classes is a whole number, not '1\.5'"),
        ("resnet18(num_classes=true)", "num_classes is a whole number, not 'True'"),
        ("resnet18(num_classes=0)", "num_classes is 0; choose a positive number"),
        ("googlenet(aux_logits=1)", "aux_logits is true or false, not '1'"),
        ("tanh-mlp(depth=100000)", "too deep"),
        ("vit_b_16(image_size=65)", r"vit_b_16\(image_size=65\) cannot be built \(.*patch size"),
        ("resnet18(10)", "gives 10 without a name"),
        ("resnet18(num_classes=10", "is not understood"),
        ("fcn_resnet50", "no architecture 'fcn_resnet50'"),
        ("timm/no_such_model", "no architecture 'timm/no_such_model'"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_sentence(text: str, message: str) -> None:
    for ask in (architectures.canonical, architectures.parameter_count):
        with pytest.raises(SettingsError, match=message) as refused:
            ask(text)
        assert "\n" not in str(refused.value)


def test_options_at_their_default_are_left_out_and_the_rest_is_in_order() -> None:
    assert architectures.canonical(" vit_b_16( num_classes=10,image_size=224 )") == "vit_b_16(num_classes=10)"
    assert architectures.canonical("mobilenet_v2(width_mult=1)") == "mobilenet_v2"
    assert architectures.canonical("mobilenet_v2(width_mult=2)") == "mobilenet_v2(width_mult=2.0)"
    assert architectures.parameter_count("resnet18(num_classes=1000)") == 11_689_512


@pytest.mark.parametrize(
    "spec",
    [
        *("tanh-mlp", "tanh-mlp(depth=1,inputs=784,num_classes=3,width=8)", "tanh-mlp(inputs=784)"),
        *("3c3d(num_classes=100)", "all-cnn-c(in_channels=1,num_classes=10)", "resnet18(num_classes=10)"),
        *("wide_resnet50_2(num_classes=10)", "resnext50_32x4d", "vit_b_16(image_size=64,num_classes=10)"),
        *("mobilenet_v3_small(num_classes=10)", "mobilenet_v3_large(num_classes=3,width_mult=0.75)"),
        *(
            "googlenet(aux_logits=false,num_classes=10)",
            "inception_v3(num_classes=10)",
            "vgg11_bn(num_classes=10)",
        ),
        *("efficientnet_b1(num_classes=5)", "swin_t(num_classes=7)", "regnet_x_400mf(num_classes=10)"),
        *(
            "squeezenet1_1(num_classes=10)",
            "densenet121(num_classes=2)",
            "mobilenet_v2(num_classes=10,width_mult=1.4)",
        ),
    ],
)
def test_a_checkpoints_tensors_tell_the_architecture_and_its_options(spec: str) -> None:
    shapes = shapes_of(spec)
    assert architectures.fitting(shapes) == [spec]
    without = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    if len(without) < len(shapes) or spec == "tanh-mlp":
        assert architectures.fitting(dict(sorted(without.items()))) == [spec]


def test_every_classifier_of_torchvision_is_told_by_its_tensors() -> None:
    for name in zoo.torchvision_names():
        published = models.get_model_weights(name).DEFAULT.meta["num_params"]
        if name != "googlenet" and not name.startswith("vit"):  # published with other options
            assert architectures.theta_facts(architectures._skeleton(name)).total == published
        assert name in architectures._torchvision_candidates(shapes_of(name))
        assert architectures.infer(name, shapes_of(name)) == name


def test_tensors_of_no_architecture_fit_none() -> None:
    assert architectures.fitting({}) == []
    assert architectures.fitting({"encoder.weight": (3, 4)}) == []
    assert architectures.fitting(shapes_of("resnet18") | {"further": (2,)}) == []
    assert architectures.fitting(shapes_of("resnet18") | {"layer1.0.conv1.weight": (65, 64, 3, 3)}) == []
    assert architectures.fitting(shapes_of("tanh-mlp") | {"linear3.weight": (20, 20, 1)}) == []
    less = shapes_of("resnet18")
    del less["bn1.running_mean"]
    assert architectures.fitting(less) == []
    assert architectures.infer("vit_b_16", shapes_of("vit_b_32")) is None


@pytest.mark.parametrize(
    "spec", ["timm/vit_tiny_patch16_224(img_size=32,num_classes=10)", "timm/convnext_atto(in_chans=1)"]
)
def test_models_of_timm_are_built_and_told_by_their_tensors(spec: str) -> None:
    assert architectures.canonical(spec) == spec
    described = architectures.describe(spec)
    assert described.source == "timm"
    assert described.takes is not None
    torch.manual_seed(0)
    model = architectures.build(spec)
    assert model(torch.rand(2, *described.takes)).shape == (2, 10 if "num_classes" in spec else 1000)
    assert spec in architectures.fitting(shapes_of(spec))


def test_auxiliary_heads_are_frozen_because_nothing_depends_on_them() -> None:
    model = architectures.build("inception_v3")
    facts = architectures.theta_facts(model)
    assert facts.frozen == sum(p.numel() for n, p in model.named_parameters() if n.startswith("AuxLogits"))
    assert facts.trainable == facts.total - facts.frozen == architectures.parameter_count("inception_v3")
    outputs = model(torch.rand(1, 3, 96, 96))
    assert outputs.shape == (1, 1000)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert all(g is not None for g in torch.autograd.grad(outputs.sum(), trainable, allow_unused=True))


def test_a_mobilenet_has_the_same_outputs_and_second_derivatives_too() -> None:
    torch.manual_seed(0)
    model = architectures.build("mobilenet_v3_small(num_classes=10)").double()
    theirs = models.mobilenet_v3_small(num_classes=10).double().eval()
    theirs.load_state_dict(model.state_dict())
    x, y = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 7])
    torch.testing.assert_close(model(x), theirs(x))

    name = "features.1.block.1.fc1.weight"  # before its squeeze's Hardsigmoid
    weight, moved = model.get_parameter(name), theirs.get_parameter(name)
    direction = torch.randn_like(weight)
    operator = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y, parameters=[name])
    product = (operator @ direction.flatten()).view_as(weight)
    step, differences = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            moved.copy_(weight + sign * step * direction)
        loss = nn.functional.cross_entropy(theirs(x), y)
        differences.append(torch.autograd.grad(loss, moved)[0])
    expected = (differences[0] - differences[1]) / (2 * step)
    assert expected.norm() > 0
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-6 * float(expected.norm()))


def test_looking_at_architectures_leaves_the_random_state_alone() -> None:
    architectures._skeleton.cache_clear()
    before = torch.get_rng_state()
    for name in ("tanh-mlp", "resnet18", "vit_b_16", "googlenet", "swin_t"):
        architectures.parameter_count(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("module", [architectures, checkpoints.names, training])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
