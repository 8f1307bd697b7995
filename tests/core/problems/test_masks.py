"""A user's own masks as files: every format, what does not fit, and the way out to pruning tools and back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from seigh.core.problems import architectures, masks
from seigh.core.settings import AnalysisSettings, Settings

ARCHITECTURE = "tanh-mlp(inputs=6,width=4,depth=2,num_classes=3)"
SHAPES = architectures.theta_shapes(ARCHITECTURE)
SETTINGS = AnalysisSettings(architecture=ARCHITECTURE, data="random(1x2x3,classes=3)")
FLAT = torch.rand(sum(torch.Size(shape).numel() for shape in SHAPES.values()), dtype=torch.float64) + 0.1


def scores() -> dict[str, Tensor]:
    parts = FLAT.split([torch.Size(shape).numel() for shape in SHAPES.values()])
    return {name: part.view(shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def pruned_model(amount: float = 0.6) -> nn.Module:
    torch.manual_seed(0)
    model = architectures.build(ARCHITECTURE)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            prune.l1_unstructured(module, "weight", amount)
    return model


def zeros_and_ones(model: nn.Module, *, biases: bool) -> Tensor:
    """What is left of the weights; of biases, which are not pruned, all or nothing is said."""
    parts = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            parts += [module.weight_mask.flatten(), torch.full_like(module.bias, float(biases))]
    return torch.cat(parts).double()


def save(path: Path, tensors: dict[str, Any]) -> Path:
    match path.suffix:
        case ".npz":
            np.savez_compressed(path, **{name: each.numpy() for name, each in tensors.items()})
        case ".safetensors":
            save_file({name: each.contiguous() for name, each in tensors.items()}, path)
        case _:
            torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bool, torch.int32])
def test_scores_come_in_the_order_of_theta_whatever_the_format(
    tmp_path: Path, suffix: str, dtype: torch.dtype
) -> None:
    given = {name: (3 * each).to(dtype) for name, each in reversed(scores().items())}
    if dtype is torch.bool:
        given["linear1.weight"] = given["linear1.weight"] ^ True
    found = masks.read(save(tmp_path / f"mine{suffix}", given), SETTINGS)
    expected = torch.cat([given[name].flatten().double() for name in SHAPES])
    assert torch.equal(found.scores, expected)
    assert found.note == ""
    assert found.ones == (int(expected.sum()) if dtype is torch.bool else None)


def test_a_mask_of_theta_alone_and_missing_parameters_come_last(tmp_path: Path) -> None:
    chosen = AnalysisSettings(architecture=ARCHITECTURE, data="digits", parameters=("linear2.*",))
    found = masks.read(save(tmp_path / "all.pt", scores()), chosen)
    assert torch.equal(
        found.scores, torch.cat([scores()[f"linear2.{name}"].flatten() for name in ("weight", "bias")])
    )
    some = {name: each for name, each in scores().items() if "weight" in name}
    partial = masks.read(save(tmp_path / "some.npz", some), SETTINGS)
    assert int((partial.scores == 0).sum()) == sum(each.numel() for each in scores().values()) - sum(
        each.numel() for each in some.values()
    )
    assert partial.note.startswith("'some.npz' has no scores for 3 of 6 tensors (linear1.bias,")


@pytest.mark.parametrize("wrapped", [False, True])
def test_masks_of_torchs_pruning_and_the_non_zeros_of_what_it_leaves(tmp_path: Path, wrapped: bool) -> None:
    model = pruned_model()
    held = nn.DataParallel(model) if wrapped else model
    path = save(tmp_path / "hooked.pt", {"state_dict": held.state_dict(), "epoch": 3})
    truth = zeros_and_ones(model, biases=False)
    assert torch.equal(masks.read(path, SETTINGS).scores, truth)
    assert torch.equal(masks.read(path, SETTINGS, pruned=True).scores, truth)
    only = {name: each for name, each in model.state_dict().items() if name.endswith("_mask")}
    assert torch.equal(masks.read(save(tmp_path / "only.safetensors", only), SETTINGS).scores, truth)
    whole = zeros_and_ones(model, biases=True)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            prune.remove(module, "weight")
    path = save(tmp_path / "removed.pt", held.state_dict())
    found = masks.read(path, SETTINGS, pruned=True)
    assert torch.equal(found.scores, whole)
    assert found.ones == int(whole.sum())


def test_a_mask_goes_to_a_pruning_tool_and_comes_back(tmp_path: Path) -> None:
    coordinates = torch.randperm(len(FLAT))[:17].tolist()
    written = save(tmp_path / "mask.safetensors", masks.as_tensors(coordinates, SETTINGS))
    back = masks.read(written, SETTINGS)
    assert sorted(coordinates) == back.scores.nonzero().flatten().tolist()
    assert back.ones == 17
    model = architectures.build(ARCHITECTURE)
    for name, mask in load_file(written).items():
        module, _, parameter = name.rpartition(".")
        prune.custom_from_mask(model.get_submodule(module), parameter, mask)
        prune.remove(model.get_submodule(module), parameter)
    left = torch.cat([each.flatten() for each in dict(model.named_parameters()).values()])
    names = [*dict(model.named_parameters())]
    assert sorted(names) == sorted(SHAPES)
    kept = dict(model.named_parameters())
    flat = torch.cat([kept[name].flatten() for name in SHAPES])
    assert len(left) == len(flat)
    assert sorted(flat.nonzero().flatten().tolist()) == sorted(coordinates)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("/tmp/never-there-of-masks"),))  # type: ignore[return-value]


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a name": (
        "a.pt",
        lambda p: save(p, scores() | {"conv.weight": torch.ones(2)}),
        "has scores for 'conv.weight'",
    ),
    "a shape": (
        "a.npz",
        lambda p: save(p, scores() | {"linear1.bias": torch.ones(5)}),
        "'linear1.bias' in 'a.npz' is 5",
    ),
    "negative": ("a.pt", lambda p: save(p, {"linear1.bias": -torch.ones(4)}), "holds negative scores"),
    "constant": ("a.pt", lambda p: save(p, {n: torch.ones(s) for n, s in SHAPES.items()}), "the same score"),
    "NaN": (
        "a.npz",
        lambda p: save(p, {"linear1.bias": torch.full((4,), torch.nan)}),
        "holds NaN or infinite",
    ),
    "complex": ("a.npz", lambda p: save(p, {"linear1.bias": torch.ones(4) * 1j}), "is complex"),
    "text": ("a.npz", lambda p: np.savez(p, x=np.array(["a"])), "text, records or dates; save scores"),
    "objects": ("a.npz", lambda p: np.savez(p, x=np.array([{}], dtype=object)), "holds Python objects"),
    "code": ("a.pt", lambda p: p.write_bytes(pickle.dumps(Evil())), "contains more than tensors"),
    "damage": ("a.npz", lambda p: p.write_bytes(b"PK\x03\x04" + bytes(50)), "is damaged or incomplete"),
    "nothing": ("a.npz", lambda p: p.touch(), "is an empty file"),
    "no such format": ("a.txt", lambda p: p.write_text("1 0 1"), "does not end in"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_mask_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    name, write, sentence = BAD[case]
    write(tmp_path / name)
    with pytest.raises(masks.MaskError, match=sentence):
        masks.read(tmp_path / name, SETTINGS)
    assert not Path("/tmp/never-there-of-masks").exists()


def test_a_checkpoint_without_zeros_is_no_pruned_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", architectures.build(ARCHITECTURE).state_dict())
    with pytest.raises(masks.MaskError, match="has no zero among its parameters"):
        masks.read(path, SETTINGS, pruned=True)


def test_files_are_found_by_path_or_hash(tmp_path: Path) -> None:
    env = Settings(home=tmp_path)
    digest = "ab" * 32
    for file, sentence in (
        (str(tmp_path / "none.pt"), "There is no file"),
        ("sha256:xyz", "64 hexadecimal digits"),
        (f"sha256:{digest}", "is not in the artefact store"),
    ):
        with pytest.raises(masks.MaskError, match=sentence):
            masks.located(file, env)
    (env.artifact_folder / "masks").mkdir(parents=True)
    (env.artifact_folder / "masks" / f"{digest}.npz").write_bytes(b"other")
    with pytest.raises(masks.MaskError, match="is damaged in the artefact store"):
        masks.located(f"sha256:{digest}", env)
