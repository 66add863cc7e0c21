"""scikit-learn's digits: 1,797 scans of 8 × 8 pixels, as 175 binary tasks "digit ∈ S" for all S of one to three classes.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; it comes with scikit-learn.
"""

from itertools import combinations

import numpy as np

from data_prep.dataset import Dataset, binary_tasks, from_arrays
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.extras import require

SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(range(10), size)]


def build(seed: int) -> Dataset:
    """Returns the 1,797 images, split 70 / 15 / 15 % with the same share of every digit."""
    require("examples", "sklearn", purpose="The example digits")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    indices = np.arange(len(digits.target))
    train, held_out = train_test_split(indices, test_size=0.3, stratify=digits.target, random_state=seed)
    val, test = train_test_split(held_out, test_size=0.5, stratify=digits.target[held_out], random_state=seed)
    splits = np.empty(len(indices), dtype=object)
    for name, chosen in (("train", train), ("val", val), ("test", test)):
        splits[chosen] = name
    return from_arrays(
        tasks=binary_tasks(("digit_in_" + "_".join(map(str, subset)) for subset in SUBSETS), "digits"),
        names=[f"digits/{i:04d}.png" for i in indices],
        labels=np.stack([np.isin(digits.target, subset) for subset in SUBSETS], axis=1).astype(np.int8),
        splits=splits.tolist(),
        images=ArrayImages(root="scikit-learn", pixels=np.round(digits.images * (255 / 16)).astype(np.uint8)),
    )
