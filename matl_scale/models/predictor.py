"""Logits of many tasks for the same images: what tasks have in common is computed once, slices are kept between batches."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch

from matl_scale.models.network import Execution, RoutedModel
from matl_scale.routing.subnetwork import AllTasks


class Predictor:
    """Runs tasks one after the other on a batch of images.

    Args:
        model: The network; its weights may change between one `start` and the next.
        execution: Whether to run only each task's units.
        task_chunk: Tasks whose slices are kept from one batch to the next; the others are gathered for every batch.
    """

    def __init__(self, model: RoutedModel, execution: Execution, task_chunk: int) -> None:
        self.model, self.task_chunk = model, task_chunk
        self.network = AllTasks(model.trunk) if execution == "subnetwork" else None
        self._held: dict[int, list[torch.Tensor]] = {}

    def start(self) -> None:
        """Begins with the weights as they are now; call it in evaluation mode, and again when the weights changed."""
        if self.model.training:
            raise RuntimeError("The network should be in evaluation mode: call `model.eval()` first.")
        self._held = {}

    @torch.no_grad()
    def logits(
        self, images: torch.Tensor, places: Mapping[int, torch.Tensor | None]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields the logits of tasks, `(num_places, num_classes)`, with the task.

        Args:
            images: Shape `(batch, 3, height, width)`.
            places: Per task the images it should see, as places in the batch, shape `(num_places,)`; None for all.
        """
        prepared = [images] if self.network is None else self.network.prepare(images)
        for task_id, chosen in places.items():
            inputs = prepared if chosen is None else [part.index_select(0, chosen) for part in prepared]
            yield task_id, self._run(task_id, inputs)

    def _run(self, task_id: int, inputs: list[torch.Tensor]) -> torch.Tensor:
        if self.network is None:
            return cast(torch.Tensor, self.model(inputs[0], task_id))
        task = torch.tensor([task_id], device=inputs[0].device)
        slices = self._held[task_id] if task_id in self._held else self.network.gather(task)
        if len(self._held) < self.task_chunk:
            self._held[task_id] = slices
        return cast(torch.Tensor, self.model.heads[task_id](self.network(inputs, task, slices)))
