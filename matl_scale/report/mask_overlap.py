"""How much of the trunk tasks share, and what units serve, from a run's routing masks."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.errors import InputError
from matl_scale.runs.layout import RunFolder

ROUTER_PREFIX = "routers."


@dataclass(frozen=True, kw_only=True)
class LayerUsage:
    """How the units of one layer are used."""

    name: str
    units: int
    active: int  # units that are active for a task
    unused: int  # units that serve no task
    tasks_per_unit: np.ndarray  # the number of tasks that each unit serves, shape `(num_units,)`


def read_masks(folder: Path) -> dict[str, np.ndarray] | None:
    """Returns a run's routing masks by layer, bool, shape `(num_tasks, num_units)`; None if it stored none."""
    path = RunFolder(folder).masks_file
    if not path.is_file():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name.removeprefix(ROUTER_PREFIX): file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}. The run writes it again when it is restarted.") from error


def measure_usage(masks: Mapping[str, np.ndarray]) -> list[LayerUsage]:
    """Counts what the units of each layer serve."""
    return [
        LayerUsage(
            name=name,
            units=mask.shape[1],
            active=int(mask[0].sum()),
            unused=int((~mask.any(axis=0)).sum()),
            tasks_per_unit=mask.sum(axis=0),
        )
        for name, mask in masks.items()
    ]


def mask_overlap(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the share of a task's units, over all layers, that are active for another task too.

    The shape is `(num_tasks, num_tasks)`; the diagonal is 1.
    """
    all_layers = np.concatenate(list(masks.values()), axis=1).astype(np.float32)
    shared = all_layers @ all_layers.T
    overlap: np.ndarray = shared / np.diag(shared)[:, None]
    return overlap
