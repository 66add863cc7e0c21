"""The files in launch/ that other programs read."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.mark.parametrize(
    ("name", "machines", "use_cpu"),
    [("cpu", 1, True), ("single_gpu", 1, False), ("multi_gpu", 1, False), ("multi_node", 2, False)],
)
def test_accelerate_reads_its_configs(name: str, machines: int, use_cpu: bool) -> None:
    config = load_config_from_file(str(LAUNCH / "accelerate" / f"{name}.yaml"))
    assert (config.num_machines, config.use_cpu) == (machines, use_cpu)
    assert (config.num_processes == 1) == (config.distributed_type.value == "NO")
    assert config.mixed_precision == "no"  # train.precision alone sets it
