"""The subcommands of `matl-data`, one file each, with `add_options` for its parser, which says what to run.

Only the file of the subcommand that is asked for is imported: the others would make it wait for their libraries.
"""

SUBCOMMANDS = {  # a file here, and what it does
    "shard": "write your own images and labels as a shard set",
    "example": "write a well-known data set as a shard set",
    "merge": "finish a shard set that was written with --partition",
    "tasks": "add, relabel, correct, rename or drop tasks; tars and older versions stay as they are",
    "info": "describe a shard set: tasks, classes, counts, missing labels, shards",
    "preview": "write a page with real samples of a task, class by class",
    "verify": "check a shard set: checksums, counts, decodability, labels, leaks between splits, stray files",
}
