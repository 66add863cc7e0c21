"""The machine: its processors and the port by which ranks find each other."""

import os
import socket
from collections.abc import Iterator, Mapping

from matl_scale.automatic import chosen
from matl_scale.doctor.finding import Finding
from matl_scale.launcher import read_count
from matl_scale.train.config import Config
from matl_scale.train.defaults.facts import count_cores

DEFAULT_PORT = 29500


def check_processors(
    config: Config, ranks_per_node: int, environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Checks that this node has a processor for every rank and every loader process."""
    num_cpus, workers = count_cores(environment), chosen(config.data.workers)
    needed = ranks_per_node * (1 + workers)
    text = f"{needed} processes on {num_cpus} CPUs of this node ({ranks_per_node} ranks × 1 + {workers} workers)"
    if needed > num_cpus:
        remedy = "Lower `data.workers`" + (
            f", or sbatch --cpus-per-task={needed}." if read_count("SLURM_CPUS_ON_NODE", 0, environment) else "."
        )
        yield Finding("warning", "processors", f"{text}: they will wait for each other.", remedy)
    else:
        yield Finding("ok", "processors", f"{text}.")


def check_port(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks that the port by which ranks find each other is free. Not for a rank: its own launcher uses the port."""
    port = read_count("MASTER_JOB_PORT", read_count("MASTER_PORT", DEFAULT_PORT, environment), environment)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            remedy = "Another run is on this machine: give accelerate launch another --main_process_port."
            yield Finding("warning", "port", f"port {port} cannot be used ({error.strerror}).", remedy)
        else:
            yield Finding("ok", "port", f"port {port} is free.")
