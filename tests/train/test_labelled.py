"""The loss of a batch: only samples with a label for the active task count."""

import numpy as np
import pytest
import torch

from matl_scale.train.step.train_step import labelled_loss, select_labelled


@pytest.mark.parametrize(
    ("labels", "chosen", "targets"),
    [
        ([1, 0, 2], [0, 1, 2], [1, 0, 2]),
        ([-1, 0, -1, 2], [1, 3], [0, 2]),
        ([-1, -1, 3], [2, 0], [3]),  # batch norm needs a companion
        ([-1, -1], [0, 1], []),
    ],
)
def test_a_task_trains_on_its_labelled_samples(labels: list[int], chosen: list[int], targets: list[int]) -> None:
    indices, found = select_labelled(np.array(labels, dtype=np.int8))
    assert indices.tolist() == chosen
    assert found.tolist() == targets


def test_without_labels_the_loss_is_zero_with_a_graph() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = labelled_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
