"""How the configs of runs differ, and which runs differ in their seeds alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from matl_scale.errors import InputError
from matl_scale.report.shard_set import absolute_path
from matl_scale.runs.history import RunHistory

SEED_KEY = "run.seed"
DATA_KEY = "data.path"
# what names a run, or how its machine works: it changes no figure of a run that ends
LOCATION_KEYS = frozenset({"run.name", "run.dir", "run.resume"})
MACHINE_KEYS = frozenset(
    {"eval.batch_size", "eval.task_chunk", "eval.predictions", "checkpoint.every", "checkpoint.keep"}
)
# this changes no figure either, unless steps are counted by the clock, or images come as a stream
WORKERS_KEY = "data.workers"
IGNORED_SECTIONS = frozenset({"track", "guard"})


def read_settings(run: RunHistory) -> dict[str, Any]:
    """Returns the settings of a run that can change its figures, as `section.key` → value: not its name, say, or its tracking.

    Raises:
        InputError: Its config cannot be read.
    """
    try:
        flat = {f"{section}.{key}": value for section, values in run.config.items() for key, value in values.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise InputError(
            f"{run.files.config_file} cannot be read ({' '.join(str(error).split())}), so it is not known which "
            "runs are of one config. Copy the file from the original folder of the run."
        ) from error
    if DATA_KEY in flat:
        flat[DATA_KEY] = absolute_path(run, str(flat[DATA_KEY]))  # older runs stored it as it was given
    depends = flat.get("train.minutes") or flat.get("data.reading") == "stream"
    ignored = LOCATION_KEYS | MACHINE_KEYS | (frozenset() if depends else {WORKERS_KEY})
    return {
        key: value
        for key, value in flat.items()
        if key not in ignored and key.partition(".")[0] not in IGNORED_SECTIONS
    }


def group_by_config(settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Returns the indices of the runs of each config, regardless of their seeds, in the order given."""
    groups: dict[str, list[int]] = {}
    for i, each in enumerate(settings):
        without_seed = {key: value for key, value in each.items() if key != SEED_KEY}
        groups.setdefault(json.dumps(without_seed, sort_keys=True, default=str), []).append(i)
    return list(groups.values())


def list_changes(
    settings_a: Mapping[str, Any], settings_b: Mapping[str, Any], ignored: Sequence[str] = ()
) -> list[str]:
    """Lists the differences of two configs, as `key: A → B`."""
    changes = []
    for key in {**settings_a, **settings_b}:
        a, b = (repr(settings[key]) if key in settings else "(not there)" for settings in (settings_a, settings_b))
        if a != b and key not in ignored:
            changes.append(f"{key}: {a} → {b}")
    return changes
