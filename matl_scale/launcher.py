"""What a launcher says about the ranks of a run, in environment variables that have to come together or not at all.

Everything that depends on them reads them here: half of them would end in a trace of torch, or in a wait for ranks that
nobody started.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from matl_scale.errors import InputError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
COUNTS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
REQUIRED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # accelerate goes by them on a CPU
MAX_PORT = 65535
REMEDY = (
    "Start several processes with `accelerate launch`, which sets all of them; for a single process, remove them: "
    "unset {names}."
)


@dataclass(frozen=True, kw_only=True)
class LaunchedRank:
    """Which of the processes of a launcher this one is."""

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1  # processes on this machine


def read_launch(environment: Mapping[str, str] = os.environ) -> LaunchedRank:
    """Returns which rank this process is; that of a single process if nobody launched several.

    Raises:
        InputError: Some of the variables are missing, no number, or contradict each other.
    """
    found = {name: value for name in VARIABLES if (value := environment.get(name, ""))}
    for name in (*COUNTS, "MASTER_PORT"):
        read_count(name, 0, found)
    check_mpi(environment, found)
    rank, world_size = read_count("RANK", 0, found), read_count("WORLD_SIZE", 1, found)
    if is_single(found):
        return LaunchedRank()
    if missing := [name for name in REQUIRED if name not in found]:
        raise InputError(
            f"The launcher's variables should all be set, or none. Set: {describe(found)}. Missing: {', '.join(missing)}. "
            + REMEDY.format(names=" ".join(found))
        )
    local_rank, local_size = read_count("LOCAL_RANK", 0, found), read_count("LOCAL_WORLD_SIZE", world_size, found)
    if rank >= world_size or local_rank >= local_size or local_size > world_size:
        raise InputError(
            "RANK should be below WORLD_SIZE, LOCAL_RANK below LOCAL_WORLD_SIZE, and that at most WORLD_SIZE. "
            f"Got {describe(found)}. " + REMEDY.format(names=" ".join(found))
        )
    if not 0 < int(found["MASTER_PORT"]) <= MAX_PORT:
        raise InputError(f"MASTER_PORT should be a port, 1 to {MAX_PORT}. Got {found['MASTER_PORT']}.")
    return LaunchedRank(
        rank=rank, world_size=world_size, local_world_size=local_size if "LOCAL_WORLD_SIZE" in found else 1
    )


def is_single(found: Mapping[str, str]) -> bool:
    """Returns whether the variables describe a process alone, as containers and schedulers set them for one replica."""
    if "LOCAL_RANK" in found or read_count("LOCAL_WORLD_SIZE", 1, found) > 1:
        return False
    if "WORLD_SIZE" not in found:
        return "RANK" not in found
    return int(found["WORLD_SIZE"]) == 1 and found.get("RANK", "0") == "0"


def check_mpi(environment: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raises `InputError` for several processes of MPI or srun that have no address to meet at."""
    sizes = {name: value for name in MPI_SIZES if read_count(name, 1, environment) > 1 and (value := environment[name])}
    if sizes and not {"WORLD_SIZE", "MASTER_ADDR"} & set(found):
        raise InputError(
            f"MPI's variables say that there are several processes, and MASTER_ADDR is missing. Set: {describe(sizes)}. "
            + REMEDY.format(names=" ".join(sizes))
        )


def read_count(name: str, default: int, environment: Mapping[str, str] = os.environ) -> int:
    """Returns a variable of the environment as a number; `default` if it is empty or not set.

    Raises:
        InputError: It is no number, or below 0.
    """
    value = environment.get(name, "").strip()
    if not value:
        return default
    if not (value.isascii() and value.isdigit()):
        raise InputError(
            f"The environment variable {name} should be a whole number. Got {value!r}. Correct it, or: unset {name}."
        )
    return int(value)


def describe(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in found.items())
