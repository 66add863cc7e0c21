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


def describe_usage(layers: list[LayerUsage], overlap: np.ndarray) -> list[str]:
    """Says how many units routes have, and have in common; `overlap` has shape `(num_pairs,)`."""
    units, unused = sum(layer.units for layer in layers), sum(layer.unused for layer in layers)
    share = sum(layer.active for layer in layers) / units
    texts = [f"A route has {share:.1%} of the {units:,} units of routed layers. {unused:,} units serve no route."]
    if len(overlap):
        texts.append(
            f"Two routes have {overlap.mean():.1%} of their units in common on average, {overlap.min():.1%} to "
            f"{overlap.max():.1%}; independent draws would give {independent_overlap(layers):.1%}."
        )
    return texts
