"""Sub-network execution computes what masked execution computes: features, every gradient, statistics, whole trainings."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.torchvision_models import FAMILIES, backbone_of, group_norm_resnet, small_convnext
from matl_scale import InputError, route
from matl_scale.models.backbones import ModelConfig
from matl_scale.models.network import RoutedModel, RoutingConfig, build_model
from matl_scale.models.predictor import Predictor
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.masks import Strategy
from matl_scale.routing.subnetwork import AllTasks, Subnetwork
from matl_scale.train.step.execution import SharedSlices
from matl_scale.train.step.optim import OptimConfig, build_optimizer

Setting = tuple[int, float, Strategy, Statistics]
SETTINGS: list[Setting] = [
    (1, 0.5, "random", "task"), (7, 0.5, "random", "task"), (40, 0.3, "random", "shared"), (2, 0.25, "partition", "task"),
    (3, 1.0, "random", "task"),
]  # fmt: skip
# narrower where possible, for speed
WIDTHS = {
    "vgg11": 0.25,
    "vgg11_bn": 0.25,
    "resnet18": 0.25,
    "resnet50": 0.125,
    "densenet121": 0.5,
    "squeezenet1_1": 0.5,
}
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    name: (lambda name=name: backbone_of(name, WIDTHS.get(name, 1))) for name in FAMILIES
}
BACKBONES |= {"group norm": group_norm_resnet, "convnext": small_convnext}


def images_of(size: int = 64, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gap(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """Returns the largest difference, relative to the largest value or to 1 if that is larger."""
    with torch.no_grad():
        return float((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def assert_equal_state(actual: nn.Module, wanted: nn.Module, limit: float = 1e-10) -> None:
    for (name, value), other in zip(actual.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert gap(value.double(), other.double()) < limit, name


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_features_gradients_and_statistics_equal_masked_execution(name: str, setting: Setting) -> None:
    num_tasks, sigma, strategy, statistics = setting
    masked = route(BACKBONES[name](), num_tasks, sigma, strategy=strategy, statistics=statistics, seed=1)
    owner = copy.deepcopy(masked)
    subnetwork = Subnetwork(owner)
    for task_id in {0, num_tasks - 1}:
        task = torch.tensor([task_id])
        wanted, actual = masked(images_of(), task), subnetwork(images_of(), task)
        assert gap(actual, wanted) < 1e-10
        masked.zero_grad()
        owner.zero_grad()
        wanted.square().sum().backward()
        actual.square().sum().backward()
        scale = max(float(parameter.grad.abs().max()) for parameter in masked.parameters())
        for (key, parameter), other in zip(masked.named_parameters(), owner.parameters(), strict=True):
            assert float((parameter.grad - other.grad).abs().max()) < 1e-10 * max(scale, 1), key
    assert_equal_state(owner, masked)
    masked.eval()
    owner.eval()
    all_tasks = AllTasks(owner)
    with torch.no_grad():
        prepared = all_tasks.prepare(images_of())
        for task_id in {0, num_tasks - 1}:
            task = torch.tensor([task_id])
            wanted = masked(images_of(), task)
            assert gap(subnetwork(images_of(), task), wanted) < 1e-10
            assert gap(all_tasks(prepared, task, all_tasks.gather(task)), wanted) < 1e-10


@pytest.mark.parametrize(
    "name", ["vgg11", "vgg11_bn", "resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext"]
)
@pytest.mark.parametrize(
    "optim", [OptimConfig(name="sgd", lr=1e-3), OptimConfig(name="adamw", lr=1e-4)], ids=["sgd", "adamw"]
)
def test_twenty_optimizer_steps_equal_masked_execution(name: str, optim: OptimConfig) -> None:
    trunk = route(BACKBONES[name](), 5, 0.5)
    num_features = trunk(images_of(), torch.tensor([0])).shape[1]
    masked = RoutedModel(trunk, [2, 3, 2, 2, 4], num_features).double()
    other = copy.deepcopy(masked)
    executions = [(masked, masked.trunk), (other, Subnetwork(other.trunk))]
    for model, run in executions:
        optimizer = build_optimizer(optim, model)
        for step in range(20):
            task_id = step * 3 % 5
            images = images_of() * (1 + step % 3)
            optimizer.zero_grad()
            logits = model.heads[task_id](run(images, torch.tensor([task_id])))
            nn.functional.cross_entropy(logits, torch.arange(4) % 2).backward()
            nn.utils.clip_grad_norm_(
                model.parameters(), 1.0
            )  # exploding weights would magnify rounding errors without limit
            optimizer.step()
    assert_equal_state(other, masked)


def test_channels_last_is_kept_and_changes_nothing() -> None:
    trunk = route(backbone_of("resnet50", 0.25), 3, 0.5)
    wanted_trunk = copy.deepcopy(trunk)
    trunk.to(memory_format=torch.channels_last)
    subnetwork, task = Subnetwork(trunk), torch.tensor([1])
    weights = [tensor for tensor in subnetwork.gather(task) if tensor.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    actual = subnetwork(images_of().to(memory_format=torch.channels_last), task)
    wanted = Subnetwork(wanted_trunk)(images_of(), task)
    assert gap(actual, wanted) < 1e-10
    actual.square().sum().backward()
    wanted.square().sum().backward()
    for parameter, other in zip(trunk.parameters(), wanted_trunk.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-8, atol=1e-8)
        assert parameter.grad.stride() == parameter.stride()


def test_autocast_and_gradient_scaling_give_full_gradients_in_float32() -> None:
    trunk = route(backbone_of("resnet18", 0.25).float(), 3, 0.5)
    task, images = torch.tensor([1]), images_of().float()
    gradients = []
    for run in (trunk, Subnetwork(trunk)):
        trunk.zero_grad()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = run(images, task)
        scaler.scale(features.float().square().mean()).backward()
        optimizer = torch.optim.SGD(trunk.parameters(), lr=0)
        scaler.unscale_(optimizer)
        gradients.append([parameter.grad.clone() for parameter in trunk.parameters()])
    for masked, sliced in zip(*gradients, strict=True):
        assert sliced.dtype == torch.float32
        assert torch.equal(masked == 0, masked == 0)
        assert gap(sliced, masked) < 0.02


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # raised by dynamo itself,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # and this
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11_bn"])
def test_one_compilation_serves_all_tasks(name: str) -> None:
    trunk = route(backbone_of(name, 0.25 if name == "vgg11_bn" else 1).float(), 12, 0.5)
    subnetwork = Subnetwork(trunk)
    counters = [CompileCounterWithBackend("aot_eager") for _ in range(2)]
    network = torch.compile(subnetwork, backend=counters[0], fullgraph=True)
    gather = torch.compile(subnetwork.gather, backend=counters[1], fullgraph=True)
    images = torch.randn(4, 3, 32, 32)
    for task_id in range(12):  # more than the limit after which dynamo gives up
        task = torch.tensor([task_id])
        trunk.zero_grad()
        network(images, task, gather(task)).square().sum().backward()
    assert [counter.frame_count for counter in counters] == [1, 1]
    compiled = [parameter.grad for parameter in trunk.parameters()]
    trunk.zero_grad()
    subnetwork(images, task).square().sum().backward()
    for parameter, gradient in zip(trunk.parameters(), compiled, strict=True):
        assert gap(gradient, parameter.grad) < 1e-3


def test_the_backward_pass_does_not_sort() -> None:
    trunk = route(backbone_of("resnet18", 0.25), 3, 0.5)
    seen: set[str] = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Record():
        Subnetwork(trunk)(images_of(), torch.tensor([1])).sum().backward()
    assert "index_copy_" in seen
    assert not [name for name in seen if "sort" in name or "unique" in name or "index_put" in name or "scatter" in name]


def test_slices_are_gathered_once_for_all_micro_steps_of_a_task() -> None:
    trunk = route(backbone_of("vgg11_bn", 0.25), 3, 0.5)
    subnetwork = Subnetwork(trunk)
    gathered: list[int] = []

    def gather(task: torch.Tensor) -> list[torch.Tensor]:
        gathered.append(int(task))
        return subnetwork.gather(task)

    tasks = [1, 0, 1, 1, 2, 0]
    shared = SharedSlices(gather)
    shared.begin_step(tasks)
    for i, task_id in enumerate(tasks):
        task = torch.tensor([task_id])
        subnetwork(images_of() * (i + 1), task, shared.slices_of(task_id, task)).square().sum().backward()
    assert gathered == [1, 0, 2]
    actual = [parameter.grad for parameter in trunk.parameters()]
    trunk.zero_grad()
    for i, task_id in enumerate(tasks):
        subnetwork(images_of() * (i + 1), torch.tensor([task_id])).square().sum().backward()
    for parameter, gradient in zip(trunk.parameters(), actual, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("task_chunk", [64, 5, 1])
def test_prediction_of_all_tasks_equals_masked_execution_whatever_is_held(task_chunk: int) -> None:
    model = build_model(ModelConfig(name="resnet18", width=0.25), RoutingConfig(), [2] * 12, 0, 32).double()
    for head in model.heads:
        nn.init.normal_(head.weight)
    for task_id in range(12):
        model(images_of(), task_id)  # statistics of their own
    model.eval()
    chosen = {2: None, 5: torch.tensor([0, 2]), 11: torch.tensor([1])}
    predictor = Predictor(model, "subnetwork", task_chunk)
    masked = Predictor(model, "masked", task_chunk)
    for _ in range(2):
        predictor.start()
        wanted = dict(masked.logits(images_of(), chosen))
        for task_id, logits in predictor.logits(images_of(), chosen):
            assert gap(logits, wanted[task_id]) < 1e-10
        with torch.no_grad():
            model.trunk.get_parameter("conv1.weight").mul_(0.5)  # as a step between two evaluations would


def test_what_tasks_have_in_common_is_computed_once() -> None:
    calls = {"conv1": 0, "layer1.0.conv1": 0}
    trunk = route(backbone_of("resnet18", 0.25), 4, 0.5).eval()
    all_tasks = AllTasks(trunk)
    trunk.conv1.register_forward_hook(lambda *_: calls.update(conv1=calls["conv1"] + 1))
    with torch.no_grad():
        prepared = all_tasks.prepare(images_of())
        for task_id in range(4):
            task = torch.tensor([task_id])
            all_tasks(prepared, task, all_tasks.gather(task))
    assert calls["conv1"] == 1
    shared = AllTasks(route(backbone_of("resnet18", 0.25), 4, 1.0, statistics="shared").eval())
    (features,) = shared.prepare(images_of())
    assert features.shape == (4, 128), "without routing and task statistics, all of the trunk is common"


def test_flattened_features_of_images_of_another_size() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).double()
    trunk = route(net, 3, 0.5)
    subnetwork, task = Subnetwork(trunk), torch.tensor([1])
    shared = AllTasks(route(net, 3, 1.0, statistics="shared").eval())
    assert shared.prepare(images_of(32))[0].shape[1] == 8, "the flatten is left to each task"
    for size in (32, 64):
        assert gap(subnetwork(images_of(size), task), trunk(images_of(size), task)) < 1e-12


def test_weights_of_a_network_with_other_masks_are_refused() -> None:
    trunk = route(backbone_of("vgg11", 0.25), 3, 0.5, seed=1)
    with pytest.raises(RuntimeError, match="mask differs: route with the tasks, σ and seed"):
        trunk.load_state_dict(route(backbone_of("vgg11", 0.25), 3, 0.5, seed=2).state_dict())


def test_a_group_norm_keeps_float32_under_autocast() -> None:
    trunk = route(group_norm_resnet().float(), 3, 0.5)
    norm = trunk.get_submodule("bn1")
    x, task = torch.randn(2, 64, 64, 64) * 30 + 100, torch.tensor([1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = norm(x, task)
    assert gap(rounded, norm(x, task)) < 1e-5


class ScaledConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class StandardisedConv(nn.Conv2d):
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


def conv_net(conv: nn.Conv2d) -> fx.GraphModule:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return route(net, 3, 0.5)


@pytest.mark.parametrize("mode", ["reflect", "circular", "zeros"])
def test_padding_modes(mode: str) -> None:
    trunk = conv_net(nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)).double()
    task = torch.tensor([1])
    assert gap(Subnetwork(trunk)(images_of(), task), trunk(images_of(), task)) < 1e-12


def test_what_cannot_be_sliced_is_refused_by_name() -> None:
    with pytest.raises(
        InputError, match=r"module `2`: ScaledConv has a forward of its own.*`routing.execution` = masked"
    ):
        Subnetwork(conv_net(ScaledConv(8, 8, 3)))
    standardised = conv_net(StandardisedConv(8, 8, 3))
    with pytest.raises(InputError, match="module `2`: StandardisedConv has a forward of its own"):
        Subnetwork(standardised)
    hooked = conv_net(nn.Conv2d(8, 8, 3))
    hooked.get_submodule("2").register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="module `2`: it has hooks"):
        Subnetwork(hooked)


def test_a_mixed_task_batch_is_refused() -> None:
    trunk = conv_net(nn.Conv2d(8, 8, 3)).eval()
    with pytest.raises(InputError, match=r"Got 3 tasks in one batch.*masked"):
        Subnetwork(trunk)(images_of().float(), torch.tensor([0, 1, 2]))
