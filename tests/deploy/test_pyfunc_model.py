"""A served model imports what a network needs, and nothing of training or data preparation."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests/data/old/runs/old"
SCRIPT = """
import json, runpy, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np

model = runpy.run_path(sys.argv[1])["TaskClassifier"]()  # as MLflow loads it
model.load_context(SimpleNamespace(artifacts={"network": sys.argv[2]}))
size = json.loads((Path(sys.argv[2]) / "checkpoint.json").read_text())["image_size"]
images = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
logits = model.predict(None, images, {"task": model.tasks[-1]})
assert logits.shape[0] == 2 and logits.dtype == np.float32, logits
by_task = model.predict(None, images, {"task": "*"})
assert list(by_task) == model.tasks and np.array_equal(by_task[model.tasks[-1]], logits), by_task
is_package = {name: hasattr(module, "__path__") for name, module in sys.modules.items()}
print(json.dumps(is_package))
"""


def test_serving_imports_little() -> None:
    network = next((RUN / "best").iterdir())
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        SCRIPT,
        str(ROOT / "matl_scale/deploy/pyfunc_model.py"),
        str(network),
    ]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    is_package = json.loads(result.stdout.splitlines()[-1])
    ours = [name for name, package in is_package.items() if name.startswith("matl_scale.") and not package]
    assert len(ours) < 35, sorted(ours)
    rooms = {name.split(".")[1] for name in ours}
    ground = {name for name in rooms if f"matl_scale.{name}" in ours}
    assert rooms - ground == {"models", "routing", "runs", "storage"}, sorted(ours)
    assert not {"accelerate", "jsonargparse", "webdataset"} & set(is_package)
