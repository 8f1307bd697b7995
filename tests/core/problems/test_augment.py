"""Augmentation against torchvision's on PIL images, which is what DeepOBS runs."""

import torch
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from seigh.core.problems import augment

MEAN, DEVIATION = (0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)


def images(number: int) -> torch.Tensor:
    """Smooth pictures of whole numbers, (number, 3, 32, 32) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand((number, 3, 4, 4), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return fine.round().to(torch.uint8)


def test_cifar_100_is_augmented_as_deepobs_does() -> None:
    pictures = images(20)
    deepobs = transforms.Compose(
        [
            transforms.Pad(padding=2),
            transforms.RandomCrop(size=(32, 32)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=63.0 / 255.0, saturation=[0.5, 1.5], contrast=[0.2, 1.8]),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, DEVIATION),
        ]
    )
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)])
    x = torch.stack([normalise(to_pil_image(picture)) for picture in pictures])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.stack([deepobs(to_pil_image(picture)) for picture in pictures])
        torch.manual_seed(3)
        found = augment.cifar_100(x)
    # PIL rounds to whole numbers between the three changes of colour in its own way.
    steps = (found - expected).abs() * 255 * torch.tensor(DEVIATION).view(3, 1, 1)
    assert steps.max() <= 4
    assert steps.mean() < 1
    assert (found - x).abs().mean() > 0.1


def test_every_image_is_changed_by_itself_and_anew() -> None:
    x = torch.zeros(2, 3, 32, 32)
    x[:, :, 8:24, 8:16] = 1.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = augment.cifar_100(x), augment.cifar_100(x)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
