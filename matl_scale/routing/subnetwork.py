"""Sub-network execution: a task's forward and backward pass on its own units, by slices of the trunk's parameters.

The trunk stays the owner of everything; what is computed equals what the trunk itself computes (masked execution), at
about σ² of the cost.
"""

from typing import cast

import torch
from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.routing.derive import Derived, derive
from matl_scale.routing.shared_prefix import cut_common, find_common, find_early_pools
from matl_scale.routing.slicing import Cut, Extremes, Fold
from matl_scale.routing.units import places_of


class SlicedNetwork(nn.Module):
    """A derived network with its tables; base of the two below.

    Args:
        trunk: From `route()`, on the device where it will run.
        derived: From it.
    """

    def __init__(self, trunk: fx.GraphModule, derived: Derived) -> None:
        super().__init__()
        self.trunk, self.dense = trunk, derived.dense
        self.slices, self.num_channels, self._features = derived.slices, derived.num_channels, derived.features
        device = next(iter(trunk.buffers())).device
        self.num_tables = len(derived.tables)
        for number, table in enumerate(derived.tables):
            self.register_buffer(f"kept_{number}", table.to(device), persistent=False)

    def places(self, task: torch.Tensor) -> dict[int, torch.Tensor]:
        if len(task) != 1:
            raise InputError(
                f"A sub-network runs batches of one task. Got {len(task)} tasks in one batch: run them with the trunk "
                "that `route()` returns (`routing.execution` = masked), or task by task."
            )
        return {number: places_of(self.get_buffer(f"kept_{number}"), task) for number in range(self.num_tables)}

    def gather(self, task: torch.Tensor) -> list[torch.Tensor]:
        """Cuts the trunk's parameters to one task's units.

        Args:
            task: The active task, integers of shape `(1,)`.

        Returns:
            Slices, in an order of their own; gradients flow back into the trunk's parameters.
        """
        places = self.places(task)
        slices: list[torch.Tensor] = []
        for made in self.slices:
            if isinstance(made, Cut | Extremes):
                slices.append(made.make(places))
            elif isinstance(made, Fold):
                slices += made.make(places, task)
            else:
                slices.append(places[made])
        return slices

    def widen(self, features: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Puts a sub-network's features at their places among all, zero elsewhere, as the heads expect them."""
        places = places_of(self.get_buffer(f"kept_{self._features}"), task)
        if len(places) == self.num_channels:
            return features
        by_channel = features.view(len(features), len(places), -1)
        wide = by_channel.new_zeros(len(features), self.num_channels, by_channel.shape[2])
        return wide.index_copy(1, places, by_channel).flatten(1)


class Subnetwork(SlicedNetwork):
    """Runs one task's sub-network of a routed trunk; takes and returns what the trunk takes and returns.

    Args:
        trunk: From `route()`; its parameters and buffers are used, not copied.

    Raises:
        InputError: A layer cannot be sliced; names it.
    """

    def __init__(self, trunk: fx.GraphModule) -> None:
        image = next(node for node in trunk.graph.nodes if node.op == "placeholder")
        super().__init__(trunk, derive(trunk, common={image}, pools={}, fold=False))

    def forward(
        self, images: torch.Tensor, task: torch.Tensor, slices: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Returns the features of one task's sub-network.

        Args:
            images: Shape `(batch, 3, height, width)`.
            task: The active task, integers of shape `(1,)`.
            slices: From `gather`, where several batches share them; made here otherwise.

        Returns:
            Shape `(batch, num_features)`, zero where the task keeps nothing.
        """
        features = self.dense([images], task, self.gather(task) if slices is None else slices)
        return self.widen(features, task)


class AllTasks(SlicedNetwork):
    """Evaluates many tasks on the same images: what does not depend on the task is computed once per batch, the first max
    pool too where that can be, and batch norms are folded into the slices of the convs before them.

    Args:
        trunk: From `route()`, in evaluation mode whenever this runs.

    Raises:
        InputError: A layer cannot be sliced; names it.
    """

    def __init__(self, trunk: fx.GraphModule) -> None:
        common = find_common(trunk)
        derived = derive(trunk, common=common, pools=find_early_pools(trunk, common), fold=True)
        super().__init__(trunk, derived)
        self.common = cut_common(trunk, common, derived.sources)

    def prepare(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Computes what all tasks have in common: tensors whose first dimension is the batch."""
        return cast(list[torch.Tensor], self.common(images, torch.zeros(1, dtype=torch.long, device=images.device)))

    def forward(self, prepared: list[torch.Tensor], task: torch.Tensor, slices: list[torch.Tensor]) -> torch.Tensor:
        """Returns the features of one task.

        Args:
            prepared: From `prepare`, or some of its rows.
            task: The task, shape `(1,)`.
            slices: From `gather`.

        Returns:
            Shape `(batch, num_features)`, zero where the task keeps nothing.
        """
        return self.widen(self.dense(prepared, task, slices), task)
