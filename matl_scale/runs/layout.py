"""The names of the files in a run folder."""

NONFINITE_FILE = "nonfinite.csv"

DAMAGED_FILE = "damaged.csv"

CHECKPOINTS = "checkpoints"  # in the run's folder

CONFIG_FILE = "config.yaml"

METRICS_FILE = "metrics.jsonl"
PER_TASK_FILE = "per_task.parquet"
DRAWS_FILE = "draws.parquet"
BALANCE_FILE = "balance.parquet"
STATUS_FILE = "status.json"
ABOUT_FILE = "about.json"
MASKS_FILE = "masks.npz"  # routing masks by layer, bool, (num_tasks, num_units)
BEST = "best"  # folder with the best network
NETWORK_FILE = "checkpoint.json"  # what a network's folder says of it
