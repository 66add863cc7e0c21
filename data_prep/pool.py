"""Runs independent jobs in worker processes and shows progress. Workers end when the process that started them ends."""

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for_handles
from typing import Any, TypeVar

from matl_scale.errors import InputError
from matl_scale.progress import ItemProgress

POLL_S = 0.2
Result = TypeVar("Result")
Advance = Callable[[int], None]  # is told how many more items of the job are done
Work = Callable[[int, Advance], Result]  # gets the index of a job


def prepare_workers() -> None:
    """Starts the process that workers are forked from; it imports what they need while this process continues."""
    # imported once instead of once per worker; pyarrow looks for pandas when it makes its first array
    multiprocessing.set_forkserver_preload(
        ["__main__", "data_prep.writing.shard", "matl_scale.data.images.sources", "pandas"]
    )
    forkserver.ensure_running()


def run_jobs(work: Work[Result], jobs: Sequence[int], workers: int, total: int, unit: str) -> Iterator[Result]:
    """Runs jobs, given as indices, and yields their results as they come. With one worker, they run in this process; otherwise
    `work` is pickled once per worker. `total` is the number of items, called `unit`, in all jobs together.

    Raises:
        InputError: A worker was killed.
    """
    with ItemProgress(total, unit) as progress:
        if workers > 1 and len(jobs) > 1:
            yield from run_in_workers(work, jobs, min(workers, len(jobs)), progress)
        else:
            for job in jobs:
                yield work(job, lambda items: progress.update(progress.done + items))


def run_in_workers(work: Work[Result], jobs: Sequence[int], workers: int, progress: ItemProgress) -> Iterator[Result]:
    context = multiprocessing.get_context("forkserver")
    done = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(work, done))
    try:
        pending: set[Future[Result]] = {pool.submit(_run_job, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            progress.update(done.value)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "A worker process was killed (is there enough memory?). What is finished is kept: run the same command again, "
            "perhaps with fewer --workers."
        ) from error
    finally:
        for process in list((pool._processes or {}).values()):  # there is no public way to end a running job
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


_work: Any = None
_done: Any = None


def _start_worker(work: Any, done: Any) -> None:
    global _work, _done
    _work, _done = work, done
    gc.disable()  # jobs make no cycles, but millions of small objects that the collector would visit again and again
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_handles([parent.sentinel])
    os._exit(1)


def _run_job(job: int) -> Any:
    def advance(items: int) -> None:
        with _done.get_lock():
            _done.value += items

    return _work(job, advance)
