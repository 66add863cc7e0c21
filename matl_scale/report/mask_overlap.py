"""How much of the trunk routes share, and what units serve, from a run's routing masks."""

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.errors import InputError
from matl_scale.runs.layout import RunFolder

ROUTER_PREFIX, MOVE_PREFIX = "routers.", "moves."  # of the masks, and of how they have moved


@dataclass(frozen=True, kw_only=True)
class LayerUsage:
    """How the units of one layer are used."""

    name: str
    units: int
    active: int  # units that are active for a route
    unused: int  # units that serve no route
    routes_per_unit: np.ndarray  # the number of routes that each unit serves, shape `(num_units,)`


def read_masks(folder: Path) -> dict[str, np.ndarray] | None:
    """Returns a run's routing masks by layer, as they are now, bool, shape `(num_routes, num_units)`; None if it stored none."""
    found = read_archive(folder, lambda name: not name.startswith(MOVE_PREFIX))
    return None if found is None else {name.removeprefix(ROUTER_PREFIX): mask for name, mask in found.items()}


def read_archive(folder: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a run's file of masks whose names are wanted; None if there is no such file.

    Raises:
        InputError: It is damaged.
    """
    path = RunFolder(folder).masks_file
    if not path.is_file():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if wanted(name)}
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
            routes_per_unit=mask.sum(axis=0),
        )
        for name, mask in masks.items()
    ]


def mask_overlap(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the share of a route's units, over all layers, that are active for another route too.

    The shape is `(num_routes, num_routes)`; the diagonal is 1.
    """
    all_layers = np.concatenate(list(masks.values()), axis=1).astype(np.float32)
    shared = all_layers @ all_layers.T
    overlap: np.ndarray = shared / np.diag(shared)[:, None]
    return overlap


def independent_overlap(layers: Sequence[LayerUsage]) -> float:
    """Returns the mean overlap of two routes whose units are drawn independently: in a layer it is the share of active units."""
    return sum(layer.active**2 / layer.units for layer in layers) / sum(layer.active for layer in layers)


def mean_between_routes(values: np.ndarray, route_of: Sequence[int]) -> np.ndarray:
    """Averages what is known of pairs of tasks, over all pairs of a task of one route and a task of another one.

    Args:
        values: Symmetric, shape `(num_tasks, num_tasks)`, NaN where it is unknown. The diagonal does not matter.
        route_of: The index of each task's route. No route is without a task.

    Returns:
        Shape `(num_routes, num_routes)`, NaN where nothing is known; on the diagonal the mean over pairs of tasks of the same
        route. With a route for every task it has the values themselves beside the diagonal.
    """
    order = np.argsort(route_of, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(route_of)[order], prepend=-1))
    sorted_values = values[np.ix_(order, order)]
    np.fill_diagonal(sorted_values, np.nan)
    known = np.isfinite(sorted_values)
    sums, counts = (sum_blocks(matrix, starts) for matrix in (np.where(known, sorted_values, 0), known))
    means: np.ndarray = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def sum_blocks(matrix: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums the blocks of a square matrix whose rows and columns begin at `starts`."""
    rows = np.add.reduceat(matrix, starts, axis=0, dtype=np.float64)
    blocks: np.ndarray = np.add.reduceat(rows, starts, axis=1)
    return blocks
