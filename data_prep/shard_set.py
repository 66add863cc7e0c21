"""From a data set to a shard set: plan, write, close. Every stage can be killed, and goes on when it is started again."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.dataset import Dataset
from data_prep.planning.make_plan import Options, check_same_tasks, make_plan
from data_prep.planning.plan import DROPPED_FILE, PLAN_FILE, Plan, plan_id, read_plan, write_plan
from data_prep.planning.row_tables import PLAN_TABLES, Spooled, spool
from data_prep.pool import prepare_workers
from data_prep.writing.finalise import close_set, report_duplicates
from data_prep.writing.shard import WORK, ShardWork, write_shards
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.versions import MANIFEST_FILE, is_shard_set
from matl_scale.errors import InputError, shortened
from matl_scale.storage.files import sync_file
from matl_scale.storage.locks import lock_folder
from matl_scale.storage.store import Store

PLAN_FOLDER = "plan"


def write_shard_set(
    build: Callable[[Path], Dataset],
    place: str | Path,
    options: Options = Options(),  # noqa: B008 - frozen
) -> Manifest | None:
    """Writes a data set to a folder or URL, or adds its splits to the shard set that is there.

    A call that was killed is repeated: finished shards are kept if they are whole. A set that is complete by these very
    rows and options is left as it is.

    Args:
        build: Makes the data set; it may keep files in the folder that it is given for as long as this call lasts.
        place: Missing, empty, begun by the same call, or a shard set with the same tasks and none of these splits.
        options: How.

    Returns:
        The set; None after a partition.

    Raises:
        InputError: The place cannot take the data, or an image is bad. Finished shards stay for the next call, if there are
            any; nothing else is left behind.
    """
    out = Store(place)
    check_target(out)
    if options.workers > 1:
        prepare_workers()
    with working(out, options.partition) as scratch:
        dataset = build(scratch)
        existing = read_manifest(out) if is_shard_set(out) else None
        spooled = spool(dataset, scratch)
        if existing and is_closed(existing, identify(spooled, dataset, options)):
            if not options.partition:
                out.remove(WORK)  # a call that was killed just before its end
            print(f"{out} is complete: there is nothing to do", file=sys.stderr)
            return existing
        with (out / WORK).lock(
            ".lock-plan", wait=True
        ):  # the parts of an array job share the plan that the first of them makes
            plan = settle_plan(out, scratch, spooled, dataset, existing, options)
        number, count = options.partition or (1, 1)
        jobs = range(len(plan.shards))[number - 1 :: count]
        work = ShardWork(plan=plan, images=dataset.images, out=str(out), skip_bad=options.skip_bad, scratch=scratch)
        try:
            outcomes = write_shards(work, jobs, options.workers)
        except InputError:
            if not options.partition:
                forget_plan(out)
            raise
        kept = sum(outcome.kept for outcome in outcomes)
        if kept:
            print(f"{kept} of {len(jobs)} shards were finished already", file=sys.stderr)
        say_skipped([entry for outcome in outcomes for entry in outcome.bad], out)
        if options.partition:
            return None
        return finish(out, plan, existing, scratch)


def merge_shard_set(place: str | Path) -> Manifest:
    """Closes a set whose shards were written in partitions.

    Raises:
        InputError: There is no such work, or shards are missing.
    """
    out = Store(place)
    if not out.exists(f"{WORK}/{PLAN_FILE}"):
        if is_shard_set(out):
            print(f"{out} is complete: there is nothing to merge", file=sys.stderr)
            return read_manifest(out)
        raise InputError(f"{out} has no work to merge. Write all parts first, with `matl-data shard --partition i/n`.")
    with working(out, None) as scratch:
        plan = open_plan(out)
        existing = read_manifest(out) if is_shard_set(out) else None
        if existing and is_closed(existing, plan.id):
            out.remove(WORK)
            return existing
        return finish(out, plan, existing, scratch)


def is_closed(manifest: Manifest, plan: str) -> bool:
    """Returns whether a version of the set was made by this plan."""
    return any(entry.get("plan") == plan for entry in manifest.entries)


def finish(out: Store, plan: Plan, existing: Manifest | None, scratch: Path) -> Manifest:
    if existing:
        check_same_tasks(existing, plan.tasks)  # they may have changed since the plan was made
    manifest = close_set(out, plan, existing, scratch)
    if report := report_duplicates(manifest):
        print(report, file=sys.stderr)
    return manifest


def say_skipped(bad: Sequence[tuple[str, str]], out: Store) -> None:
    if bad:
        names = shortened((name for name, _ in bad), 5)
        print(f"left out {len(bad)} bad images: {names}. All are listed in {out}/skipped.csv", file=sys.stderr)


def check_target(out: Store) -> None:
    """Raises `InputError` if the folder holds something that is neither a shard set nor unfinished work."""
    names = set(out.names())
    if names and MANIFEST_FILE not in names and WORK not in names:
        raise InputError(f"--out {out} is not empty and no shard set. Give another folder.")


@contextlib.contextmanager
def working(out: Store, partition: tuple[int, int] | None) -> Iterator[Path]:
    """Locks the work in `out` and gives a folder for unfinished files, which goes in the end.

    Locks are those of the local file system; remote stores have none.
    """
    if out.local is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    is_new = not out.local.exists()
    work = out.local / WORK
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(open_work(work, shared=partition is not None))
            if partition:
                stack.enter_context(lock_folder(work, f".lock-{partition[0]}-of-{partition[1]}"))
            else:
                clear_scratch(work)
            with tempfile.TemporaryDirectory(prefix="scratch-", dir=work) as folder:
                yield Path(folder)
    except OSError as error:
        raise InputError(f"{error.filename or out}: {error.strerror or error}. Run the same command again.") from error
    finally:
        remove_empty(out.local, is_new)


@contextlib.contextmanager
def open_work(work: Path, shared: bool) -> Iterator[None]:
    """Makes the folder of unfinished work if it is not there, and holds its lock."""
    with contextlib.ExitStack() as stack:
        while True:
            work.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another call has just removed it
                stack.enter_context(lock_folder(work, shared=shared))
                break
        yield


def remove_empty(root: Path, is_new: bool) -> None:
    """Removes the folder of unfinished work if nothing is begun there and no other call uses it, and an empty `root`."""
    work = root / WORK
    if work.is_dir() and not (work / PLAN_FILE).exists():
        with contextlib.suppress(InputError), lock_folder(work):
            Store(root).remove(WORK)
    if is_new and root.is_dir() and not any(root.iterdir()):
        root.rmdir()


def forget_plan(out: Store) -> None:
    """Forgets a plan by which no shard was finished, so that a call that has failed leaves nothing behind."""
    if not any(name.endswith(".parquet") for name in (out / WORK).names()):
        out.remove(f"{WORK}/{PLAN_FILE}")


def clear_scratch(work: Path) -> None:
    """Removes what killed calls have left; only while no other call is at work."""
    store = Store(work)
    for path in work.glob("scratch-*"):
        store.remove(path.name)


def settle_plan(
    out: Store, scratch: Path, spooled: Spooled, dataset: Dataset, existing: Manifest | None, options: Options
) -> Plan:
    """Returns the plan that is there already, or makes it.

    Raises:
        InputError: The work in `out` was begun with other input or options, or the plan cannot be.
    """
    id = identify(spooled, dataset, options)
    if out.exists(f"{WORK}/{PLAN_FILE}"):
        begun = open_plan(out)
        if begun.id == id:
            if out.local is not None:
                return begun
            # sizes of images are estimated anew, and the shards that are there already have been cut by the first estimate
            return replace(make_plan(scratch, spooled, id, dataset, existing, options), shards=begun.shards)
        finished = [name for name in (out / WORK).names() if name.endswith(".parquet")]
        if finished or options.partition:
            raise InputError(
                f"{out} holds {len(finished)} finished shards of a call with other images, labels or options. Repeat that call, "
                f"give another --out, or delete {out}/{WORK} and the tars that no manifest lists."
            )
        out.remove(f"{WORK}/{PLAN_FILE}")  # before its tables are: a plan without them would be taken for whole
    plan = make_plan(scratch, spooled, id, dataset, existing, options)
    if out.local is not None:
        folder = out.local / WORK / PLAN_FOLDER
        out.remove(f"{WORK}/{PLAN_FOLDER}")
        folder.mkdir()
        for name in PLAN_TABLES:
            (scratch / name).rename(folder / name)
        plan = replace(plan, folder=folder)
    if (scratch / DROPPED_FILE).exists():
        sync_file(scratch / DROPPED_FILE)
        out.publish(scratch / DROPPED_FILE, f"{WORK}/{DROPPED_FILE}")
    out.write(f"{WORK}/{PLAN_FILE}", lambda path: write_plan(plan, path))
    return plan


def open_plan(out: Store) -> Plan:
    """Opens the plan of the work in `out`; on a remote store, without its tables."""
    with out.fetched(f"{WORK}/{PLAN_FILE}") as path:
        return read_plan(path, path.parent / PLAN_FOLDER)


def identify(spooled: Spooled, dataset: Dataset, options: Options) -> str:
    """Returns the id of the plan that this call leads to."""
    return plan_id(spooled, {**options.identity(), "place": dataset.images.place}, dataset.tasks)
