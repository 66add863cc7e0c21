"""What one of several runs at a time has of the machine for itself."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

GPUS, THREADS, SLURM_CORES = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_CPUS_ON_NODE"


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one of the runs at a time has for itself."""

    cores: frozenset[int]
    gpu: str = ""  # as CUDA_VISIBLE_DEVICES names it; empty if there is none

    def environment(self) -> dict[str, str]:
        """Returns the variables that keep a process to its share. A number of threads that somebody has set stays."""
        found = {THREADS: os.environ.get(THREADS, str(len(self.cores)))}
        if SLURM_CORES in os.environ:
            found[SLURM_CORES] = str(len(self.cores))
        return found | ({GPUS: self.gpu} if self.gpu else {})


@contextlib.contextmanager
def confined_to(share: Share) -> Iterator[None]:
    """Keeps this process to a share, without its GPU; processes that it starts meanwhile inherit that, the GPU too."""
    cores, variables = os.sched_getaffinity(0), share.environment()
    before = {name: os.environ.get(name) for name in variables}
    os.sched_setaffinity(0, share.cores)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        os.sched_setaffinity(0, cores)
