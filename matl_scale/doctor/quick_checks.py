"""The checks that every run makes before its first step, because they cost next to nothing."""

from matl_scale.doctor.data import check_data
from matl_scale.doctor.job import check_job
from matl_scale.doctor.machine import check_processors
from matl_scale.doctor.tracking import check_tracking
from matl_scale.launcher import read_launch
from matl_scale.train.config import Config
from matl_scale.train.run_data import RunData


def run_quick_checks(config: Config, data: RunData, world_size: int) -> list[str]:
    """Runs the quick checks, and returns a line for each warning and error."""
    per_node = read_launch().local_world_size
    checks = [
        check_data(config, data, world_size),
        check_tracking(config, ask=False),
        check_processors(config, per_node),
        check_job(config),
    ]
    return [finding.line() for check in checks for finding in check if finding.level in ("warning", "error")]
