"""The model card of a hub folder: README.md with what the network does, how well, how it was trained, and where it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from matl_scale.decisions.table import Decisions
from matl_scale.display import printable
from matl_scale.errors import InputError
from matl_scale.metrics.names import METRIC_LABELS, TASK_COLUMNS
from matl_scale.metrics.task_metrics import describe_means, describe_not_learned
from matl_scale.report.decisions import describe_decisions, describe_notes
from matl_scale.report.facts import measure_half_widths
from matl_scale.report.markdown import escape, table
from matl_scale.report.terminal.console import format_value
from matl_scale.routes import Routes
from matl_scale.runs.decided import find_kept_predictions
from matl_scale.runs.history import RunHistory, TaskTable
from matl_scale.tasks import Task
from matl_scale.text import count_of

TAGS = ("image-classification", "multi-task-learning", "task-routing")
# what a reader needs of a config, to train such a network again
TRAINING_KEYS = (
    "train.steps", "data.batch_size", "train.accumulate", "data.image_size", "data.fit", "data.augment", "data.fold",
    "optim.name", "optim.lr", "optim.schedule", "optim.weight_decay", "model.name", "model.args", "model.width",
    "model.stem", "model.trunk", "model.hidden", "model.pretrained",
    "model.weights", "model.freeze", "routing.sigma", "routing.strategy", "train.ema_decay",
    "run.seed",
)  # fmt: skip
MAX_NOTES = 10


@dataclass(frozen=True, kw_only=True)
class CardNetwork:
    """The network that a card is of."""

    name: str  # of its run
    step: int  # how many steps it was trained
    tasks: Sequence[Task]
    routes: Routes
    decisions: Decisions
    config: Mapping[str, Mapping[str, Any]]  # in sections
    manifest_id: str  # of its shard set


@dataclass(frozen=True, kw_only=True)
class CardResults:
    """One evaluation of that network."""

    evaluation: TaskTable
    half_widths: dict[str, float]  # half of the 95 % interval of a task's balanced accuracy, as far as known, by task


def find_results(run: Path, step: int, sha256: str) -> CardResults | None:
    """Returns the evaluation of a run's network, given by its step and the hash of its tensors: on `test` if it was evaluated
    there, else on another split; None if there is none."""
    try:
        history = RunHistory(run)
    except InputError:
        return None
    splits = [split for split, steps in history.steps.items() if step in steps]
    if not splits:
        return None
    split = "test" if "test" in splits else splits[0]
    try:
        found = find_kept_predictions(run, split, sha256)
    except InputError:
        return CardResults(evaluation=history.evaluation(split, step), half_widths={})
    widths = measure_half_widths(found.labels, found.predicted, found.info.num_classes).tolist()
    return CardResults(
        evaluation=history.evaluation(split, step),
        half_widths={task.name: width for task, width in zip(found.info.tasks, widths, strict=True)},
    )


def write_card(network: CardNetwork, results: CardResults | None) -> str:
    """Returns the card's text: YAML in front, as model hubs read it, then Markdown."""
    front = yaml.safe_dump(front_matter(network, results), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {escape(printable(network.name))}",
        introduction(network),
        "## Use\n\n" + USE,
        "## Results\n\n" + describe_results(network, results),
        "## Decisions\n\n" + describe_rules(network),
        "## Training\n\n" + describe_training(network),
        "## Limits\n\n" + describe_limits(results),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


USE = """```python
import matl_scale

network = matl_scale.load(".")  # the path of this folder
images = network.read_images(["photo.jpg"])  # squares, uint8, (batch, 3, size, size)
network.predict(images)  # the decided class of each image, by task
network.probabilities(images, "*")  # calibrated, by task; a pattern chooses tasks
network.logits(images)  # as trained
```

It needs torch, numpy and safetensors beside matl_scale; `read_images` needs Pillow, simplejpeg and pyarrow too. Nothing is
downloaded, and no code of this folder is run."""


def front_matter(network: CardNetwork, results: CardResults | None) -> dict[str, Any]:
    """Returns what model hubs read: tags, and the metrics of every task as a `model-index`."""
    front: dict[str, Any] = {
        "library_name": "matl_scale",
        "pipeline_tag": "image-classification",
        "tags": list(TAGS),
    }
    if results is None:
        return front
    evaluation, data = results.evaluation, name_of_data(network)
    rows = [
        {
            "task": {"type": "image-classification", "name": name},
            "dataset": {"type": data, "name": data, "split": evaluation.split, "revision": network.manifest_id},
            "metrics": [
                {"type": metric, "name": METRIC_LABELS[metric], "value": float(column[i])}
                for metric, column in evaluation.metrics.values.items()
                if metric in TASK_COLUMNS and np.isfinite(column[i])
            ],
        }
        for i, name in enumerate(evaluation.tasks)
    ]
    front["model-index"] = [{"name": network.name, "results": [row for row in rows if row["metrics"]]}]
    return front


def name_of_data(network: CardNetwork) -> str:
    """Returns the name of the shard set, without the path of a machine."""
    return str(network.config["data"]["path"]).rstrip("/").rpartition("/")[2]


def introduction(network: CardNetwork) -> str:
    model, num_routes = network.config["model"], network.routes.num_routes
    backbone = model.get("trunk") or model["name"]
    shared = (
        f"with {num_routes:,} routes, each a sub-network of one shared trunk, by task routing "
        "([Strezoski et al., 2019](https://arxiv.org/abs/1903.12117))"
        if num_routes > 1
        else "with one trunk for all tasks"
    )
    return (
        f"One network for {count_of(len(network.tasks), 'image-classification task')}: {backbone} {shared}. "
        f"Trained for {network.step:,} steps."
    )


def describe_results(network: CardNetwork, results: CardResults | None) -> str:
    if results is None:
        return (
            "This network was not evaluated, or its run is not at hand (`matl-evaluate --run RUN`, then export again)."
        )
    latest, metrics = results.evaluation, results.evaluation.metrics
    classes = {task.name: task.classes for task in network.tasks}
    columns = metrics.measured(TASK_COLUMNS)
    rows = []
    for i, name in enumerate(latest.tasks):
        half = results.half_widths.get(name, np.nan)
        values = [format_value(metrics.values[column][i]) for column in columns]
        values[0] += f" ± {half:.4f}" if np.isfinite(half) else ""
        rows.append([printable(name), printable(", ".join(classes.get(name, ()))), f"{metrics.counts[i]:,}", *values])
    titles = ["task", "classes", "samples", *(METRIC_LABELS[name] for name in columns)]
    interval = "; ± is half the 95 % interval over other samples of the same kind" if results.half_widths else ""
    lines = [f"On the split {latest.split}{interval}."]
    lines += [limited] if (limited := describe_means(metrics)) else []
    return "\n".join(lines) + "\n\n" + table(titles, rows)


def describe_rules(network: CardNetwork) -> str:
    decisions = network.decisions
    if not decisions.info.split:
        return "None were fitted: the most probable class is decided, and probabilities are not calibrated."
    rows = []
    for task in network.tasks:
        rule = decisions.rules[task.name]
        threshold = "" if rule.threshold is None else f"{task.classes[1]} from {rule.threshold:.4f}"
        rows.append([printable(task.name), decisions.aims[task.name], printable(threshold), f"{1 / rule.scale:.4f}"])
    notes = [f"- {escape(printable(line))}" for line in describe_notes(decisions, MAX_NOTES)]
    told = "\n".join([f"Fitted {describe_decisions(decisions)}.", *notes])
    return told + "\n\n" + table(["task", "best at", "decided", "temperature"], rows)


def describe_training(network: CardNetwork) -> str:
    found = []
    for key in TRAINING_KEYS:
        section, _, name = key.partition(".")
        value = network.config.get(section, {}).get(name)
        if value is not None and value is not False and value not in ("", [], {}):
            shown = Path(value).name if key == "model.weights" else value  # no path of a machine
            found.append([f"`{key}`", printable(str(shown))])
    found.append(["shard set", f"{printable(name_of_data(network))}, version id {network.manifest_id[:16]}"])
    return table(["key", "value"], found)


def describe_limits(results: CardResults | None) -> str:
    lines = [
        "- Every task is answered for every image, whether the task makes sense for it or not.",
        "- Figures hold for images of the kind that the network was trained on. Measure it on your own before you rely on it.",
        "- Who publishes this folder should say which licence the weights and the training images have.",
    ]
    if results is not None:
        metrics, tasks = results.evaluation.metrics, results.evaluation.tasks
        lines.insert(0, f"- Tasks {escape(describe_not_learned(metrics, tasks))}.")
        if metrics.single_class.any() or metrics.unlabelled.any():
            odd = [tasks[i] for i in np.flatnonzero(metrics.single_class | metrics.unlabelled).tolist()]
            lines.insert(1, f"- Not measured, for want of samples of two classes: {escape(printable(', '.join(odd)))}.")
    return "\n".join(lines)
