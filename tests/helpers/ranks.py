"""Starts real ranks over gloo on this machine. A fork server imports once what they need; every rank is a fork of it."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

TIMEOUT_S = 300
_context = multiprocessing.get_context("forkserver")
# not the process's own server: `matl-data` starts that one, with what its workers need, and a server imports nothing later
_server = forkserver.ForkServer()
# installed packages: the server of Python 3.11 does not know the path to the tests yet
_server.set_forkserver_preload(["pytest", "scipy.stats", "matl_scale.train.run", "matl_scale.runs.checkpoints.network"])


def run_ranks(world_size: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Runs `work(*arguments)` on every rank of a process group of its own and returns their results by rank.

    Raises:
        AssertionError: A rank failed or did not end in time; the message holds its trace.
    """
    processes = start_ranks(world_size, work, folder, *arguments)
    for process in processes:
        process.join(TIMEOUT_S)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    outcomes = [read_outcome(folder, rank) for rank in range(world_size)]
    failures = [text for kind, text in outcomes if kind == "error"]
    assert not failures, failures[0]
    assert not hung, f"{len(hung)} of {world_size} ranks hang"
    return [result for _, result in outcomes]


def start_ranks(
    world_size: int, work: Callable[..., Any], folder: Path, *arguments: Any
) -> list[multiprocessing.process.BaseProcess]:
    """Starts `work(*arguments)` on every rank; `read_outcome` tells how each ended."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = [
        _context.Process(target=_rank, args=(rank, world_size, port, folder, work, arguments))
        for rank in range(world_size)
    ]
    with mock.patch.object(forkserver, "connect_to_new_process", _server.connect_to_new_process):
        for process in processes:
            process.start()
    return list(processes)


def read_outcome(folder: Path, rank: int) -> tuple[str, Any]:
    path = folder / f"rank-{rank}.pickle"
    return pickle.loads(path.read_bytes()) if path.is_file() else ("error", f"rank {rank} left nothing")


def free_port() -> int:
    """Returns a TCP port of the loopback device that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(
    rank: int, world_size: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch

    multiprocessing.set_start_method("fork", force=True)  # of its loader processes, as in a rank that a launcher starts
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if world_size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    try:
        outcome = ("result", work(*arguments))
    except BaseException:
        outcome = ("error", f"rank {rank} of {world_size}:\n{traceback.format_exc()}")
    (folder / f"rank-{rank}.pickle").write_bytes(pickle.dumps(outcome))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
