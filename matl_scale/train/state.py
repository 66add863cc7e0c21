"""Everything a resume needs, and its way into and out of a checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from matl_scale.models.network import RoutedModel
from matl_scale.routing.move import stream_masks
from matl_scale.train.length import Clock, Length
from matl_scale.train.masks.importance import UnitImportance
from matl_scale.train.masks.moves import Moves
from matl_scale.train.meter import Tally
from matl_scale.train.patience import Patience
from matl_scale.train.step.optim import match_formats


@dataclass
class TrainState:
    """The state of a run between two steps; equal on all ranks."""

    model: RoutedModel  # the network, not wrapped: trunk, heads, masks and per-route statistics
    optimizer: torch.optim.Optimizer  # over its parameters
    scaler: torch.amp.GradScaler | None = None  # of gradients in fp16, else None
    ema: AveragedModel | None = None  # moving average of the network, if asked for
    length: Length = field(default_factory=Length)  # how many steps the run has; set by the run's config, or fitted
    step: int = 0  # steps done
    slots: int = 0  # slots done on all ranks together: the position in the endless sequences of routes and batches
    # slots that each route has had, shape `(num_routes,)`
    draws: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    # labels that each task has been trained on, shape `(num_tasks,)`
    labels_seen: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    # with the strategy `magnitude`: how much each unit matters to each route, in the dense part; None after it, and without one
    importance: UnitImportance | None = None
    # slots that each route has had in the dense part, as far as that is over, shape `(num_routes,)`
    dense_draws: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    tally: Tally = field(default_factory=Tally)  # sums over the steps since the last record
    moves: Moves = field(default_factory=Moves)  # how its masks have moved
    clock: Clock = field(default_factory=Clock)  # how long its steps have taken
    patience: Patience = field(default_factory=Patience)  # how its evaluations have improved

    @property
    def evaluated(self) -> RoutedModel:
        """The network that is evaluated: the moving average if there is one."""
        return cast(RoutedModel, self.ema.module) if self.ema is not None else self.model

    @property
    def has_patience(self) -> bool:
        """Whether evaluations count for `train.patience`: those of a dense part say nothing of the sub-networks after it."""
        return self.patience.limit > 0 and self.importance is None

    @property
    def lacks_patience(self) -> bool:
        """Whether an evaluation after the last step would count for `train.patience`, and has not: the run broke off."""
        return self.has_patience and self.patience.last_step < self.step

    def is_over(self) -> bool:
        """Whether there is no further step."""
        return self.step >= self.length.num_steps or self.patience.is_over()

    def move_arrays(self) -> dict[str, np.ndarray]:
        """Returns how masks have moved, as `masks.npz` keeps it; nothing if they have not."""
        if not self.moves.steps:
            return {}
        first = self.moves.first(stream_masks(self.model.trunk))
        tables = {"first": first, "given_up": self.moves.given_up, "taken": self.moves.taken}
        arrays = {
            f"moves.{kind}.{name}": value.numpy() for kind, table in tables.items() for name, value in table.items()
        }
        return {"moves.steps": np.array(self.moves.steps), **arrays}

    def sampling_step(self, num_slots: int) -> int:
        """Returns the step that sampler and plan should draw next: the first one none of whose slots has run.

        It equals `step` unless the number of slots per step, `num_slots`, has changed: a run resumed with another number of
        ranks then skips the remaining slots of a step that was half done.
        """
        return -(-self.slots // num_slots)

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors, numbers and strings in dicts and lists."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "step": self.step,
            "slots": self.slots,
            "draws": torch.from_numpy(self.draws),
            "labels_seen": torch.from_numpy(self.labels_seen),
            "importance": None if self.importance is None else self.importance.sums,
            "dense_draws": torch.from_numpy(self.dense_draws),
            "tally": asdict(self.tally),
            "moves": self.moves.state_dict(),
            "length": asdict(self.length),
            "seconds": self.clock.seconds,
            "patience": self.patience.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a checkpoint's state; the optimizer's settings stay those of this run's config."""
        self.model.load_state_dict(state["model"])
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        saved = state["optimizer"]
        groups = [group | own for group, own in zip(saved["param_groups"], settings, strict=True)]
        self.optimizer.load_state_dict(saved | {"param_groups": groups})
        match_formats(self.optimizer)
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.step, self.slots = state["step"], state["slots"]
        self.draws = state["draws"].numpy().copy()
        if "labels_seen" in state:  # an older version did not count them
            self.labels_seen = state["labels_seen"].numpy().copy()
        if self.importance is not None:
            self.importance.sums.copy_(state["importance"])
        if "dense_draws" in state:
            self.dense_draws = state["dense_draws"].numpy().copy()
        self.tally = Tally(**state["tally"])
        if "moves" in state:  # in an older version, masks stayed
            self.moves.load_state_dict(state["moves"])
        # older versions kept no time, and had no length but that of the config
        self.clock.seconds = state.get("seconds", 0.0)
        if "length" in state:
            self.length.resume(Length(**state["length"]), self.step, self.clock.seconds)
        if "patience" in state:
            self.patience.load_state_dict(state["patience"])
