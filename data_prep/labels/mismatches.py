"""Says why image names and label rows do not match, where it can be seen. It runs only when something is about to be refused."""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from data_prep.labels.name_index import plain_name, plain_stem

MOST_NAMES = 1_000_000  # names of each side that are compared


class Difference(NamedTuple):
    """A way in which names may differ: names with equal keys differ by it alone."""

    key: Callable[[str], str]
    text: str
    remedy: str


def folded(name: str) -> str:
    return plain_name(name).casefold()


def folded_stem(name: str) -> str:
    return plain_stem(name).casefold()


def without_zeros(name: str) -> str:
    folder, stem = posixpath.split(plain_stem(name))
    return posixpath.join(folder, stem.lstrip("0") or "0")


def without_url(name: str) -> str:
    return plain_name(unquote(name).removeprefix("file://").partition("?")[0])


def base_name(name: str) -> str:
    return posixpath.basename(without_url(name))


def folded_base_stem(name: str) -> str:
    return folded_stem(base_name(name))


DIFFERENCES = (
    Difference(folded, "in upper and lower case", "Names are compared with case: rename one of the two."),
    Difference(plain_stem, "in the ending", "Give the ending that the file has, or none."),
    Difference(folded_stem, "in case and ending", "Give the name as the file has it."),
    Difference(
        without_zeros,
        "in leading zeros",
        "The table holds numbers: write names as text, with the zeros that the files have.",
    ),
    Difference(without_url, "by being a URL", "Give paths below --images."),
    Difference(base_name, "in the folder", ""),
    Difference(folded_base_stem, "in folder, and in case or ending", ""),
)


def explain_mismatches(images: Sequence[str], rows: Sequence[str], root: str | None = None) -> str:
    """Returns sentences that name each way in which images without a row and rows without an image differ, how many pairs there
    are, an example and the remedy; empty if names have nothing in common. `root` is where the images are; without it, they
    are in a shard set.
    """
    images, rows = list(images[:MOST_NAMES]), list(rows[:MOST_NAMES])
    sentences = []
    for difference in DIFFERENCES:
        pairs = list(find_pairs(images, rows, difference.key))
        if not pairs:
            continue
        image, row = pairs[0]
        sentences.append(
            f"{len(pairs):,} differ only {difference.text} (image `{image}`, label row `{row}`). "
            + (difference.remedy or explain_folders(pairs, root))
        )
        paired_images, paired_rows = (set(side) for side in zip(*pairs, strict=True))
        images = [name for name in images if name not in paired_images]
        rows = [name for name in rows if name not in paired_rows]
    return " ".join(sentences)


def find_pairs(images: Sequence[str], rows: Sequence[str], key: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Yields the pairs of an image and a row with the same key that no other image or row has."""
    image_keys, row_keys = list(map(key, images)), list(map(key, rows))
    num_images, num_rows = Counter(image_keys), Counter(row_keys)
    row_of = dict(zip(row_keys, rows, strict=True))
    for name, found in zip(images, image_keys, strict=True):
        if num_images[found] == num_rows[found] == 1:
            yield name, row_of[found]


def explain_folders(pairs: Sequence[tuple[str, str]], root: str | None) -> str:
    """Returns the remedy for names that differ in their folders: another --images, if one folder makes the difference."""
    if root is None:
        return "Give the images' names as they are in the set (column `path` of its samples)."
    plain = [(posixpath.dirname(plain_name(image)), posixpath.dirname(without_url(row))) for image, row in pairs]
    folders = {image.removesuffix(row).rstrip("/") for image, row in plain if image.endswith(row) and image != row}
    if len(folders) == 1 and all(image.endswith(row) for image, row in plain):
        folder = folders.pop()
        if not folder.endswith(".tar"):
            return f"Use --images {root.rstrip('/')}/{folder}."
        return f"Images in tars are named TAR/MEMBER: put `{folder}/` before the names in the label file."
    if any(".tar/" in f"{image}/" for image, _ in plain):
        return "Images in tars are named TAR/MEMBER: name them so in the label file."
    return "Give paths below --images, or name another folder there."
