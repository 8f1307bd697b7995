import pytest
import torch

from seigh.core.problems import architectures, data
from seigh.core.problems.data import DataError, Dataset, Subset, subsets

OWN = ("tanh-mlp", "3c3d", "all-cnn-c", "resnet18")


def dataset(counts: list[int]) -> Dataset:
    """So many samples of each class, shuffled; every sample is a number of its own."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    return Dataset("some", torch.arange(len(y), dtype=torch.float32)[:, None], y)


# --- Subsets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3, 4, 9, 10, 14, 17])
def test_subsets_are_balanced_to_one_sample(samples: int) -> None:
    whole = dataset([6, 4, 9, 5])
    index = data.balanced_index(whole, samples, seed=1)
    counts = torch.bincount(whole.y[index], minlength=4)
    assert len(index) == samples
    assert counts.max() - counts.min() <= 1
    assert torch.equal(index, index.unique())  # no sample twice, in the data set's order


def test_subsets_depend_on_the_seed_alone_and_leave_the_random_state() -> None:
    whole = dataset([50, 50, 50])
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = data.balanced_index(whole, 30, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(data.balanced_index(whole, 30, seed=3), first)
    assert not torch.equal(data.balanced_index(whole, 30, seed=4), first)


@pytest.mark.parametrize(("counts", "largest"), [([6, 4, 9, 5], 19), ([4, 4], 8), ([1, 100], 3)])
def test_the_largest_possible_subset_is_said(counts: list[int], largest: int) -> None:
    whole = dataset(counts)
    assert len(data.balanced_index(whole, largest, seed=0)) == largest
    with pytest.raises(DataError, match=f"choose at most {largest}"):
        data.balanced_index(whole, largest + 1, seed=0)


# --- Other subsets ----------------------------------------------------------------------------------------

COUNTS = ([900, 90, 10], [6, 4, 9, 5], [4, 4], [1, 100], [7])


def without_classes(kind: str) -> Dataset:
    """Data whose targets are no classes, one for each sample or several."""
    targets = {"numbers": torch.linspace(-1, 1, 12), "tokens": torch.arange(36).reshape(12, 3)}
    return Dataset("some", torch.arange(12.0)[:, None], targets[kind])


@pytest.mark.parametrize("counts", COUNTS)
def test_all_samples_can_be_taken_whatever_their_classes(counts: list[int]) -> None:
    whole = dataset(counts)
    index = data.subset_index(whole, "all", None, seed=3)
    assert index.tolist() == list(range(sum(counts)))
    assert torch.equal(data.subset_index(whole, "all", sum(counts), seed=0), index)
    for wrong in (sum(counts) - 1, sum(counts) + 1):
        with pytest.raises(DataError, match=rf"has {sum(counts):,} samples, .* N = {wrong:,}"):
            data.subset_index(whole, "all", wrong, seed=0)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 8])
def test_the_papers_subsets_are_the_first_samples_of_each_class(counts: list[int], samples: int) -> None:
    whole = dataset(counts)
    least = min(counts)
    largest = least * len(counts) + sum(count > least for count in counts)
    if samples > largest:
        with pytest.raises(DataError, match=rf"choose at most {largest}, or the subset all or random"):
            data.first_index(whole, samples)
        return
    index = data.first_index(whole, samples)
    assert torch.equal(index, index.unique())
    assert len(index) == samples
    taken = torch.bincount(whole.y[index], minlength=len(counts))
    assert int(taken.max() - taken.min()) <= 1
    for label, number in enumerate(taken.tolist()):
        members = torch.nonzero(whole.y == label).flatten()
        assert torch.equal(index[whole.y[index] == label], members[:number])


def test_a_multiple_of_the_classes_takes_as_many_of_each() -> None:
    y = torch.tensor([0, 0, 0, 1, 2, 1, 0, 2, 2, 1])
    whole = Dataset("some", torch.arange(10.0)[:, None], y)
    assert data.first_index(whole, 6).tolist() == [0, 1, 3, 4, 5, 7]


@pytest.mark.parametrize("counts", COUNTS)
def test_random_samples_depend_on_the_seed_alone(counts: list[int]) -> None:
    whole, size = dataset(counts), sum(counts)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    index = data.random_index(whole, size - 1, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(index, index.unique())
    assert len(index) == size - 1
    assert torch.equal(data.random_index(whole, size - 1, seed=3), index)
    assert data.random_index(whole, size, seed=0).tolist() == list(range(size))
    with pytest.raises(
        DataError, match=rf"has {size:,} samples, fewer than .*choose at most {size:,}, or .* all"
    ):
        data.random_index(whole, size + 1, seed=0)


def test_random_samples_are_not_balanced() -> None:
    whole = dataset([900, 90, 10])
    counts = torch.bincount(whole.y[data.random_index(whole, 500, seed=0)], minlength=3)
    assert counts[0] > 400


def test_listed_samples_are_taken_as_they_are() -> None:
    whole = dataset([6, 4, 9, 5])
    assert data.subset_index(whole, "indices", 3, seed=0, indices=[23, 0, 7]).tolist() == [0, 7, 23]
    with pytest.raises(DataError, match=r"numbered 0 to 23, so there is no sample 24"):
        data.subset_index(whole, "indices", 2, seed=0, indices=[3, 24])


@pytest.mark.parametrize("kind", ["numbers", "tokens"])
def test_targets_without_classes_can_be_taken_in_all_ways_but_by_class(kind: str) -> None:
    whole = without_classes(kind)
    assert len(data.subset_index(whole, "all", None, seed=0)) == 12
    assert len(data.subset_index(whole, "random", 5, seed=0)) == 5
    assert data.subset_index(whole, "indices", None, seed=0, indices=[2, 3]).tolist() == [2, 3]
    for subset in ("balanced", "first-per-class"):
        with pytest.raises(DataError, match=r"targets of some are no classes.*subset random or all"):
            data.subset_index(whole, subset, 4, seed=0)


@pytest.mark.parametrize("subset", ["all", "first-per-class", "random", "indices"])
def test_every_subset_gives_the_same_samples_in_a_data_set(subset: str) -> None:
    model = architectures.build("tanh-mlp")
    samples = {"all": None, "indices": None}.get(subset, 30)
    given = {"subset": subset, "indices": [3, 500] if subset == "indices" else ()}
    whole, index = data.fitting_index("digits", "test", samples, 2, model, **given)
    drawn = data.fitting_subset("digits", "test", samples, 2, model, **given)
    assert torch.equal(drawn.index, index)
    assert torch.equal(drawn.y, whole.y[index])
    assert torch.equal(drawn.x, whole.x[index])
    assert len(index) == {"all": 540, "indices": 2}.get(subset, 30)


def test_more_than_the_memory_holds_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Counted()
    whole = Dataset("some", samples, torch.arange(40) % 10)
    monkeypatch.setattr(subsets, "load", lambda name, split, env: whole)
    monkeypatch.setattr(subsets, "available_memory", lambda device: 4 * 256 * 39)
    model = architectures.build("tanh-mlp")
    with pytest.raises(DataError, match=r"The 40 samples of some take .* choose a smaller subset"):
        data.fitting_subset("some", "test", None, 0, model, subset="all")
    assert samples.asked == [0]
    assert len(data.fitting_subset("some", "test", 39, 0, model).index) == 39


def subset(x: torch.Tensor, y: torch.Tensor, name: str = "some") -> Subset:
    return Subset(name, x, y, torch.arange(len(y)), synthetic=False)


def test_the_content_hash_tells_data_apart() -> None:
    x, y = dataset([3, 3]).x, dataset([3, 3]).y
    assert data.content_hash(subset(x, y)) == data.content_hash(subset(x.clone(), y.clone(), "other name"))
    others = [subset(x.reshape(3, 2), y), subset(x + 1, y), subset(x, y.flip(0))]
    assert len({data.content_hash(each) for each in (subset(x, y), *others)}) == 4


class Counted:
    """Samples that remember which of them were asked for."""

    shape = (40, 1, 16, 16)

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        self.asked += index.tolist()
        return index.float()[:, None, None, None].expand(len(index), 1, 16, 16)


def test_what_a_subset_would_be_is_found_by_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Counted()
    whole = Dataset("some", samples, torch.arange(40) % 10)
    monkeypatch.setattr(subsets, "load", lambda name, split, env: whole)
    model = architectures.build("tanh-mlp")
    found, index = data.fitting_index("some", "test", 20, 0, model)
    assert found is whole
    assert samples.asked == [0]
    drawn = data.fitting_subset("some", "test", 20, 0, model)
    assert torch.equal(drawn.index, index)
    assert samples.asked == [0, 0, *index.tolist()]
    assert torch.equal(drawn.x[:, 0, 3, 5], index.float())


def test_samples_that_fit_no_memory_are_not_all_decoded() -> None:
    samples = Counted()
    samples.shape = (1_300_000, 3, 224, 224)
    whole = Dataset("large", samples, torch.zeros(1_300_000, dtype=torch.int64))
    with pytest.raises(DataError, match=r"The 1,300,000 samples of large together are more than 4 GiB"):
        _ = whole.x
    assert samples.asked == []


# --- Data and models --------------------------------------------------------------------------------------


def test_data_that_fit_a_model_pass() -> None:
    data.check_matches(data.load("digits", "test"), architectures.build("tanh-mlp"))


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("shape", [(1,), (8, 8), (7, 3, 3), (2, 2, 2, 2), (1, 1, 1, 1, 1)])
def test_samples_of_the_wrong_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    odd = Dataset("odd", torch.zeros(3, *shape), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="have shape " + "×".join(map(str, shape))):
        data.check_matches(odd, architectures.build(name))


def test_a_file_of_some_of_a_models_classes_passes() -> None:
    few = Dataset("few", torch.zeros(3, 256), torch.tensor([0, 2, 1]))
    data.check_matches(few, architectures.build("tanh-mlp"))


def test_labels_without_an_output_are_refused() -> None:
    odd = Dataset("odd", torch.zeros(3, 256), torch.tensor([0, 10, 3]))
    with pytest.raises(
        DataError, match=r"the label 10, but this architecture has 10 outputs \(labels 0 to 9\)"
    ):
        data.check_matches(odd, architectures.build("tanh-mlp"))


@pytest.mark.parametrize("name", OWN[1:])
def test_channels_at_the_end_are_told_from_other_mistakes(name: str) -> None:
    size = 224 if name == "resnet18" else 32
    odd = Dataset("odd", torch.zeros(3, size, size, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(
        DataError,
        match=rf"shape {size}×{size}×3, .* channels last: save them as 3×{size}×{size}, x.transpose",
    ):
        data.check_matches(odd, architectures.build(name))


def test_a_missing_axis_of_channels_is_said() -> None:
    odd = Dataset("odd", torch.zeros(3, 32, 32), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match=r"lack the axis of channels: save them as 1×32×32, x\[:, None\]"):
        data.check_matches(odd, architectures.build("3c3d(in_channels=1)"))


@pytest.mark.parametrize(
    ("labels", "from_one"), [([1, 10, 3], True), ([0, 10, 3], False), ([1, 11, 3], False)]
)
def test_labels_that_count_from_1_are_recognised(labels: list[int], from_one: bool) -> None:
    odd = Dataset("odd", torch.zeros(3, 256), torch.tensor(labels))
    with pytest.raises(DataError, match="has the label 1") as refused:
        data.check_matches(odd, architectures.build("tanh-mlp"))
    assert ("count from 1: save y - 1" in str(refused.value)) == from_one


def test_networks_that_refuse_in_other_ways_get_the_same_sentence() -> None:
    odd = Dataset("odd", torch.zeros(3, 3, 32, 32), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="have shape 3×32×32, which this architecture does not take"):
        data.check_matches(odd, architectures.build("vit_b_16(image_size=64)"))
