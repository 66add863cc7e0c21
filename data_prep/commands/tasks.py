"""`matl-data tasks`: changes the tasks of a shard set without touching its tars."""

import argparse
from collections.abc import Callable

from data_prep.commands.shard import add_column_options
from data_prep.labels.matrix import LabelColumns
from data_prep.task_changes import add_tasks, drop_tasks, relabel_tasks, rename_tasks
from matl_scale.data.shards.manifest import Manifest


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    tasks = commands.add_parser(
        "tasks", help="add, relabel, rename or drop tasks; tars and older versions stay as they are"
    )
    actions = tasks.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser("add", help="take columns of a label file as new tasks")
    add.set_defaults(run=lambda options: from_file(options, add_tasks))
    relabel = actions.add_parser(
        "relabel", help="replace labels; images without a row keep theirs, empty cells lose theirs"
    )
    relabel.set_defaults(run=lambda options: from_file(options, relabel_tasks))
    rename = actions.add_parser("rename", help="give tasks other names")
    rename.set_defaults(run=lambda options: say(rename_tasks(options.folder, options.names)))
    drop = actions.add_parser("drop", help="leave tasks out of the newest version")
    drop.set_defaults(run=lambda options: say(drop_tasks(options.folder, options.patterns)))
    for parser in (add, relabel, rename, drop):
        parser.add_argument("folder", metavar="DIR", help="the shard set: a folder or an fsspec URL")
    for parser in (add, relabel):
        parser.add_argument(
            "--labels",
            required=True,
            metavar="FILE",
            help="CSV or Parquet, one row per image, a column per task; or a URL",
        )
        add_column_options(parser)
        parser.add_argument(
            "--allow-unmatched", action="store_true", help="leave out rows whose image is not in the set"
        )
    rename.add_argument("names", nargs="+", metavar="OLD=NEW", help="a task and its new name")
    drop.add_argument("patterns", nargs="+", metavar="PATTERN", help="names or patterns of tasks")


def from_file(options: argparse.Namespace, change: Callable[[str, str, LabelColumns, bool], Manifest]) -> None:
    columns = LabelColumns(image=options.image_column, tasks=options.tasks, text=options.text_columns)
    say(change(options.folder, options.labels, columns, options.allow_unmatched))


def say(manifest: Manifest) -> None:
    entry = manifest.entries[-1]
    print(
        f"{manifest.root}: version {entry['version']}, id {entry['id'][:12]}: {entry['change']}; {len(manifest.tasks)} tasks"
    )
