"""The suites by name."""

from collections.abc import Callable

from matl_scale.benchmark import evaluation, export, memory, reading, sharding, step, sync, tracking
from matl_scale.benchmark.figure import Conditions, Figure

SUITES: dict[str, Callable[[Conditions], list[Figure]]] = {
    "step": step.figures,
    "eval": evaluation.figures,
    "sync": sync.figures,
    "memory": memory.figures,
    "data": lambda conditions: sharding.figures(conditions) + reading.figures(conditions),
    "export": export.figures,
    "tracking": tracking.figures,
}
ON_RANKS = ("sync",)  # these need several ranks; the others run on one
# not by default. data: takes minutes, and depends on the disk; export: needs ONNX's packages; tracking: needs Chromium
BY_NAME = ("data", "export", "tracking")
DATA_SETS = ("fashion_mnist", "cifar100")  # of the suite data
