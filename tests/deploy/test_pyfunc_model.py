"""A served model gives probabilities, decisions or logits. It imports what a network needs, and nothing of training."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.decision_rules import give_decisions, give_prior_offsets, slow_decisions, slow_probabilities
from matl_scale.decisions.rule import DecisionRule
from matl_scale.deploy.task_rules import OUTPUTS
from matl_scale.runs.checkpoints.checkpoint import read_info

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
found = {}
for output in ("logits", "probabilities", "decisions"):
    by_task = model.predict(None, images, {"task": "*", "output": output})
    assert list(by_task) == model.tasks, by_task
    found |= {f"{output} {name}": values for name, values in by_task.items()}
    answer = model.predict(None, images, {"task": model.tasks[-1], "output": output})
    assert np.array_equal(answer, by_task[model.tasks[-1]])
answer = model.predict(None, images)
assert np.array_equal(answer, found[f"probabilities {model.tasks[0]}"]), "the defaults"
try:
    model.predict(None, images, {"output": "scores"})
except ValueError as error:
    assert str(error) == "`output` should be one of logits, probabilities, decisions. Got 'scores'.", error
else:
    raise AssertionError
np.savez(sys.argv[3], **found)
is_package = {name: hasattr(module, "__path__") for name, module in sys.modules.items()}
print(json.dumps(is_package))
"""


def serve(network: Path, answers: Path) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Loads a network as MLflow does. Returns its answers by output and task, and for each imported module if it is a package."""
    model = str(ROOT / "matl_scale/deploy/pyfunc_model.py")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, model, str(network), str(answers)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    with np.load(answers) as found:
        return dict(found), json.loads(result.stdout.splitlines()[-1])


def copy_network(tmp_path: Path) -> Path:
    return Path(shutil.copytree(next((RUN / "best").iterdir()), tmp_path / "network"))


def test_serving_imports_little(tmp_path: Path) -> None:
    network = copy_network(tmp_path)
    give_decisions(network)
    _, is_package = serve(network, tmp_path / "answers.npz")
    ours = [name for name, package in is_package.items() if name.startswith("matl_scale.") and not package]
    ours = [name.removeprefix("matl_scale.") for name in ours]
    # how a network is built and routed may be split into more files; of everything else it needs these
    others = {name for name in ours if "." in name and name.split(".")[0] not in ("models", "routing")}
    assert others == {
        "decisions.rule", "decisions.table", "deploy.answer", "deploy.task_rules", "metrics.names", "runs.layout",
        "runs.checkpoints.checkpoint", "runs.checkpoints.compatibility", "runs.checkpoints.decisions",
        "runs.checkpoints.masks", "runs.checkpoints.network", "storage.files",
    }  # fmt: skip
    assert not {"accelerate", "jsonargparse", "webdataset"} & set(is_package)
    of_others = {"routing.affinity_masks", "routing.slice_gradients", "models.pretrained", "models.from_timm.library"}
    assert not of_others & set(ours), "drawing masks, training, other networks"


@pytest.mark.parametrize("fitted", [True, False])
def test_a_served_network_decides_as_its_rules_say(fitted: bool, tmp_path: Path) -> None:
    """Without decisions, the prior correction alone applies, where a task has one."""
    network = copy_network(tmp_path)
    tasks = read_info(network).tasks
    prior = {next(iter(tasks)): [0.0, 3.0]}
    give_prior_offsets(network, prior)
    rules = give_decisions(network).rules if fitted else {}
    found, _ = serve(network, tmp_path / "answers.npz")
    for name, num_classes in tasks.items():
        rule = rules.get(name) or DecisionRule.unfitted(num_classes, prior.get(name))
        logits, probabilities, decisions = (found[f"{output} {name}"] for output in OUTPUTS)
        assert {values.dtype for values in (logits, probabilities, decisions)} == {np.dtype(np.float32)}
        np.testing.assert_allclose(probabilities, slow_probabilities(rule, logits), atol=1e-6)
        assert decisions.tolist() == [[choice] for choice in slow_decisions(rule, logits)]
