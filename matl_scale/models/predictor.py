"""Logits of many tasks for the same images. What tasks have in common is computed once; slices are reused between batches."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch

from matl_scale.models.network import Execution, RoutedModel
from matl_scale.routing.subnetwork import AllTasks


class Predictor:
    """Runs tasks one after the other on a batch of images. The network's weights may change between calls of `start`. The slices
    of `task_chunk` tasks are held between batches; the others are gathered for every batch."""

    def __init__(self, model: RoutedModel, execution: Execution, task_chunk: int) -> None:
        self.model, self.task_chunk = model, task_chunk
        self.network = AllTasks(model.trunk) if execution == "subnetwork" else None
        self._slices: dict[int, list[torch.Tensor]] = {}

    def start(self) -> None:
        """Starts with the current weights. Call it in evaluation mode, and again after the weights have changed."""
        if self.model.training:
            raise RuntimeError("The network should be in evaluation mode: call `model.eval()` first.")
        self._slices = {}

    @torch.no_grad()
    def logits(
        self, images: torch.Tensor, image_indices: Mapping[int, torch.Tensor | None]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields each task with its logits, shape `(num_images, num_classes)`, for images `(batch, 3, height, width)`.
        `image_indices` are for each task to run the indices of the images that it should see; None for all."""
        prepared = [images] if self.network is None else self.network.prepare(images)
        for task_id, indices in image_indices.items():
            inputs = prepared if indices is None else [tensor.index_select(0, indices) for tensor in prepared]
            yield task_id, self._run(task_id, inputs)

    def _run(self, task_id: int, inputs: list[torch.Tensor]) -> torch.Tensor:
        if self.network is None:
            return cast(torch.Tensor, self.model(inputs[0], task_id))
        task = torch.tensor([task_id], device=inputs[0].device)
        slices = self._slices[task_id] if task_id in self._slices else self.network.gather(task)
        if len(self._slices) < self.task_chunk:
            self._slices[task_id] = slices
        return cast(torch.Tensor, self.model.heads[task_id](self.network(inputs, task, slices)))
