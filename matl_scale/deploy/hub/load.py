"""`load(folder)`: a network from a hub folder, with its tasks and decisions. Needs torch, numpy and safetensors alone.

No code of the folder is run, and nothing is downloaded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from matl_scale.decisions.rule import DecisionRule
from matl_scale.deploy.answer import answer
from matl_scale.deploy.hub.build_trunk import build_trunk
from matl_scale.deploy.hub.layout import CONFIG_FILE, FORMAT, FORMAT_VERSION, UNITS_PREFIX, WEIGHTS_FILE
from matl_scale.errors import InputError, one_line
from matl_scale.models.network import RoutedModel
from matl_scale.models.predictor import Predictor
from matl_scale.routes import Routes
from matl_scale.storage.files import file_sha256

if TYPE_CHECKING:
    from matl_scale.data.images.fit import Fit

TRUNK_PREFIX = "trunk."
RULE_FIELDS = ("prior_offsets", "biases", "decision_offsets")


@dataclass(frozen=True, kw_only=True)
class HubNetwork:
    """A network from a hub folder.

    Images are uint8 RGB, shape `(batch, 3, image_size, image_size)`, arrays or tensors: squares as `read_images` makes them.
    `tasks` is a name pattern, or several; by default all tasks are answered.
    """

    model: RoutedModel  # in evaluation mode; its `forward` takes normalised images and the number of a route
    predictor: Predictor  # runs it
    classes: dict[str, list[str]]  # the classes of each task, by its name
    rules: dict[str, DecisionRule]  # calibration and decision of each task, `threshold` among them
    aims: dict[str, str]  # what each task's decision is best at; empty where nothing was fitted
    fitted_on: str  # the split that decisions were fitted on; empty if none were
    image_size: int  # in pixels
    fit: "Fit"  # how images of another shape become squares
    run: str  # the name of the run
    step: int  # how many steps it had been trained

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return list(self.classes)

    def logits(self, images: np.ndarray | torch.Tensor, tasks: str | Sequence[str] = "*") -> dict[str, np.ndarray]:
        """Returns the logits of each task as trained, float32, `(batch, num_classes)`."""
        return answer(self.predictor, self.rules, self._check(images), tasks, "logits")

    def probabilities(
        self, images: np.ndarray | torch.Tensor, tasks: str | Sequence[str] = "*"
    ) -> dict[str, np.ndarray]:
        """Returns the calibrated probabilities of each task, float64, `(batch, num_classes)`."""
        return answer(self.predictor, self.rules, self._check(images), tasks, "probabilities")

    def predict(self, images: np.ndarray | torch.Tensor, tasks: str | Sequence[str] = "*") -> dict[str, list[str]]:
        """Returns the name of the decided class of each image, by task."""
        found = answer(self.predictor, self.rules, self._check(images), tasks, "decisions")
        return {name: [self.classes[name][index] for index in indices] for name, indices in found.items()}

    def read_images(self, photos: Sequence[str | Path | bytes]) -> np.ndarray:
        """Returns image files, given by path or content, as squares for this network: uint8, shape `(len(photos), 3, image_size,
        image_size)`.

        Raises:
            InputError: One is no image, or a package that decodes images is missing.
        """
        try:
            from matl_scale.data.images.decode import decode_image
            from matl_scale.data.images.gate import MAX_PIXELS, BadImage
        except ModuleNotFoundError as error:
            raise InputError(
                f"Reading image files needs the package {error.name}, not installed here. Install with: pip install pillow "
                "simplejpeg pyarrow"
            ) from error
        squares = []
        for i, photo in enumerate(photos):
            content = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
            try:
                squares.append(decode_image(content, self.image_size, MAX_PIXELS, self.fit))
            except BadImage as error:
                name = f"Image {i}" if isinstance(photo, bytes) else photo
                raise InputError(f"{name} cannot be used: {error}.") from error
        stacked = np.stack(squares) if squares else np.zeros((0, self.image_size, self.image_size, 3), dtype=np.uint8)
        return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))

    def _check(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        tensor, size = torch.as_tensor(images), self.image_size
        if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[1:] != (3, size, size):
            raise InputError(
                f"`images` should be uint8, (batch, 3, {size}, {size}). Got {tensor.dtype}, {tuple(tensor.shape)}. `read_images` "
                "makes such ones of files."
            )
        return tensor


def load(folder: str | Path, device: str | torch.device = "cpu") -> HubNetwork:
    """Loads a folder that `matl-export --format hub` wrote.

    Raises:
        InputError: It is no such folder, of a later version, or damaged.
    """
    folder = Path(folder)
    torch.empty(0, device=device)  # a device that cannot be used is no fault of the folder
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or file_sha256(weights) != config.get("weights_sha256"):
        raise InputError(
            f"{weights} is missing or damaged: its SHA-256 is not the one in {CONFIG_FILE}. Copy or export the folder again."
        )
    try:
        return build_hub_network(config, load_file(weights), torch.device(device))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{folder} is damaged: {CONFIG_FILE} and {WEIGHTS_FILE} make no network: {one_line(error)}. Export it again."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} is no hub folder: it has no {CONFIG_FILE}. Write one: matl-export --run RUN --format hub."
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = config["format"], config["format_version"]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} is not of matl_scale, or damaged: {one_line(error)}.") from error
    if found[0] != FORMAT:
        raise InputError(f"{path} should be of a {FORMAT}. It is of {found[0]!r}.")
    if found[1] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {found[1]}; this version of matl_scale reads {FORMAT_VERSION}. Install the version that "
            f"wrote it: {config.get('matl_scale_version', 'unknown')}."
        )
    return config


def build_hub_network(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], device: torch.device
) -> HubNetwork:
    state = {key: value for key, value in tensors.items() if not key.startswith(UNITS_PREFIX)}
    num_units = len(tensors) - len(state)
    units = [tensors[f"{UNITS_PREFIX}{index}"].numpy().astype(np.int64) for index in range(num_units)]
    of_trunk = {key.removeprefix(TRUNK_PREFIX): value for key, value in state.items() if key.startswith(TRUNK_PREFIX)}
    classes = {task["name"]: list(task["classes"]) for task in config["tasks"]}
    with torch.random.fork_rng(devices=[]):  # layers draw weights that are then overwritten
        model = RoutedModel(
            build_trunk(config["graph"]["nodes"], config["graph"]["layers"], units, of_trunk),
            [len(names) for names in classes.values()],
            config["num_features"],
            Routes.from_json(config["routes"]),
            config["image_size"],
            config["mean"],
            config["std"],
        )
    model.load_state_dict(state)
    predictor = Predictor(model.to(device).eval(), config["execution"], config["route_chunk"])
    predictor.start()
    return HubNetwork(
        model=model,
        predictor=predictor,
        classes=classes,
        rules={task["name"]: read_rule(task["rule"]) for task in config["tasks"]},
        aims={task["name"]: task["aim"] for task in config["tasks"]},
        fitted_on=config["fitted_on"],
        image_size=config["image_size"],
        fit=config["fit"],
        run=config["run"],
        step=config["step"],
    )


def read_rule(content: Mapping[str, Any]) -> DecisionRule:
    arrays = {name: np.array(content[name], dtype=float) for name in RULE_FIELDS}
    return DecisionRule(scale=content["scale"], note=content["note"], **arrays)
