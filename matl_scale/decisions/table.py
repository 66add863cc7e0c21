"""`decisions.parquet`, in the folder of the network that the decisions are for: a row per task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.decisions.rule import DecisionRule
from matl_scale.errors import InputError, one_line
from matl_scale.metrics.names import DECIDED_METRICS
from matl_scale.storage.files import write_atomic

FORMAT_VERSION = 1
METADATA_KEY = b"matl_scale"
MEASURES = DECIDED_METRICS
_NUMBERS = pa.list_(pa.float64())
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("aim", pa.string()),
        ("prior_offsets", _NUMBERS),
        ("scale", pa.float64()),
        ("biases", _NUMBERS),
        ("decision_offsets", _NUMBERS),
        ("threshold", pa.float64()),
        ("note", pa.string()),
        *((name, pa.float64()) for name in MEASURES),
        ("ece_as_trained", pa.float64()),
        ("brier_as_trained", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class DecisionsInfo:
    """What decisions are for, and what they were fitted on."""

    network: str  # SHA-256 of the network's tensors
    step: int  # steps that the network had been trained
    split: str  # the split they were fitted on; empty if nothing was fitted
    test_set: str  # hash of that split's tars; empty if nothing was fitted


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The decision rules of a network."""

    info: DecisionsInfo
    rules: dict[str, DecisionRule]  # by the task's name, in the network's order
    aims: dict[str, str]  # what each task's decision is best at
    # cross-fitted metrics on the split, by name, shape `(num_tasks,)`; empty if not fitted
    measured: dict[str, np.ndarray]

    def distinct_aims(self) -> list[str]:
        """Returns the aims that occur, in alphabetical order."""
        return sorted(set(self.aims.values()))

    def notes(self) -> dict[str, str]:
        """Returns what is to be said of tasks, by their names."""
        return {name: rule.note for name, rule in self.rules.items() if rule.note}


def unfitted_decisions(
    num_classes: Mapping[str, int], prior_offsets: Mapping[str, Sequence[float]], network: str, step: int
) -> Decisions:
    """Returns the decisions of a network for which none were fitted: the most probable class, after the prior correction."""
    rules = {name: DecisionRule.unfitted(count, prior_offsets.get(name)) for name, count in num_classes.items()}
    info = DecisionsInfo(network=network, step=step, split="", test_set="")
    return Decisions(info=info, rules=rules, aims=dict.fromkeys(rules, ""), measured={})


def write_decisions(path: Path, decisions: Decisions) -> None:
    """Writes the file; it appears when it is complete."""
    about = {"format_version": FORMAT_VERSION, **asdict(decisions.info)}
    rules = list(decisions.rules.values())
    columns = {
        "task": list(decisions.rules),
        "aim": [decisions.aims[name] for name in decisions.rules],
        **{name: [getattr(rule, name) for rule in rules] for name in ("scale", "threshold", "note")},
        **{
            name: [getattr(rule, name).tolist() for rule in rules]
            for name in ("prior_offsets", "biases", "decision_offsets")
        },
        **{name: pa.array(column, pa.float64(), from_pandas=True) for name, column in decisions.measured.items()},
    }
    table = pa.table(
        [pa.array(columns[field.name], field.type) for field in SCHEMA],
        schema=SCHEMA.with_metadata({METADATA_KEY: json.dumps(about)}),
    )
    write_atomic(path, lambda partial: pq.write_table(table, partial, compression="zstd"))


def read_decisions(path: Path) -> Decisions:
    """Reads the file.

    Raises:
        InputError: It is none of these, or of a later version.
    """
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[METADATA_KEY])
        version = about.pop("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path} has format {version}; this version of matl_scale reads {FORMAT_VERSION}. Fit the decisions again: "
                "matl-decide RUN."
            )
        info = DecisionsInfo(**about)
        rows = {name: table[name].to_pylist() for name in ("task", "aim", "scale", "note")}
        vectors = {
            name: [np.array(values, dtype=float) for values in table[name].to_pylist()]
            for name in ("prior_offsets", "biases", "decision_offsets")
        }
        measured = {name: table[name].to_numpy() for name in (*MEASURES, "ece_as_trained", "brier_as_trained")}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} does not hold decisions: {one_line(error)}. Fit them again: matl-decide RUN."
        ) from error
    rules = {
        name: DecisionRule(
            scale=rows["scale"][i], note=rows["note"][i], **{key: column[i] for key, column in vectors.items()}
        )
        for i, name in enumerate(rows["task"])
    }
    return Decisions(info=info, rules=rules, aims=dict(zip(rules, rows["aim"], strict=True)), measured=measured)
