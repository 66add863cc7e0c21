"""A small set whose images have features, computed by a trunk of random weights."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from matl_scale.commands.embed import main as embed
from matl_scale.data.images.decode import decode_image
from matl_scale.data.shards.features import FeatureSet, read_feature_sets
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.models.network import normalise
from matl_scale.storage.store import Store
from matl_scale.vision import models

NAME, SIZE = "squeezenet1_1", 32


@dataclass(frozen=True)
class Embedded:
    """A set with features, and the trunk that computed them."""

    root: Path
    weights: Path
    backbone: torch.nn.Module

    @property
    def arguments(self) -> list[str]:
        given = ["--model", NAME, "--weights", str(self.weights), "--image-size", str(SIZE), "--workers", "0"]
        return [str(self.root), *given]

    def embed(self, *options: str) -> int:
        return embed([*self.arguments, *options])

    @property
    def features(self) -> FeatureSet:
        (found,) = read_feature_sets(Store(self.root))
        return found

    def copy(self, folder: Path) -> "Embedded":
        """Returns the set and its trunk without features, in another folder."""
        shutil.copytree(self.root, folder, ignore=shutil.ignore_patterns("features", ".features"))
        return replace(self, root=folder)


def embed_set(root: Path, folder: Path) -> Embedded:
    """Copies a set into a folder and computes its features."""
    shutil.copytree(root, folder / "set")
    torch.manual_seed(0)
    whole = models.get_model(NAME, weights=None)
    torch.save(whole.state_dict(), folder / "weights.pth")
    backbone = torch.nn.Sequential(whole.features, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    found = Embedded(folder / "set", folder / "weights.pth", backbone)
    assert found.embed() == 0
    return found


def expected_features(embedded: Embedded) -> np.ndarray:
    """Computes every image's features by itself."""
    manifest = read_manifest(embedded.root)
    found = []
    for data in SampleReader(manifest).read(np.arange(manifest.num_samples)):
        assert isinstance(data, bytes)
        pixels = torch.from_numpy(decode_image(data, SIZE).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found.append(embedded.backbone(normalise(pixels))[0].numpy())
    return np.stack(found)
