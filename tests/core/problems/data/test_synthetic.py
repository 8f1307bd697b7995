import pytest
import torch

from seigh.core.problems import architectures, data
from seigh.core.problems.data import DataError


def test_random_data_are_standard_normal_and_marked() -> None:
    loaded = data.load("random(3x8x8,classes=4)", "test")
    assert loaded.synthetic
    assert loaded.name == "random(3x8x8,classes=4)"
    assert loaded.shape == (3, 8, 8)
    assert torch.bincount(loaded.y).tolist() == [2500] * 4
    x = loaded.take(torch.arange(2000))
    assert x.dtype == torch.float32
    # Of 384,000 numbers: five standard errors of each moment.
    assert abs(x.mean()) < 5 / 384_000**0.5
    assert abs(x.var() - 1) < 5 * (2 / 384_000) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / 384_000) ** 0.5
    # No two samples have anything in common.
    correlations = (x.flatten(1) @ x.flatten(1).T / 192).fill_diagonal_(0)
    assert correlations.abs().max() < 7 / 192**0.5


def test_content_depends_on_spec_split_and_number_alone() -> None:
    index = torch.tensor([9_999, 5, 5, 17])
    first = data.load("random(2x3)", "test").take(index)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again = data.load(" random( 2x3, classes=10, seed=0 )", "test")
    assert again.name == "random(2x3)"
    assert torch.equal(again.take(index.flip(0)), first.flip(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    for other in (data.load("random(2x3,seed=1)", "test"), data.load("random(2x3)", "train")):
        assert not torch.equal(other.take(index), first)


def test_a_subset_of_random_data_is_marked_and_fits() -> None:
    model = architectures.build("3c3d")
    subset = data.fitting_subset("random(3x32x32)", "train", 20, 0, model)
    assert subset.synthetic
    assert torch.equal(subset.x, data.load("random(3x32x32)", "train").take(subset.index))
    with pytest.raises(DataError, match="has the label 19, but this architecture has 10 outputs"):
        data.fitting_subset("random(3x32x32,classes=20)", "train", 20, 0, model)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("random(3x32x32,classes=10)", "random(3x32x32)"),
        ("random( 3x32x32 , seed=2,classes = 7 )", "random(3x32x32,classes=7,seed=2)"),
        ("random(0256)", "random(256)"),
        ("digits", "digits"),
        ("my random(1).npz", "my random(1).npz"),
    ],
)
def test_there_is_one_way_to_write_a_spec(written: str, canonical: str) -> None:
    assert data.canonical(written) == canonical


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("random", "the shape of a sample is missing"),
        ("random()", "the shape of a sample is missing"),
        ("random(classes=3)", "the shape of a sample is missing"),
        ("random(axb)", "the shape of a sample is missing"),
        ("random(3x-2)", "the shape of a sample is missing"),
        ("random(3x3", "is not understood"),
        ("random(3x3,5)", "is not understood"),
        ("random(3x3,width=5)", "no option 'width'"),
        ("random(3x0)", "1 to 16,777,216 numbers"),
        ("random(99999x99999)", "1 to 16,777,216 numbers"),
        ("random(3,classes=0)", "classes must be from 1"),
        ("random(3,classes=20000)", "classes must be from 1 to 10,000"),
        ("random(3,classes=ten)", "classes must be from 1"),
        ("random(3,classes=true)", "classes must be from 1"),
        ("random(3,seed=-1)", "the seed must be a whole number"),
        ("random(3,seed=0.5)", "the seed must be a whole number"),
        ("random(3,seed=1,seed=2)", "gives seed twice"),
    ],
)
def test_other_specs_are_refused(name: str, reason: str) -> None:
    for use in (data.canonical, data.describe, lambda name: data.load(name, "test")):
        with pytest.raises(DataError, match=reason) as refused:
            use(name)
        assert "\n" not in str(refused.value)
