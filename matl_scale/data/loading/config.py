"""The config section `data`: the shard set, and how it is read."""

import math
from dataclasses import dataclass
from typing import Literal

from matl_scale.automatic import AUTO, Auto
from matl_scale.data.images.fit import CROP, FITS, Fit
from matl_scale.data.loading.augment import choose_steps
from matl_scale.data.loading.missing import FILLS
from matl_scale.data.shards.folds import Fold
from matl_scale.data.shards.manifest import Manifest
from matl_scale.errors import InputError, check_at_least, check_choice

# pixels: the layers of a CNN halve an image several times
SMALLEST_IMAGE = 16  # to which smaller ones are enlarged
NEARLY_HALVED, HALVED = 24, 32  # from the former on, images are enlarged to the latter, which can be halved five times


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The shard set and how it is read."""

    path: str = "data/digits"
    """Folder of the shard set (see matl-data), or its URL (s3://, gs://, …)."""
    version: str = ""
    """Version of its labels: a number or the beginning of an id; the newest if empty (see matl-data info)."""
    tasks: list[str] | str = "*"
    """The tasks to train: a name pattern, or a list of patterns; `*` means all. An exact name wins over a pattern:
    in a list, `*` is the task of that name if there is one. `[*]`, `[?]` and `[[]` stand for these characters."""
    fold: str = ""
    """`i/k`: of k equal parts of the samples of train and val together, the i-th (from 1) is val, and the others are train.
    Nothing is written; equal images are in one part. Empty takes the splits as they are."""
    fold_seed: int = 0
    """Which samples of `data.fold` are together; the run's seed does not change it."""
    batch_size: int | Auto = "auto"
    """Samples per rank and micro-step, each with a label for one of the route's tasks; a route with fewer samples has smaller
    batches. `auto`: by the number of samples, the routes of a step, and the memory."""
    balance: float = 0.0
    """0 draws every sample of a task equally often, 1 every class; in between, a class is drawn in proportion to its number
    of samples to the power of 1 - balance. Above 0, samples are drawn with replacement, and every task needs a route of its
    own (routing.routes task)."""
    missing: dict[str, str] | str = "ignore"
    """What training takes for a missing label: `ignore` (nothing), `negative` (class 0, of binary tasks), or `soft` (a target
    between the classes: their frequencies in the training split). Or task pattern → one of these; the last pattern that matches
    counts, other tasks ignore. Evaluation ignores missing labels."""
    reading: Literal["offsets", "stream"] = "offsets"
    """`offsets` reads single samples, in an exact order that a resumed run continues. `stream` reads whole tars from front to
    back, for remote stores where single reads are slow: the order is approximate, and samples without a label for the
    route are left out."""
    stream_buffer: int = 4096
    """Samples per worker among which a stream is shuffled."""
    share: int = 1
    """How many consecutive micro-steps have the same images, each on another route and with an augmentation of its own: fewer
    images are read and decoded. A micro-step trains on those of them with a label for its route. `train.accumulate` should be
    a multiple."""
    workers: int | Auto = "auto"
    """Loader processes per rank; 0 loads in the training process. `auto`: by the cores that a rank has."""
    augment: list[str] | str = "auto"
    """One or a list of `resized-crop` (a random part of the original image), `crop` (of the square, reflect-padded by an eighth),
    `flip`, `jitter` (colours), `randaugment` and `erase`, drawn for each image; or `none`, `crop-flip`, `resized-crop-flip`.
    `randaugment` by itself crops and flips too. `auto` crops images of 24 pixels and more in runs of ten passes and more, and
    never flips: what reads differently in a mirror (text, left and right) cannot be known. Where nothing does, `crop-flip` is
    better, and for photos `resized-crop-flip`."""
    crop_area: float = 0.08
    """The smallest share of an image's area that `resized-crop` takes; the largest is 1."""
    mixup: float = 0.0
    """Strength α of MixUp: images of a batch are mixed in pairs with weights λ and 1 - λ, λ from Beta(α, α); 0 mixes none. With
    `data.cutmix`, half of the batches each."""
    cutmix: float = 0.0
    """Strength α of CutMix, which puts a rectangle of another image of the batch into each; 0 does not."""
    image_size: int | Auto = "auto"
    """Side length in pixels of the squares to which images are scaled; 0 keeps the stored size. `auto` keeps it too, but enlarges
    images of less than 16 pixels to 16, and of 24 to 31 to 32, which can be halved five times; and in a run of `train.minutes` on
    CPUs that would make too few passes over them, it reads them smaller. With weights (`model.weights`, `model.pretrained`),
    `auto` is the size for which they were trained."""
    fit: Fit = CROP
    """How an image of another shape becomes such a square, except for training with `resized-crop`: `crop` (the middle of the
    longer side), `squash` (both sides scaled) or `pad` (all of it, on grey). Prediction does the same."""
    max_damaged: float = 0.001
    """Share of a split's samples that may be damaged; these are skipped and listed. More of them stop the run."""

    def __post_init__(self) -> None:
        if self.batch_size != AUTO and self.batch_size < 2:
            raise InputError(f"`data.batch_size` should be at least 2, for batch norm. Got {self.batch_size}.")
        check_at_least(0, {"data.workers": self.workers, "data.image_size": self.image_size})
        check_at_least(1, {"data.stream_buffer": self.stream_buffer, "data.share": self.share})
        for key, value in (("balance", self.balance), ("max_damaged", self.max_damaged)):
            if not 0 <= value <= 1:
                raise InputError(f"`data.{key}` should be between 0 and 1. Got {value}.")
        if self.augment != AUTO:
            choose_steps(self.augment)
        check_choice("data.fit", self.fit, FITS)
        if not 0 < self.crop_area <= 1:
            raise InputError(
                f"`data.crop_area` should be above 0 and at most 1: a crop is no larger than the image. Got {self.crop_area}."
            )
        for key, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= value < math.inf:
                raise InputError(f"`data.{key}` should be at least 0 and finite. Got {value}.")
        for missing in self.missing.values() if isinstance(self.missing, dict) else [self.missing]:
            check_choice("data.missing", missing, list(FILLS))
        if self.share > 1 and self.balance:
            raise InputError(
                "`data.share` should be 1 with `data.balance` above 0, which draws other samples for each route. Got "
                f"{self.share}."
            )
        if self.fold:
            Fold.parse(self.fold)
        if self.reading == "stream" and self.fold:
            raise InputError(
                "`data.reading` should be offsets with `data.fold`: a stream reads whole tars, and a fold has samples of all."
            )
        if self.reading == "stream" and self.balance:
            raise InputError(
                "`data.balance` should be 0 with `data.reading` stream: a stream's order is that of its tars."
            )


def choose_image_size(manifest: Manifest, config: DataConfig) -> int:
    """Returns the side length in pixels at which images are read; raises `InputError` if the config has to choose it."""
    size = (0 if config.image_size == AUTO else config.image_size) or manifest.image_size()
    if size and config.image_size == AUTO:
        size = HALVED if NEARLY_HALVED <= size < HALVED else max(size, SMALLEST_IMAGE)
    if not size:
        raise InputError(
            f"`data.image_size` should be set: the images of {manifest.root} are not all squares of one size."
        )
    return size
