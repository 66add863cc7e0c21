"""`matl-data info`: what a shard set holds, as a table with one line per task."""

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.markup import escape

from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.open_labels import open_labels
from matl_scale.terminal_table import TableColumn, TerminalTable
from matl_scale.text import count_of


def print_info(manifest: Manifest, console: Console, route_of: Mapping[str, str] | None = None) -> None:
    """Prints the classes, labelled images per split, missing labels, largest and positive class of each task; then splits and
    shards.

    `route_of` has the names of routes by task, to be shown beside it.
    """
    labels = open_labels(manifest).labels
    split_names = list(manifest.splits)
    labels_of = {split: labels.of_samples(manifest.sample_ids(split)) for split in split_names}
    labelled_of = np.stack([each.count() for each in labels_of.values()])  # (num_splits, num_tasks)
    names = ("task", *(() if route_of is None else ("route",)))
    figures = ("classes", *split_names, "missing", "largest")
    table = TerminalTable(
        columns=[
            *(TableColumn(title=title, kind="name") for title in names),
            *(TableColumn(title=title, kind="figure") for title in figures),
            TableColumn(title="positive", kind="name"),
            TableColumn(title="labels per class", kind="note"),
        ]
    )
    for column, task in enumerate(manifest.tasks):
        counts = labels.count_classes(column, task.num_classes)
        missing = 1 - counts.sum() / labels.num_samples
        table.add_row(
            task.name,
            *([] if route_of is None else [route_of.get(task.name, "")]),
            str(task.num_classes),
            *(f"{count:,}" for count in labelled_of[:, column].tolist()),
            f"{missing:.1%}",
            f"{counts.max() / max(counts.sum(), 1):.1%}",
            task.positive or "",
            describe_counts(task.classes, counts),
        )
    table.print(console)
    console.print("columns of splits: labelled images; positive: the class that precision, recall and AUROC are of")
    console.print(f"\n[bold]{escape(str(manifest.root))}[/bold]  id {manifest.id[:12]}")
    shards = manifest.shards.to_pylist()
    for split in split_names:
        sizes = [shard["bytes"] for shard in shards if shard["split"] == split]
        console.print(
            f"  {split}: {count_of(manifest.splits[split], 'image')} in {count_of(len(sizes), 'shard')}, "
            f"{sum(sizes) / 1e6:,.1f} MB, "
            f"{labels_of[split].mean_per_sample():.3g} labels per image"
        )
    console.print("  labels per image: the mean over images that have one")
    for entry in manifest.entries:
        marker = "→" if entry["version"] == manifest.version else " "
        console.print(f"{marker} version {entry['version']}, id {entry['id'][:12]}: {escape(entry['change'])}")
    size, num_cells = manifest.image_size(), labels.num_samples * labels.num_tasks
    console.print(
        f"  {count_of(len(manifest.tasks), 'task')}, {1 - labels.count().sum() / num_cells:.1%} of all labels missing; images: "
        + (f"{size} × {size} pixels" if size else "of several sizes")
    )
    if manifest.oriented:
        console.print(f"  {count_of(manifest.oriented, 'image')} with an orientation (EXIF or XMP), used upright")


def describe_counts(classes: tuple[str, ...], counts: np.ndarray, limit: int = 3) -> str:
    """Lists the classes with their counts; only the first few if there are many."""
    shown = [f"{name} {count:,}" for name, count in zip(classes, counts, strict=True)][:limit]
    return ", ".join(shown) + (f", … {len(classes) - limit} more" if len(classes) > limit else "")
