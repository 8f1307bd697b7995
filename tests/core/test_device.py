import psutil
import pytest
import torch

from seigh.core.device import available_memory, describe, describe_apart, free_memory, pick_device
from seigh.core.settings import SettingsError


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "", "meta:x"])
def test_a_device_that_is_not_there_gets_one_sentence(name: str) -> None:
    with pytest.raises(SettingsError, match=f"The device '{name}' cannot be used here"):
        pick_device(name)


def test_a_device_is_described_the_same_by_another_process() -> None:
    facts = describe("cpu")
    assert facts.kind == "cpu"
    assert facts.name
    assert facts.memory == available_memory(torch.device("cpu")) > 2**28
    assert describe_apart("cpu") == facts
    assert describe_apart("auto") == describe("auto")
    with pytest.raises(SettingsError, match=r"^The device 'cuda:97' cannot be used here; set SEIGH_DEVICE"):
        describe_apart("cuda:97")


def test_free_memory_is_what_the_kernel_could_give() -> None:
    device = torch.device("cpu")
    free = free_memory(device)
    assert 0 < free < available_memory(device)
    if available_memory(device) == psutil.virtual_memory().total:  # no container's limit is below it
        assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
