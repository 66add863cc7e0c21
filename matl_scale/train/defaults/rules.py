"""The rules behind `auto`, each a pure function, with their constants. `docs/guides/defaults.md` says the same for users."""

import math
from collections.abc import Callable

from matl_scale.data.loading.config import HALVED
from matl_scale.models.config import Stem
from matl_scale.train.step.optimizers import OPTIMIZERS, OptimizerName

MIN_EPOCHS, MAX_EPOCHS = 4.0, 120.0
USUAL_SAMPLES, USUAL_EPOCHS = 50_000, 12.0  # a set of that size gets so many passes
MIN_STEP_IMAGES, MAX_STEP_IMAGES = 32, 1024
MIN_BATCH = 16  # images of a micro-step; batch norm needs some
MAX_STEP_ROUTES = 8
USUAL_STEP_IMAGES = 128
MAX_HEAD_SCALE = 10.0
MEMORY_SHARE = 0.4  # of a rank's memory, for what a forward pass keeps
# multiply-adds per second in training, about: of a CPU core, and of a GPU
CORE_RATE, GPU_RATE = 5e10, 5e12
# seconds that an image and a micro-step take besides, about: reading, and calls of small operations
IMAGE_S, SLOT_S = 5e-4, 0.01
CPU_PATIENCE_S = 900.0  # how long a run without `train.minutes` may take on CPUs before its network becomes narrower
CPU_WIDTHS = (0.5, 0.375, 0.25, 0.1875, 0.125)
STACKED_COST = (
    3e8  # multiply-adds of a slot's forward pass from which a CPU gains nothing by stacking slots, as measured
)
# where a network of this width makes fewer than so many of the wanted passes on CPUs, images are read smaller
SIZED_WIDTH, ENOUGH = 0.25, 0.7
SHORT = 3  # a run of so many minutes rather makes so many times fewer passes than it has a narrower network
TUNING_SHARE = 1 / 3  # of the usual rate, for trained weights: with all of it, they are lost before they are of use
PASS_COST = 3  # a backward pass costs two forward passes
SMALLER_SIZES = (192, 160, 128, 96, 64, 48, 32)  # pixels; those of a run on CPUs that has no time for its images
CROPPED_FROM, SMALL_IMAGES, VGG_IMAGES = 24, 64, 128  # pixels
FEW_OF_A_CLASS = 20  # samples with which a threshold is mostly chance
DECIDED, RANKED = "macro_decided_balanced_accuracy", "macro_average_precision"
AUGMENTED_FROM = 10.0  # passes over the labels
USUAL_SIGMA = 0.75  # of several routes
# of several routes in a trained backbone, from the layer on where so much of its multiply-adds is done
TUNED_SIGMA, TUNED_FROM = 0.9, 5 / 6


def choose_backbone(image_size: int, has_gpu: bool) -> str:
    """Returns the name of the backbone for images of so many pixels per side. On CPUs, a VGG learns more in the same time, as
    long as images are small."""
    return "resnet18" if has_gpu or image_size > VGG_IMAGES else "vgg11_bn"


def choose_stem(image_size: int, halves_early: Callable[[], bool]) -> Stem:
    """Returns the stem of a backbone. The first layers of most reduce the resolution by four, which small images cannot spare.
    Where the first conv keeps it, as in a VGG, the small stem would lack one max-pool of five, at about four times the work: that
    is for images that cannot be halved so often. Whether it `halves_early` is asked only where it matters: a backbone has to be
    built for it."""
    if image_size >= SMALL_IMAGES:
        return "standard"
    return "small" if image_size < HALVED or halves_early() else "standard"


def choose_epochs(num_samples: int) -> float:
    """Returns the length in passes over the labels: a fixed number of passes would leave small sets with too few steps, and
    need not be made with large ones. Between the two, the number of steps grows with the root of the samples."""
    passes = USUAL_EPOCHS * math.sqrt(USUAL_SAMPLES / max(num_samples, 1))
    return float(f"{min(max(passes, MIN_EPOCHS), MAX_EPOCHS):.2g}")


def choose_step_images(num_samples: int) -> int:
    """Returns the images of a step over all ranks and micro-steps: a power of two near half the root of the samples."""
    wanted = int(2 ** round(math.log2(math.sqrt(max(num_samples, 1)) / 2)))
    return min(max(wanted, MIN_STEP_IMAGES), MAX_STEP_IMAGES)


def choose_accumulate(num_samples: int, num_routes: int, num_ranks: int, share: int = 1) -> int:
    """Returns the micro-steps of a rank in a step, a multiple of the `share` that have the same images: as many routes in a step
    as there are, at most MAX_STEP_ROUTES on all ranks together, and not more than leave each MIN_BATCH images. The mean of
    several routes' gradients disturbs the others less than a step for one of them."""
    num_slots = min(num_routes, MAX_STEP_ROUTES, choose_step_images(num_samples) // MIN_BATCH)
    return share * max(1, math.ceil(num_slots / num_ranks / share))


def choose_batch_size(num_samples: int, num_slots: int, image_bytes: int, memory: int) -> int:
    """Returns the images of a micro-step.

    Args:
        num_samples: Training samples.
        num_slots: Micro-steps of a step, over all ranks.
        image_bytes: What the forward pass of an image keeps.
        memory: Bytes of a rank.
    """
    wanted = max(MIN_BATCH, choose_step_images(num_samples) // num_slots)
    fitting = int(memory * MEMORY_SHARE / max(image_bytes, 1))
    return max(2, min(wanted, 2 ** int(math.log2(fitting)) if fitting >= 2 else 2))


def are_small_slots(cost: float) -> bool:
    """Returns whether a CPU runs the micro-steps of a step faster stacked as one network than one after the other.

    Args:
        cost: Multiply-adds of the forward pass of one of them.
    """
    return cost < STACKED_COST


def choose_rate(optimizer: OptimizerName, step_images: int, tunes_trained: bool = False) -> float:
    """Returns the learning rate, which grows with the root of the images of a step (Malladi et al., NeurIPS 2022, arXiv
    2205.10287), up to a limit; less where it changes weights that somebody has trained (`tunes_trained`)."""
    facts = OPTIMIZERS[optimizer]
    rate = min(facts.usual_rate * math.sqrt(step_images / USUAL_STEP_IMAGES), facts.max_rate)
    return float(f"{rate * TUNING_SHARE if tunes_trained else rate:.2g}")


def choose_head_scale(num_routes: int, num_slots: int) -> float:
    """Returns the factor on the heads' learning rate: a head steps in `num_slots` of `num_routes` steps, and Adam's steps are
    of one size."""
    return float(f"{min(max(num_routes / num_slots, 1.0), MAX_HEAD_SCALE):.2g}")


def choose_workers(cores: int, has_gpu: bool) -> int:
    """Returns the loader processes of a rank. On CPUs, the cores compute."""
    return min(max(cores - 1, 1), 8) if has_gpu else min(cores - 1, 2)


def choose_augment(image_size: int, epochs: float) -> str:
    """Returns the augmentation: a network that sees images few times learns less from parts of them."""
    return "crop" if image_size >= CROPPED_FROM and epochs >= AUGMENTED_FROM else "none"


def choose_best_metric(rarest: float) -> str:
    """Returns the summary that the best network is chosen by; `rarest` is how many samples of its rarest class a task has.

    With few, a threshold moves by chance, and with it the recall of that class. In simulations of tasks with two classes, average
    precision chose better with 4 and 12 samples of the rarer one, and as well with 40; with ten classes, the two differed by
    less than their errors (docs/guides/defaults.md).
    """
    return RANKED if rarest < FEW_OF_A_CLASS else DECIDED


def list_sizes(image_size: int) -> list[int]:
    """Returns the side lengths in pixels at which images of this one may be read, the largest first."""
    return [image_size, *(size for size in SMALLER_SIZES if size < image_size)]


def choose_wanted_passes(epochs: float, minutes: float) -> float:
    """Returns the passes over the samples for which the width of a network on CPUs is chosen, from the passes of a run without a
    limit and from `train.minutes`."""
    return epochs / SHORT if minutes else epochs


def count_passes(num_samples: int, image_s: float, minutes: float, num_ranks: int) -> float:
    """Returns how many passes over the samples there is time for on CPUs.

    Args:
        num_samples: Training samples.
        image_s: Seconds that a rank takes to train an image.
        minutes: `train.minutes`.
        num_ranks: Ranks of the run.
    """
    seconds = minutes * 60 or CPU_PATIENCE_S
    return seconds * num_ranks / (max(num_samples, 1) * (image_s + IMAGE_S))
