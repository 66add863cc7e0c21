"""`matl-data tasks`: changes the tasks of a shard set without touching its tars."""

import argparse
from collections.abc import Callable

from data_prep.commands.options import add_classes, add_label_file, add_shard_set
from data_prep.commands.roles import column_roles
from data_prep.corrections import correct_labels
from data_prep.labels.matrix import ColumnRoles
from data_prep.task_changes import add_tasks, drop_tasks, relabel_tasks, rename_tasks
from matl_scale.data.shards.manifest import Manifest
from matl_scale.text import count_of


def add_options(tasks: argparse.ArgumentParser) -> None:
    actions = tasks.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser("add", help="add columns of a label file as new tasks")
    add.set_defaults(run=lambda options: change_from_file(options, add_tasks))
    relabel = actions.add_parser(
        "relabel", help="replace labels; images without a row keep theirs, an empty cell removes a label"
    )
    relabel.set_defaults(run=lambda options: change_from_file(options, relabel_tasks))
    correct = actions.add_parser(
        "correct", help="correct single labels by a list, as `matl-report --suspects` writes it and people fill it"
    )
    correct.set_defaults(run=lambda options: print_change(correct_labels(options.folder, options.list)))
    rename = actions.add_parser("rename", help="give tasks other names")
    rename.set_defaults(run=lambda options: print_change(rename_tasks(options.folder, options.names)))
    drop = actions.add_parser("drop", help="leave tasks out of the newest version")
    drop.set_defaults(run=lambda options: print_change(drop_tasks(options.folder, options.patterns)))
    for parser in (add, relabel, correct, rename, drop):
        add_shard_set(parser)
    for parser in (add, relabel):
        add_label_file(parser)
        parser.add_argument(
            "--allow-unmatched", action="store_true", help="leave out rows whose image is not in the set"
        )
    add_classes(add)
    # the set has its tasks and classes
    relabel.set_defaults(positive=[], min_class_count=1, rare="drop", one_vs_rest=[], separator="")
    correct.add_argument(
        "--list",
        required=True,
        metavar="FILE",
        help="CSV or Parquet with the columns image, task and correct: the right class, NA to remove the label, or empty to "
        "leave it",
    )
    rename.add_argument("names", nargs="+", metavar="OLD=NEW", help="a task and its new name")
    drop.add_argument("patterns", nargs="+", metavar="PATTERN", help="names or patterns of tasks")


def change_from_file(options: argparse.Namespace, change: Callable[[str, str, ColumnRoles, bool], Manifest]) -> None:
    roles = column_roles(options)
    print_change(change(options.folder, options.labels, roles, options.allow_unmatched))


def print_change(manifest: Manifest) -> None:
    entry, tasks = manifest.entries[-1], count_of(len(manifest.tasks), "task")
    print(f"{manifest.root}: version {entry['version']}, id {entry['id'][:12]}: {entry['change']}; {tasks}")
