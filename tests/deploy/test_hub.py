"""A hub folder gives the run's logits and decisions with torch, numpy and safetensors alone, and runs no code of its own."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import fx, nn
from torch.nn import functional

import matl_scale
from helpers.decision_rules import give_decisions, slow_decisions, slow_probabilities
from helpers.exported_networks import ROUTES, SIZE, on_two_routes
from helpers.network_outputs import images_of
from matl_scale import InputError
from matl_scale.commands import export as command
from matl_scale.deploy.hub.build_trunk import build_trunk
from matl_scale.deploy.hub.describe_trunk import TrunkDescription, describe_trunk
from matl_scale.deploy.hub.vocabulary import FUNCTIONS, METHODS
from matl_scale.models.network import RoutedModel
from matl_scale.models.predictor import Predictor
from matl_scale.routing.channels import ChannelTracer
from matl_scale.routing.channelwise import BlurPool, SamePadding
from matl_scale.runs.checkpoints.network import open_network, restore_network

ROOT = Path(__file__).parents[2]
# all that may be imported, beside what comes with Python: torch with what it requires itself
ALLOWED = (
    "matl_scale", "numpy", "torch", "torchgen", "functorch", "safetensors", "packaging", "typing_extensions", "sympy", "mpmath",
    "networkx", "jinja2", "markupsafe", "fsspec", "filelock", "setuptools",
)  # fmt: skip
SCRIPT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | set(sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
import matl_scale

network = matl_scale.load(sys.argv[2])
images = np.load(sys.argv[3])
found = {f"logits {task}": values for task, values in network.logits(images).items()}
found |= {f"probabilities {task}": values for task, values in network.probabilities(images).items()}
found |= {f"decided {task}": np.array(names) for task, names in network.predict(images).items()}
np.savez(sys.argv[4], **found)
try:
    network.read_images(["photo.jpg"])
except matl_scale.InputError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best network has decisions."""
    folder = Path(shutil.copytree(ROOT / "tests/data/old/runs/old", tmp_path_factory.mktemp("runs") / "old"))
    give_decisions(next((folder / "best").iterdir()))
    return folder


@pytest.fixture(scope="module")
def hub(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "a b"
    assert command.main(["--run", str(run), "--format", "hub", "--out", str(folder)]) == 0
    return folder


def some_images(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 3, size, size), dtype=np.uint8)


def test_a_folder_is_loaded_with_torch_numpy_and_safetensors_alone(run: Path, hub: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in hub.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    checkpoint = open_network(run)
    model = restore_network(checkpoint, torch.device("cpu"))
    images = some_images(checkpoint.image_size)
    np.save(tmp_path / "images.npy", images)
    arguments = [",".join(ALLOWED), str(hub), str(tmp_path / "images.npy"), str(tmp_path / "found.npz")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True, capture_output=True, text=True)
    assert re.match(r"Reading image files needs the package \w+, not installed here", done.stdout)
    predictor = Predictor(model, "subnetwork", route_chunk=64)
    predictor.start()
    expected = predictor.logits_of_tasks(model.normalise(torch.from_numpy(images)), range(len(checkpoint.tasks)))
    rules = give_decisions(checkpoint.folder).rules
    with np.load(tmp_path / "found.npz") as found:
        for task_id, (name, classes) in enumerate(checkpoint.classes.items()):
            logits = expected[task_id].numpy()
            assert np.array_equal(found[f"logits {name}"], logits)
            np.testing.assert_allclose(
                found[f"probabilities {name}"], slow_probabilities(rules[name], logits), atol=1e-9
            )
            assert found[f"decided {name}"].tolist() == [classes[i] for i in slow_decisions(rules[name], logits)]


def test_what_is_loaded_says_what_it_is(run: Path, hub: Path) -> None:
    network, checkpoint = matl_scale.load(hub), open_network(run)
    assert network.classes == checkpoint.classes
    assert network.tasks == list(checkpoint.classes)
    assert (network.step, network.run, network.image_size, network.fit) == (20, "old", 16, "crop")
    assert (network.fitted_on, set(network.aims.values())) == ("val", {"f1"})
    for name, rule in give_decisions(checkpoint.folder).rules.items():
        assert network.rules[name].threshold == rule.threshold
        assert np.array_equal(network.rules[name].shift, rule.shift)
    images = some_images(16)
    assert list(network.logits(images, "b*")) == ["bright", "blue"]
    with pytest.raises(InputError, match=r"`images` should be uint8, \(batch, 3, 16, 16\)\. Got torch\.float64"):
        network.logits(images / 255)
    with pytest.raises(InputError, match="`task` should match names of tasks"):
        network.predict(images, "brght")


def test_many_images_run_in_parts(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = matl_scale.load(hub)
    images = some_images(network.image_size)
    whole = network.logits(images)
    monkeypatch.setattr("matl_scale.deploy.answer.BATCH", 2)
    for task, values in network.logits(images).items():
        np.testing.assert_allclose(values, whole[task], atol=1e-5)
    assert all(len(found) == len(images) for found in network.predict(images).values())


def test_reading_images_makes_squares(hub: Path) -> None:
    photo = ROOT / "docs/images/report.png"
    network = matl_scale.load(hub)
    assert network.read_images([]).shape == (0, 3, 16, 16)
    images = network.read_images([photo, photo.read_bytes()])
    assert images.shape == (2, 3, 16, 16)
    assert np.array_equal(images[0], images[1])
    with pytest.raises(InputError, match="Image 1 cannot be used: "):
        network.read_images([photo, b"no image"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vgg11_bn", {}),
        ("resnext", {"affine": "route"}),
        ("regnet", {"statistics": "shared"}),
        ("group norm", {"affine": "route"}),
        ("convnext", {}),
        ("convnext", {"start": "features.3"}),  # other layer norms stay torchvision's
        ("resnet18", {"start": "layer3"}),
        ("flat", {}),
    ],
)
def test_a_trunk_is_built_again_from_its_description(name: str, settings: dict[str, Any]) -> None:
    """Every kind of layer and norm, in both executions, to the last bit."""
    model = on_two_routes(name, **settings)
    again = rebuild(model, describe_trunk(model.trunk))
    for execution in ("masked", "subnetwork"):
        expected, found = (logits_of(each, execution) for each in (model, again))
        for task_id, logits in expected.items():
            assert torch.equal(found[task_id], logits)


def test_layers_of_timm_are_built_again() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), SamePadding((3, 3), (2, 2), value=float("-inf"))]
    layers += [nn.MaxPool2d(3, 2), nn.Conv2d(8, 16, 3), nn.Mish(), BlurPool(3, 2, 1, "reflect")]
    model = on_two_routes(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double())
    again = rebuild(model, describe_trunk(model.trunk))
    for task_id, logits in logits_of(model, "subnetwork").items():
        assert torch.equal(logits_of(again, "subnetwork")[task_id], logits)


def rebuild(model: RoutedModel, trunk: TrunkDescription) -> RoutedModel:
    described = json.loads(json.dumps({"nodes": trunk.nodes, "layers": trunk.layers}))
    state = model.trunk.state_dict()
    built = build_trunk(described["nodes"], described["layers"], trunk.units, state)
    again = RoutedModel(built, model.num_classes, model.heads_of(0)[0].in_features, ROUTES).double()
    again.load_state_dict(model.state_dict())
    return again.eval()


def logits_of(model: RoutedModel, execution: Any) -> dict[int, torch.Tensor]:
    predictor = Predictor(model, execution, route_chunk=0)
    predictor.start()
    return predictor.logits_of_tasks(images_of(SIZE), range(5))


def test_the_vocabulary_covers_what_routing_can_follow() -> None:
    followed = ChannelTracer(fx.GraphModule({}, fx.Graph())).visitors
    assert {target for target in followed if isinstance(target, str)} <= METHODS
    assert {target for target in followed if callable(target)} <= set(FUNCTIONS.values())
    assert FUNCTIONS["torch.nn.functional.relu"] is functional.relu


def set_op(op: str, target: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        node = next(node for node in config["graph"]["nodes"] if node["op"] == "call_module")
        node |= {"op": op, "target": target}

    return change


def set_kind(kind: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["graph"]["layers"]["avgpool"]["kind"] = kind

    return change


def set_name(config: dict[str, Any]) -> None:
    config["graph"]["layers"]['x"]+print("'] = {"kind": "ReLU", "args": [], "kwargs": {}}
    set_op("call_module", 'x"]+print("')(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_op("call_function", "os.system"), "the operation call_function 'os.system'"),
        (set_op("call_method", "tofile"), "the operation call_method 'tofile'"),
        (set_op("call_method", "relu(); print"), "the operation call_method"),
        (set_op("get_attr", "__class__"), "the operation get_attr"),
        (set_kind("DataParallel"), "the layer 'DataParallel'"),
        (set_kind("parallel"), "the layer 'parallel'"),
        (set_name, "the operation call_module"),
        (lambda config: config.update(format_version=2), "has format 2; this version of matl_scale reads 1"),
        (lambda config: config.update(format="other"), "It is of 'other'"),
        (lambda config: config.pop("routes"), "is damaged: config.json and model.safetensors make no network"),
        (lambda config: config["tasks"].pop(), "is damaged"),
        (lambda config: config.update(weights_sha256="0"), "its SHA-256 is not the one in config.json"),
    ],
)
def test_a_folder_that_was_changed_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, hub: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(hub, tmp_path / "hub"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        matl_scale.load(folder)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no hub folder: it has no config\.json"):
        matl_scale.load(tmp_path)


def test_the_card_has_results_decisions_training_and_limits(run: Path, hub: Path) -> None:
    card = (hub / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    index = yaml.safe_load(front)
    (model,) = index["model-index"]
    by_task = {result["task"]["name"]: result for result in model["results"]}
    assert (index["library_name"], list(by_task)) == ("matl_scale", list(open_network(run).classes))
    metrics = {metric["type"]: metric["value"] for metric in by_task["bright"]["metrics"]}
    assert metrics["accuracy"] == pytest.approx(7 / 12)
    assert by_task["bright"]["dataset"]["split"] == "val"
    assert "| bright | no, yes | 12 |" in text
    assert re.search(r"^\| bright \| f1 \| yes from 0\.\d{4} \| \d", text, re.MULTILINE)
    assert "Not measured, for want of samples of two classes: colour, blue." in text
    assert str(run.parent) not in card, "no paths of this machine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "hub", "--task", "bright"], "--format hub writes the whole network"),
        (["--format", "hub", "--output", "decisions"], "--format hub writes the whole network"),
        ([], "One of --task NAME, --route NAME and --all should be given."),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--run", str(run), *options])
    assert message in capsys.readouterr().err
