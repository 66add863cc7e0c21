"""Exported files give the routed network's logits in every format, say what they are, and need nothing from the package."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import fx, nn

from helpers.exported_networks import (
    DESCRIPTION,
    MANY_TASKS,
    SIZE,
    count_layers,
    masked,
    on_two_routes,
    routed,
)
from helpers.network_outputs import gap, images_of
from matl_scale import InputError
from matl_scale.deploy.export import formats
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import FORMATS, Format
from matl_scale.deploy.export.formats import open_exported, write_network
from matl_scale.deploy.export.source import write_source


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["resnet18", "group norm", "convnext"])
def test_files_give_the_same_logits_for_any_number_of_images(name: str, kind: str, tmp_path: Path) -> None:
    model = routed(name).float()
    path = write_network(dense_network(model, 1), DESCRIPTION, tmp_path / "file", kind)
    network = open_exported(path)
    for batch in (1, 2, 5):
        assert gap(network(images_of(SIZE, batch).float()), model(images_of(SIZE, batch).float(), 1)) < 1e-5
    assert not list(tmp_path.glob(".partial*"))
    assert not re.search(rb"/[\w.-]+/[\w./-]+\.py", path.read_bytes()), "no paths of this machine"


@pytest.mark.parametrize("kind", FORMATS)
def test_one_file_has_the_logits_of_all_tasks(kind: Format, tmp_path: Path) -> None:
    model = on_two_routes("resnet18", "layer3").float()
    path = write_network(dense_network(model, range(5)), MANY_TASKS, tmp_path / "file", kind)
    network, exact = open_exported(path), copy.deepcopy(model).double()
    for batch in (1, 5):
        images = images_of(SIZE, batch).float()
        for task_id, logits in enumerate(network(images)):
            assert gap(logits.double(), masked(exact, task_id, images.double())) < 1e-5
    assert count_layers(path, "conv") == 10 + 2 * 10  # those in front of layer3 once
    assert count_layers(path, "linear") == 2  # one head per route


def test_a_file_of_several_tasks_says_which_output_is_which(tmp_path: Path) -> None:
    import onnx

    dense = dense_network(on_two_routes("flat").float(), range(5))
    model = onnx.load(write_network(dense, MANY_TASKS, tmp_path / "file", "onnx"))
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert [output.name for output in model.graph.output] == json.loads(texts["outputs"])
    assert json.loads(texts["outputs"]) == ["logits_0", "logits_1", "logits_2", "logits_3", "logits_4"]
    assert json.loads(texts["tasks"]) == ["0-é", "1-é", "2-é", "3-é", "4-é"]
    assert [len(classes) for classes in json.loads(texts["classes"])] == [2, 3, 2, 4, 2]
    assert [output.type.tensor_type.shape.dim[0].dim_param for output in model.graph.output] == ["batch"] * 5
    with safe_open(write_network(dense, MANY_TASKS, tmp_path / "file", "safetensors"), "pt") as file:
        assert file.metadata() == texts
    extra = {"description.json": ""}
    torch.export.load(write_network(dense, MANY_TASKS, tmp_path / "file", "torch.export"), extra_files=extra)
    assert json.loads(extra["description.json"])["tasks"] == ["0-é", "1-é", "2-é", "3-é", "4-é"]


def test_files_say_what_they_are(tmp_path: Path) -> None:
    dense = dense_network(routed("flat").float(), 1)
    texts = {
        **{
            "task": 'a/"b"\n',
            "classes": '["ja", "nein", "né\'e"]',
            "image_size": "32",
            "fit": "crop",
            "mean": "[0.485, 0.456, 0.406]",
        },
        **{"std": "[0.229, 0.224, 0.225]", "run": "first", "step": "30", "checkpoint_sha256": "ab12"},
        # no decisions were fitted
        **{"output": "logits", "aim": "", "fitted_on": "", "note": "", "threshold": "null"},
        **{"scale": "1.0", "shift": "[0.0, 0.0, 0.0]", "decision_offsets": "[0.0, 0.0, 0.0]"},
    }
    weights = write_network(dense, DESCRIPTION, tmp_path / "file", "safetensors")
    with safe_open(weights, "pt") as file:
        assert file.metadata() == texts
    import onnx

    model = onnx.load(write_network(dense, DESCRIPTION, tmp_path / "file", "onnx"))
    assert {entry.key: entry.value for entry in model.metadata_props} == texts
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    extra = {"description.json": ""}
    torch.export.load(write_network(dense, DESCRIPTION, tmp_path / "file", "torch.export"), extra_files=extra)
    assert json.loads(extra["description.json"])["classes"] == ["ja", "nein", "né'e"]


ALONE = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}  # torch alone imports nothing of an installed matl_scale
SCRIPT = """
import sys, importlib.util
import torch
spec = importlib.util.spec_from_file_location("exported", sys.argv[1] + "/file.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.TASK == 'a/"b"\\n' and module.CLASSES == ["ja", "nein", "né'e"], module.CLASSES
images, wanted = torch.load(sys.argv[1] + "/case.pt")
with torch.no_grad():
    for network in (module.load(), module.load(sys.argv[1] + "/file.safetensors")):
        assert (network(images) - wanted).abs().max() < 1e-10
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"matl_scale", "torchvision", "accelerate"}, loaded
"""


def test_the_module_beside_the_weights_runs_without_this_package(tmp_path: Path) -> None:
    model = routed("group norm")  # has a layer of its own
    write_network(dense_network(model, 1), DESCRIPTION, tmp_path / "file", "safetensors")
    torch.save((images_of(SIZE), model(images_of(SIZE), 1).detach()), tmp_path / "case.pt")
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=tmp_path, env=ALONE, check=True)


MANY_SCRIPT = """
import runpy, sys
import torch
module = runpy.run_path(sys.argv[1] + "/file.py")
assert module["TASKS"] == ["0-é", "1-é", "2-é", "3-é", "4-é"]
assert module["CLASSES"][:2] == [["a", "b"], ["a", "b", "c"]]
images, wanted = torch.load(sys.argv[1] + "/case.pt")
with torch.no_grad():
    found = module["load"]()(images)
assert all((a - b).abs().max() < 1e-10 for a, b in zip(found, wanted, strict=True))
assert "matl_scale" not in sys.modules
"""


def test_the_module_of_several_tasks_runs_without_this_package(tmp_path: Path) -> None:
    model = on_two_routes("group norm", "3")
    write_network(dense_network(model, range(5)), MANY_TASKS, tmp_path / "file", "safetensors")
    torch.save((images_of(SIZE), [masked(model, i, images_of(SIZE)) for i in range(5)]), tmp_path / "case.pt")
    subprocess.run([sys.executable, "-c", MANY_SCRIPT, str(tmp_path)], cwd=tmp_path, env=ALONE, check=True)


def test_python_is_readable() -> None:
    source = write_source(dense_network(routed("resnet18").float(), 1), DESCRIPTION)
    assert (
        "        self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3)\n        self.relu = nn.ReLU(inplace=True)\n"
        in source
    )
    assert "        maxpool = self.maxpool(relu);  relu = None\n" in source
    assert "        add = layer1_0_conv2 + maxpool;  layer1_0_conv2 = maxpool = None\n" in source


def test_python_of_several_tasks_is_readable() -> None:
    source = write_source(dense_network(on_two_routes("resnet18", "layer3").float(), range(5)), MANY_TASKS)
    assert "A network for 5 image-classification tasks" in source
    assert "a tuple of logits, one for each of TASKS, of shape `(batch, len(CLASSES[i]))`" in source
    assert "        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3)\n" in source
    assert "        self.route_1_layer3_0_conv1 = nn.Conv2d(16, 16, 3, stride=2, padding=1)\n" in source
    assert "        split = route_0_head.split([2, 2, 4], 1);  route_0_head = None\n" in source
    assert "        return (getitem, getitem_3, getitem_1, getitem_2, getitem_4)\n" in source


def test_what_is_too_large_for_onnx_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_ONNX_BYTES", 1000)
    with pytest.raises(
        InputError, match=r"The weights for file.onnx are .* GB.* Use the format safetensors or torch.exp"
    ):
        write_network(dense_network(on_two_routes("flat"), range(5)), MANY_TASKS, tmp_path / "file", "onnx")


def test_what_has_no_python_is_refused_by_name() -> None:
    graph = fx.Graph()
    graph.output(graph.call_module("odd", (graph.placeholder("images"),)))
    network = fx.GraphModule({"odd": type("Odd", (nn.Linear,), {})(2, 2)}, graph)
    with pytest.raises(InputError, match=r"layer `odd` is Odd\(.*Use the format onnx or torch.export"):
        write_source(network, DESCRIPTION)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        InputError, match=r"The format onnx needs `onnxscript`, not installed here.* pip install 'matl-scale\[export\]'"
    ):
        write_network(dense_network(routed("flat"), 1), DESCRIPTION, tmp_path / "file", "onnx")
