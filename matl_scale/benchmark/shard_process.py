"""A process that only shards, so that it has imported no more than `matl-data` does.

For every line that it reads, it shards once and prints the seconds and its peak memory in MiB.
"""

import contextlib
import io
import shutil
import sys
import time
from pathlib import Path

from data_prep.labels.matrix import ColumnRoles
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from data_prep.sources import labelled


def main() -> None:
    images, labels, out, shard_mb, workers = sys.argv[1:]
    options = Options(shard_mb=float(shard_mb), workers=int(workers))
    for _ in sys.stdin:
        if Path(out).exists():
            shutil.rmtree(out)
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            write_shard_set(lambda scratch: labelled.build(images, labels, ColumnRoles(), scratch), out, options)
        seconds = time.perf_counter() - start
        print(seconds, peak_mib(), flush=True)


def peak_mib() -> float:
    """Returns the peak memory of this program. `resource.getrusage` would include the parent's before `exec`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
