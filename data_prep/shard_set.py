"""From a data set to a shard set: plan, write, finish. A call can be killed at any time, and continues when it is repeated."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data_prep.dataset import Dataset
from data_prep.planning.make_plan import Options, check_same_tasks, count_existing, make_plan
from data_prep.planning.plan import DROPPED_FILE, PLAN_FILE, Plan, read_plan, write_plan
from data_prep.planning.row_tables import PLAN_TABLES, RowTables, write_row_tables
from data_prep.planning.splits import check_classes_in_train, check_two_classes
from data_prep.pool import prepare_workers
from data_prep.work_folder import finished_shards, locked_scratch, remove_plan, remove_unused_plan
from data_prep.writing.finalise import finalise
from data_prep.writing.lists import SKIPPED_FILE, report_copies
from data_prep.writing.shard import ShardWork, write_shards
from matl_scale.data.shards.layout import MANIFEST_FILE, WORK
from matl_scale.data.shards.manifest import Manifest, how_to_get, read_manifest
from matl_scale.data.shards.versions import is_shard_set
from matl_scale.errors import InputError, shortened
from matl_scale.storage.files import hash_text, sync_to_disk
from matl_scale.storage.store import Store

PLAN_FOLDER = "plan"


def write_shard_set(
    build: Callable[[Path], Dataset],
    folder: str | Path,
    options: Options = Options(),  # noqa: B008 - frozen
) -> Manifest | None:
    """Writes a data set to a folder or URL, or adds its splits to the shard set that is there.

    A call that was killed is repeated: finished shards stay if they are intact. A set that is complete with the same rows and
    options is left as it is.

    Args:
        build: Makes the data set; it may keep files in the folder that it is given for as long as this call lasts.
        folder: Missing, empty, begun by the same call, or a shard set with the same tasks and none of these splits.
        options: How the set is written.

    Returns:
        The set; None after a partition.

    Raises:
        InputError: The folder cannot take the data, or an image is bad. Finished shards, if there are any, stay for the next
            call; nothing else is left behind.
    """
    out = Store(folder)
    check_target(out)
    if options.workers > 1:
        prepare_workers()
    with locked_scratch(out, options.partition) as scratch:
        dataset = build(scratch)
        existing = read_manifest(out) if is_shard_set(out) else None
        tables = write_row_tables(dataset, scratch)
        id = plan_id(tables, dataset, options)
        if existing and is_made_by(existing, id):
            if not options.partition:
                out.remove(WORK)  # left by a call that was killed just before its end
            print(f"{out} is complete: there is nothing to do{describe_skipped(out)}", file=sys.stderr)
            return existing
        with (out / WORK).lock(".lock-plan", wait=True):  # all parts of an array job use the plan of the first
            plan = open_or_make_plan(out, tables, id, dataset, existing, options)
        write_planned_shards(out, plan, dataset, scratch, options)
        return None if options.partition else finish(out, plan, existing, scratch)


def write_planned_shards(out: Store, plan: Plan, dataset: Dataset, scratch: Path, options: Options) -> None:
    """Writes the shards of a plan, or those of this partition, and prints what was not written."""
    index, count = options.partition or (1, 1)
    jobs = range(len(plan.shards))[index - 1 :: count]
    work = ShardWork(
        plan=plan,
        images=dataset.images,
        out=str(out),
        max_pixels=options.max_pixels,
        skip_bad=options.skip_bad,
        scratch=scratch,
    )
    try:
        outcomes = write_shards(work, jobs, options.workers)
    except InputError:
        if not options.partition:
            remove_unused_plan(out)
        raise
    if num_finished := sum(outcome.was_finished for outcome in outcomes):
        print(f"{num_finished} of {len(jobs)} shards were finished already", file=sys.stderr)
    if bad := [name for outcome in outcomes for name, _ in outcome.bad]:
        print(
            f"left out {len(bad)} bad images: {shortened(bad, 5)}. All are listed in {out}/{SKIPPED_FILE}",
            file=sys.stderr,
        )


def merge_shard_set(folder: str | Path) -> Manifest:
    """Finishes a set whose shards were written in partitions.

    Raises:
        InputError: There is nothing to merge, or shards are missing.
    """
    out = Store(folder)
    if not out.exists(f"{WORK}/{PLAN_FILE}"):
        if is_shard_set(out):
            print(f"{out} is complete: there is nothing to merge", file=sys.stderr)
            return read_manifest(out)
        raise InputError(f"{out} has no work to merge. Write all parts first, with `matl-data shard --partition i/n`.")
    with locked_scratch(out) as scratch:
        plan = open_plan(out)
        existing = read_manifest(out) if is_shard_set(out) else None
        if existing and is_made_by(existing, plan.id):
            out.remove(WORK)
            return existing
        return finish(out, plan, existing, scratch)


def is_made_by(manifest: Manifest, plan: str) -> bool:
    """Returns whether a version of the set was made by this plan."""
    return any(entry.get("plan") == plan for entry in manifest.entries)


def describe_skipped(out: Store) -> str:
    """Returns what to add to the message that a set is complete, if bad images were left out of it."""
    if not out.exists(SKIPPED_FILE):
        return ""
    return f". Images that were bad when it was written are not in it, and stay out: {out}/{SKIPPED_FILE} lists them"


def finish(out: Store, plan: Plan, existing: Manifest | None, scratch: Path) -> Manifest:
    if existing:
        check_same_tasks(existing, plan.tasks)  # they may have changed since the plan was made
    manifest = finalise(out, plan, existing, scratch)
    if report := report_copies(manifest):
        print(report, file=sys.stderr)
    warn_of_lost_classes(manifest, plan, existing)
    if "train" not in manifest.splits:
        print(
            f"{out} has no split `train`. It has: {', '.join(manifest.splits)}. {how_to_get('train')}", file=sys.stderr
        )
    return manifest


def warn_of_lost_classes(manifest: Manifest, plan: Plan, existing: Manifest | None) -> None:
    """Says if the plan's classes were only on images that turned out bad and were left out: plans are checked before that."""
    planned = sum(shard.samples for shard in plan.shards) + (existing.num_samples if existing else 0)
    if manifest.num_samples == planned:
        return
    counts = count_existing(manifest)
    for check in (check_two_classes, check_classes_in_train):
        try:
            check(counts, manifest.tasks)
        except InputError as error:
            print(f"{manifest.root}, without the bad images: {error}", file=sys.stderr)


def check_target(out: Store) -> None:
    """Raises `InputError` if the folder holds something that is neither a shard set nor unfinished work."""
    names = set(out.names())
    if names and MANIFEST_FILE not in names and WORK not in names:
        raise InputError(f"--out {out} is not empty and no shard set. Give another folder.")


def open_or_make_plan(
    out: Store, tables: RowTables, id: str, dataset: Dataset, existing: Manifest | None, options: Options
) -> Plan:
    """Returns the plan that this call has begun earlier, or makes it.

    Raises:
        InputError: The work in `out` was begun with other input or options, or no plan can be made.
    """
    if out.exists(f"{WORK}/{PLAN_FILE}"):
        begun = open_plan(out)
        if begun.id == id:
            if out.local is not None:
                return begun
            # the row tables of a remote set are local and new, but its shards were cut by the first estimate of image sizes
            return replace(make_plan(tables, id, dataset, existing, options), shards=begun.shards)
        finished = finished_shards(out)
        if finished or options.partition:
            raise InputError(
                f"{out} holds {len(finished)} finished shards of a call with other images, labels or options. Repeat that call, "
                f"give another --out, or delete {out}/{WORK} and the tars that no manifest lists."
            )
        remove_plan(out)  # before its tables: a plan must not outlive them
    plan = make_plan(tables, id, dataset, existing, options)
    dropped = tables.folder / DROPPED_FILE
    if out.local is not None:
        folder = out.local / WORK / PLAN_FOLDER
        out.remove(f"{WORK}/{PLAN_FOLDER}")
        folder.mkdir()
        for name in PLAN_TABLES:
            (tables.folder / name).rename(folder / name)
        plan = replace(plan, folder=folder)
    if dropped.exists():
        sync_to_disk(dropped)
        out.publish(dropped, f"{WORK}/{DROPPED_FILE}")
    out.write(f"{WORK}/{PLAN_FILE}", lambda path: write_plan(plan, path))
    return plan


def open_plan(out: Store) -> Plan:
    """Opens the plan of the work in `out`; on a remote store, without its tables."""
    with out.fetched(f"{WORK}/{PLAN_FILE}") as path:
        return read_plan(path, path.parent / PLAN_FOLDER)


def plan_id(tables: RowTables, dataset: Dataset, options: Options) -> str:
    """Returns the id of the plan that these rows and options lead to."""
    declared = [[task.name, list(task.classes), task.source] for task in dataset.tasks]
    chosen = {**options.identity(), "place": dataset.images.root}
    return hash_text(json.dumps([tables.sha256, chosen, declared], sort_keys=True))
