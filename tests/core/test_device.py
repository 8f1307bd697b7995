import pytest
import torch

from core.device import pick_device
from core.settings import SettingsError


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "", "meta:x"])
def test_a_device_that_is_not_there_gets_one_sentence(name: str) -> None:
    with pytest.raises(SettingsError, match=f"The device '{name}' cannot be used here"):
        pick_device(name)
