"""Computes the features of all images of a set by a trunk that stays as it is: each tar once, by one of the ranks.

An interrupted call goes on at the tars that are not done. The list of features appears last, when all are there.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save
from torch import nn

from matl_scale.automatic import AUTO, chosen
from matl_scale.data.images.fit import Fit
from matl_scale.data.loading.config import choose_image_size
from matl_scale.data.loading.loader import PlannedBatches, build_loader
from matl_scale.data.shards.features import (
    FEATURES_FILE,
    FEATURES_FOLDER,
    TRUNK_FILE,
    FeatureSet,
    TrunkFacts,
    build_part,
    index_damage,
    is_finished,
    iterate_unfinished,
    part_name,
    part_origin,
)
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.errors import InputError, RunError
from matl_scale.models.backbones import build_backbone, count_features
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import normalise
from matl_scale.models.pass_cost import build_routed_outline
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.models.transformers import find_size_argument
from matl_scale.progress import ItemProgress
from matl_scale.routing.tracing import find_image_size
from matl_scale.storage.files import as_json
from matl_scale.storage.store import Store
from matl_scale.text import count_of
from matl_scale.train.build_state import ready_on_every_machine
from matl_scale.train.config import Config
from matl_scale.train.defaults.facts import read_machine
from matl_scale.train.defaults.fill import fill_workers
from matl_scale.train.defaults.weights import fill_from_weights
from matl_scale.train.features.tars import TarFeatures, plan_tars
from matl_scale.train.process_group import on_main


@dataclass(frozen=True, kw_only=True)
class EmbedOutcome:
    """What `embed` did."""

    features: FeatureSet
    num_images: int  # of the set
    num_computed: int  # of these, those whose features were not there
    damaged: list[str]  # images without features, and why


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A trunk at work."""

    backbone: nn.Module  # in evaluation mode, on its device
    facts: TrunkFacts
    accelerator: Accelerator

    @torch.inference_mode()
    def features(self, images: torch.Tensor) -> np.ndarray:
        """Returns the features of uint8 images, shape `(batch, 3, size, size)`, in float16, shape `(batch, num_features)`."""
        pixels = normalise(images.to(self.accelerator.device, non_blocking=True), self.facts.mean, self.facts.std)
        with self.accelerator.autocast():
            found = self.backbone(pixels)
        return np.asarray(found.to(torch.float16).cpu().numpy())


def embed(config: Config, accelerator: Accelerator, batch_size: int) -> EmbedOutcome:
    """Writes the features of every image of a set, in `features/` beside its manifest. All ranks have to call it.

    Args:
        config: Of which set (`data.path`), by which trunk (`model.name` with `model.weights` or `model.pretrained`), of images of
            which size (`data.image_size`, `data.fit`), and by how many processes these are read (`data.workers`).
        accelerator: From `build_accelerator`.
        batch_size: Images per batch of a rank.

    Raises:
        InputError: Something given cannot be used.
        RunError: Features cannot be computed, or not be written.
    """
    manifest, seed = read_manifest(config.data.path, config.data.version), config.run.seed
    for split in manifest.splits:
        manifest.check_shards(split)
    if not config.model.is_trained:
        raise InputError("A trunk needs weights that somebody has trained: give --weights FILE, or --pretrained.")
    config = on_main(accelerator, lambda: fill_from_weights(config, None))
    ready_on_every_machine(config.model, accelerator)
    config = fill_workers(config, read_machine(accelerator.num_processes))
    on_main(accelerator, lambda: check_routable(config.model))
    backbone = build_backbone(config.model, seed)
    size = choose_size(backbone, manifest, config)
    content = save({name: value.contiguous() for name, value in backbone.state_dict().items()})
    num_features = count_features(backbone, config.model, size)
    facts = build_facts(config, size, num_features, accelerator.mixed_precision, content)
    root = manifest.root / FEATURES_FOLDER / facts.folder
    trunk_sha256 = on_main(accelerator, lambda: write_trunk(root, content))
    trunk = Trunk(backbone=backbone.to(accelerator.device).eval(), facts=facts, accelerator=accelerator)
    with contextlib.ExitStack() as held:
        on_main(accelerator, lambda: held.enter_context(root.lock()))
        indices = on_main(accelerator, lambda: list(iterate_unfinished(root, facts, manifest)))
        mine = indices[accelerator.process_index :: accelerator.num_processes]
        error = None
        try:
            write_parts(trunk, root, manifest, mine, batch_size, chosen(config.data.workers), config.data.fit)
        except (InputError, RunError) as caught:
            error = caught
        if failures := [found for found in gather_object([error]) if found is not None]:
            raise failures[0]
        found, damaged = on_main(accelerator, lambda: write_list(root, manifest, facts, trunk_sha256))
    return EmbedOutcome(
        features=found,
        num_images=manifest.num_samples,
        num_computed=int(manifest.shard_sizes[indices].sum()),
        damaged=damaged,
    )


def choose_size(backbone: nn.Module, manifest: Manifest, config: Config) -> int:
    """Returns the side length in pixels of the images that a trunk gets; raises `InputError` if it was built for others."""
    given, own = config.data.image_size, find_image_size(backbone)
    if own is None or not find_size_argument(config.model.name):
        return choose_image_size(manifest, config.data)
    if given not in (AUTO, own):
        raise InputError(
            f"--image-size should be {own}, or left out: {config.model.name} takes images of {own} pixels alone. Got {given}."
        )
    return own


def check_routable(model: ModelConfig) -> None:
    """Raises `InputError` if a trunk cannot be followed, as it has to be in the network for images that is put together later."""
    build_routed_outline(model, RoutingConfig(routes="one", sigma=1.0), num_routes=1, seed=0)


def build_facts(config: Config, image_size: int, num_features: int, mixed_precision: str, content: bytes) -> TrunkFacts:
    """Builds the facts of a trunk. Weights that were not read from a file are known by the hash of the one that is written."""
    model = config.model
    return TrunkFacts(
        model=model.name,
        stem=chosen(model.stem),
        weights_sha256=model.weights_sha256 if model.weights else hashlib.sha256(content).hexdigest(),
        mean=list(chosen(model.mean)),
        std=list(chosen(model.std)),
        image_size=image_size,
        fit=config.data.fit,
        num_features=num_features,
        precision="fp32" if mixed_precision == "no" else mixed_precision,
    )


def write_trunk(root: Store, content: bytes) -> str:
    """Writes the weights of a trunk, without its classifier. Returns the file's SHA-256."""
    root.write_bytes(TRUNK_FILE, content)
    return hashlib.sha256(content).hexdigest()


def write_parts(
    trunk: Trunk, root: Store, manifest: Manifest, shards: list[int], batch_size: int, workers: int, fit: Fit
) -> None:
    """Writes the features of the images in some tars, given by their indices.

    Raises:
        RunError: Images cannot be read, which may work another time, or their features be written.
    """
    if not shards:
        return
    reader, ends = SampleReader(manifest), np.cumsum(manifest.shard_sizes)
    of_tars = {index: np.arange(ends[index] - manifest.shard_sizes[index], ends[index]) for index in shards}
    source = PlannedBatches(partial(plan_tars, list(of_tars.values()), batch_size), reader)
    rows, pin = manifest.shards.to_pylist(), trunk.accelerator.device.type == "cuda"
    begun: dict[int, TarFeatures] = {}
    total = int(manifest.shard_sizes[shards].sum())
    with ItemProgress(total, "images", enabled=trunk.accelerator.is_main_process) as progress:
        for batch in build_loader(source, trunk.facts.image_size, workers, pin, fit):
            index = int(np.searchsorted(ends, batch.sample_ids[0], side="right"))
            tar = begun.setdefault(index, TarFeatures(of_tars[index], trunk.facts.num_features))
            tar.add(batch, trunk.features(batch.images))
            progress.update(progress.done + len(batch.sample_ids))
            if tar.num_missing:
                continue
            check_finite(tar.values, reader, tar.sample_ids)
            part = build_part(tar.values, tar.reasons, part_origin(trunk.facts, rows[index]["sha256"]))
            root.write(part_name(rows[index]["file"]), partial(write_part, part))
            del begun[index]


def check_finite(values: np.ndarray, reader: SampleReader, sample_ids: np.ndarray) -> None:
    """Raises `RunError` if features are too large for float16, or no numbers."""
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise RunError(
            f"The trunk's features of {count_of(len(wrong), 'image')}, the first of key {reader.key(int(sample_ids[wrong[0]]))}, "
            "are too large for float16, or no numbers. Check that the weights are those of this network."
        )


def write_part(part: pa.Table, path: Path) -> None:
    """Writes the features of a tar's images. Compression hardly shrinks them."""
    pq.write_table(part, path, compression="none", use_dictionary=False)


def write_list(root: Store, manifest: Manifest, facts: TrunkFacts, trunk_sha256: str) -> tuple[FeatureSet, list[str]]:
    """Writes the list of all files of features, which says that they are complete. Returns it, and what is wrong with images that
    have none.

    Raises:
        RunError: A file is not the one that should be there.
    """
    files, damage = [], list[list[str]]()
    for shard in manifest.shards.to_pylist():
        name = part_name(shard["file"])
        files.append({"file": name, "sha256": root.sha256(name), "shard": shard["sha256"]})
        if not is_finished(root, name, part_origin(facts, shard["sha256"])):
            raise RunError(f"{root}/{name} was changed by something else.")
        with root.fetched(name) as path:
            damage.append(pq.read_table(path, columns=["damage"])["damage"].to_pylist())
    found = FeatureSet(root=root, trunk=facts, trunk_sha256=trunk_sha256, files=files)
    root.write_bytes(FEATURES_FILE, as_json(found.to_json()).encode())
    reader = SampleReader(manifest)
    return found, [str(reader.damage(sample_id, reason)) for sample_id, reason in index_damage(damage).items()]
