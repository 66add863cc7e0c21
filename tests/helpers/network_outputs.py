"""Images in float64 for the tests of networks, and how far outputs are apart."""

import torch


def images_of(size: int = 64, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gap(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """Returns the largest difference, relative to the largest value or to 1 if that is larger."""
    assert actual.shape == wanted.shape
    with torch.no_grad():
        return float((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1))
