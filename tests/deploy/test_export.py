"""An exported network gives the routed network's logits, in every format, and needs nothing from the package."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import fx, nn

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from helpers.torchvision_models import backbone_of, small_convnext
from matl_scale import InputError, route
from matl_scale.commands import export as command
from matl_scale.deploy.export import export_tasks
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import Description, file_stem
from matl_scale.deploy.export.formats import FORMATS, open_exported, write_network
from matl_scale.deploy.export.source import write_source
from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.router import TaskRouter
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.train_step import TrainConfig
from matl_scale.vision import models

SIZE = 32
CLASSES = (2, 3, 4)
DESCRIPTION = Description(
    task='a/"b"\n',
    classes=("ja", "nein", "né'e"),
    image_size=SIZE,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    run="first",
    step=30,
    checkpoint_sha256="ab12",
)


def small_regnet() -> nn.Module:
    net = models.regnet.RegNet(models.regnet.BlockParams.from_init_params(2, 16, 8.0, 2.0, 4, se_ratio=0.25))
    net.fc = nn.Identity()
    return net.double()


def small_resnext() -> nn.Module:
    net = models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4)
    net.fc = nn.Identity()
    return net.double()


def group_norm_net() -> nn.Module:
    """A task has a different number of active channels in each group."""
    layers = [nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.GroupNorm(4, 32), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()


def flat_net() -> nn.Module:
    """Four features per channel after the flatten."""
    layers = [
        nn.Conv2d(3, 8, 3, stride=4, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.Dropout(),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()).double()


SMALL: dict[str, Callable[[], nn.Module]] = {
    "vgg11_bn": partial(backbone_of, "vgg11_bn", 0.125),
    "resnet18": partial(backbone_of, "resnet18", 0.125),
    "resnext": small_resnext,
    "regnet": small_regnet,
    "group norm": group_norm_net,
    "convnext": small_convnext,
    "flat": flat_net,
}
LARGE: dict[str, Callable[[], nn.Module]] = {
    "vgg11": partial(backbone_of, "vgg11", 0.125),
    "squeezenet1_1": partial(backbone_of, "squeezenet1_1", 0.25),
    "mobilenet_v3_small": partial(backbone_of, "mobilenet_v3_small"),
    "mnasnet0_5": partial(backbone_of, "mnasnet0_5"),
    "efficientnet_b0": partial(backbone_of, "efficientnet_b0"),
    "densenet121": partial(backbone_of, "densenet121", 0.5),
    "resnet50": partial(backbone_of, "resnet50", 0.125),
}
SETTINGS: list[tuple[float, Statistics]] = [(0.25, "task"), (0.5, "shared"), (1.0, "task")]
CASES = [(name, *setting) for name in SMALL for setting in SETTINGS] + [(name, 0.5, "task") for name in LARGE]


@cache
def backbone(name: str) -> nn.Module:
    return (SMALL | LARGE)[name]()


def images_of(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def routed(name: str, sigma: float = 0.5, statistics: Statistics = "task") -> RoutedModel:
    """A network in float64 whose tasks have seen a few batches."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = backbone(name)
        torch.manual_seed(0)
        trunk = route(net, len(CLASSES), sigma, statistics=statistics)
        for task_id in (0, 1):
            features = trunk(images_of() * (task_id + 1), torch.tensor([task_id]))
        return RoutedModel(trunk, CLASSES, features.shape[1]).double().eval()


def gap(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """Returns the largest difference, relative to the largest logit or to 1 if that is larger."""
    assert actual.shape == wanted.shape
    return float(((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1)).detach())


@pytest.mark.parametrize(("name", "sigma", "statistics"), CASES)
def test_logits_are_those_of_masked_execution(name: str, sigma: float, statistics: Statistics, tmp_path: Path) -> None:
    model = routed(name, sigma, statistics)
    before = copy.deepcopy(model.state_dict())
    dense, wanted = dense_network(model, 1), model(images_of(), 1)
    assert gap(dense(images_of()), wanted) < 1e-10
    assert not any(isinstance(module, TaskRouter) for module in dense.modules())
    assert sum(p.numel() for p in dense.parameters()) < sum(p.numel() for p in model.parameters())
    theirs = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert theirs.isdisjoint(tensor.data_ptr() for tensor in (*dense.parameters(), *dense.buffers()))
    path = write_network(dense, DESCRIPTION, tmp_path / "file", "safetensors")
    assert gap(open_exported(path)(images_of()), wanted) < 1e-10
    assert "matl_scale" not in path.with_suffix(".py").read_text()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["resnet18", "group norm", "convnext"])
def test_files_give_the_same_logits_for_any_number_of_images(name: str, kind: str, tmp_path: Path) -> None:
    model = routed(name).float()
    path = write_network(dense_network(model, 1), DESCRIPTION, tmp_path / "file", kind)
    network = open_exported(path)
    for batch in (1, 2, 5):
        assert gap(network(images_of(batch).float()), model(images_of(batch).float(), 1)) < 1e-5
    assert not list(tmp_path.glob(".partial*"))
    assert not re.search(rb"/[\w.-]+/[\w./-]+\.py", path.read_bytes()), "no paths of this machine"


def test_files_say_what_they_are(tmp_path: Path) -> None:
    dense = dense_network(routed("flat").float(), 1)
    texts = {
        **{
            "task": 'a/"b"\n',
            "classes": '["ja", "nein", "né\'e"]',
            "image_size": "32",
            "mean": "[0.485, 0.456, 0.406]",
        },
        **{"std": "[0.229, 0.224, 0.225]", "run": "first", "step": "30", "checkpoint_sha256": "ab12"},
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
    torch.save((images_of(), model(images_of(), 1).detach()), tmp_path / "case.pt")
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=tmp_path, check=True)


def test_names_that_are_none_in_python_are_changed() -> None:
    names = {
        "stem": nn.Conv2d(3, 8, 3),
        "head": nn.Conv2d(8, 8, 3),
        "0": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
    }
    net = nn.Sequential()
    for name, module in (names | {"training_": nn.Flatten()}).items():
        net.add_module(name, module)
    model = RoutedModel(route(net, 3, 0.5), CLASSES, 8).eval()
    dense = dense_network(model, 1)
    assert [name for name, _ in dense.named_children()] == [
        "stem",
        "head",
        "layer_0",
        "pool",
        "training_",
        "head_",
    ]
    assert gap(dense(images_of().float()), model(images_of().float(), 1)) < 1e-5


def test_python_is_readable() -> None:
    source = write_source(dense_network(routed("resnet18").float(), 1), DESCRIPTION)
    assert (
        "        self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3)\n        self.relu = nn.ReLU(inplace=True)\n"
        in source
    )
    assert "        maxpool = self.maxpool(relu);  relu = None\n" in source
    assert "        add = layer1_0_conv2 + maxpool;  layer1_0_conv2 = maxpool = None\n" in source


def test_what_has_no_python_is_refused_by_name() -> None:
    graph = fx.Graph()
    graph.output(graph.call_module("odd", (graph.placeholder("images"),)))
    network = fx.GraphModule({"odd": type("Odd", (nn.Linear,), {})(2, 2)}, graph)
    with pytest.raises(InputError, match=r"layer `odd` is Odd\(.*Use the format onnx or torch.export"):
        write_source(network, DESCRIPTION)


def test_a_task_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"`task_id` should be 0 to 2\. Got 3"):
        dense_network(routed("flat"), 3)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        InputError, match=r"The format onnx needs `onnxscript`, not installed here.* pip install 'matl-scale\[export\]'"
    ):
        write_network(dense_network(routed("flat"), 1), DESCRIPTION, tmp_path / "file", "onnx")


NAMES = [
    "a",
    "A",
    "a b",
    "a_b",
    "a__b",
    "../../etc/passwd",
    "/x",
    ".",
    "..",
    "",
    "-rf",
    "é",
    "e\n",
    "x" * 300,
    "con fusion/",
    "a.b",
    ".",
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.text(min_size=1), st.sampled_from(NAMES)), min_size=1, max_size=6, unique=True))
def test_file_names_are_safe_and_differ(names: list[str]) -> None:
    stems = [file_stem(name, names) for name in names]
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", stem)
        assert not stem.startswith("-")


def test_plain_names_stay() -> None:
    names = ["5_o_Clock_Shadow", "t-shirt", "Cat", "cat"]
    assert [file_stem(name, names) for name in names[:2]] == names[:2]
    assert re.fullmatch("Cat__[0-9a-f]{10}", file_stem("Cat", names))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Path:
    config = build_config(
        tmp_path_factory.mktemp("runs"),
        small_set,
        "run",
        train=TrainConfig(steps=3, precision="fp32"),
        eval=EvalConfig(every=3, batch_size=7),
    )
    train(config, build_accelerator("fp32"))
    return config.run.folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_writes_a_file_per_task_and_compares(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--run", run, "--task", "*") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == len(list((run / "export").glob("*.safetensors"))) == len(list((run / "export").glob("*.py"))) == 6
    )
    for line in lines:
        assert re.search(r"\.safetensors: [\d.]+ MB, \d\d\.\d% of the full network, max \|Δ logit\| ", line)


def test_what_the_command_refuses(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def refusal(*arguments: object, code: int = 2) -> str:
        assert call(monkeypatch, *arguments) == code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    line = refusal("--run", run, "--task", "tusk_3")
    assert "`--task` should match task names. `tusk_3` matches none of the 6 tasks. Did you mean `task_3`?" in line
    (tmp_path / "file").touch()
    line = refusal("--run", run, "--task", "task_0", "--out", tmp_path / "file" / "below")
    assert line.endswith("/file/below cannot be written: Not a directory. Choose another folder.")
    line = refusal("--run", next((run / "best").iterdir()), "--task", "task_0")
    assert "--out should be given" in line
    monkeypatch.setattr(export_tasks, "open_exported", lambda path: lambda images: torch.zeros(len(images), 1) + 9)  # noqa: ARG005
    assert "gives other logits than the run's network" in refusal(
        "--run", run, "--task", "task_0", "--out", tmp_path, code=1
    )
