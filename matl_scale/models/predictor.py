"""Logits of many tasks for the same images, route by route. What routes have in common is computed once; slices are reused
between batches."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import torch

from matl_scale.models.logits import LogitSplitter, TaskLogits
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import Execution
from matl_scale.routing.all_routes import AllRoutes


class Predictor:
    """Runs routes one after the other on a batch of images. The network's weights may change between calls of `start`. The slices
    of `route_chunk` routes are held between batches; the others are gathered for every batch."""

    def __init__(self, model: RoutedModel, execution: Execution, route_chunk: int) -> None:
        self.model, self.route_chunk = model, route_chunk
        self.network = AllRoutes(model.trunk) if execution == "subnetwork" else None
        self.splitter = LogitSplitter(model.routes, model.num_classes, next(model.parameters()).device)
        self._slices: dict[int, list[Any]] = {}
        self._common: dict[int, list[Any]] = {}
        self._prepared_by: list[Any] | None = None  # the slices of what routes have in common

    def start(self) -> None:
        """Starts with the current weights. Call it in evaluation mode, and again after the weights have changed."""
        if self.model.training:
            raise RuntimeError("The network should be in evaluation mode: call `model.eval()` first.")
        self._slices, self._common, self._prepared_by = {}, {}, None

    @torch.no_grad()
    def logits(
        self, images: torch.Tensor, image_indices: Mapping[int, torch.Tensor | None]
    ) -> Iterator[tuple[int, list[TaskLogits]]]:
        """Yields each route with the logits of its tasks for images `(batch, 3, height, width)`.

        `image_indices` are for each route to run the indices of the images that it should see; None for all.
        """
        prepared = [images] if self.network is None else self._prepare(self.network, images)
        for route_id, indices in image_indices.items():
            inputs = prepared if indices is None else [tensor.index_select(0, indices) for tensor in prepared]
            yield route_id, list(self.splitter.split(route_id, self._run(route_id, inputs)))

    def logits_of_tasks(self, images: torch.Tensor, task_ids: Collection[int]) -> dict[int, torch.Tensor]:
        """Returns the logits of some tasks by task, each of shape `(batch, num_classes)`. Every route that they need runs once.

        `images` have shape `(batch, 3, height, width)`.
        """
        found: dict[int, torch.Tensor] = {}
        routes = dict.fromkeys(self.model.routes.route_of[task_id] for task_id in task_ids)
        for _, parts in self.logits(images, dict.fromkeys(routes)):
            for part in parts:
                found |= zip(part.task_ids.tolist(), part.logits.unbind(dim=1), strict=True)
        return {task_id: found[task_id] for task_id in task_ids}

    def _prepare(self, network: AllRoutes, images: torch.Tensor) -> list[torch.Tensor]:
        if self._prepared_by is None:
            self._prepared_by = network.gather_common()
        return network.prepare(images, self._prepared_by)

    def _run(self, route_id: int, inputs: list[torch.Tensor]) -> torch.Tensor:
        if self.network is None:
            return cast(torch.Tensor, self.model(inputs[0], route_id))
        route = torch.tensor([route_id], device=inputs[0].device)
        slices = self._slices.get(route_id) or self.network.gather(route, self._common, self.model.affine_of(route_id))
        if len(self._slices) < self.route_chunk:
            self._slices[route_id] = slices
        return self.model.classify(self.network(inputs, route, slices), route_id)
