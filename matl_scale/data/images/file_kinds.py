"""What counts as an image file: decided here alone, for folders and tars, by the ending and otherwise by the first bytes.

Endings are compared without case. A file whose ending says that it is something else is not opened; one without an ending, or
with an unknown one, is an image if it begins like one. Whatever is not taken is counted, so that a command can say so.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field

from matl_scale.errors import shortened


def suffixes(text: str) -> tuple[str, ...]:
    return tuple(f".{word}" for word in text.split())


# of the formats in layout.OPENED_FORMATS
IMAGE_SUFFIXES = suffixes("jpg jpeg jpe jfif jif mpo png apng webp bmp dib gif tif tiff ppm pgm pbm pnm")
# pictures of other kinds; some begin like a TIFF, so that their content cannot tell
OTHER_PICTURES = suffixes(
    "heic heif avif jxl jp2 j2k jpx svg svgz eps ps ai pdf psd xcf exr hdr dcm nii ico icns tga dds cr2 cr3 crw nef nrw arw dng "
    "orf rw2 raf pef srw raw wmf emf mp4 mov avi mkv webm"
)
ARCHIVES = suffixes("tar parquet zip gz tgz bz2 tbz2 xz txz zst 7z rar")
OTHER_FILES = suffixes(
    "txt csv tsv json jsonl xml yaml yml md html htm db ini lock log py sh ipynb xlsx xls ods docx npy npz mat pkl pickle pt pth "
    "h5 hdf5 feather arrow sqlite cls id index idx tfrecord lmdb mdb xmp aae thm sha256 md5 part partial crdownload download tmp "
    "bak swp"
)
NO_IMAGES = frozenset((*OTHER_PICTURES, *ARCHIVES, *OTHER_FILES))
REMEDIES = (
    (
        OTHER_PICTURES,
        "Pictures of other kinds than JPEG, PNG, WebP, BMP, GIF, TIFF and PPM cannot be read: convert them to JPEG or PNG.",
    ),
    (
        ARCHIVES,
        "Unpack archives first; uncompressed tars and Parquet with images are read if they lie directly in the folder.",
    ),
)
HIDDEN, BROKEN_LINK, NO_FILE, UNREADABLE = "hidden", "links that lead nowhere", "not regular", "unreadable"
SOURCES = (".tar", ".parquet")  # may hold images themselves
START_BYTES = 32  # that tell what a file is
BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # sizes of the second header of a BMP


def is_hidden(name: str) -> bool:
    """Returns whether a file or one of its folders has a name that begins with a dot, as `._a.jpg` of macOS."""
    if not name.startswith(".") and "/." not in name:  # millions of names are asked about
        return False
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def suffix_of(name: str) -> str:
    """Returns the ending of a file's name in small letters, with its dot; empty if it has none."""
    stem, _, ending = name[name.rfind("/") + 1 :].rpartition(".")
    return f".{ending.lower()}" if stem and ending else ""


def kind_by_name(name: str) -> str | None:
    """Returns "" for the name of an image, what it is for the name of another file, and None if only its content can tell."""
    if is_hidden(name):
        return HIDDEN
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES:
        return ""
    return suffix or "~" if suffix in NO_IMAGES or name.endswith("~") else None


def kind_by_content(name: str, start: bytes) -> str:
    """Returns "" if a file begins like an image, else its ending."""
    return "" if starts_like_image(start) else suffix_of(name) or "no ending"


def starts_like_image(start: bytes) -> bool:
    """Returns whether the first `START_BYTES` are those of an image of a known format."""
    if start.startswith(
        (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    ):
        return True
    if start.startswith(b"RIFF"):
        return start[8:12] == b"WEBP"
    if start.startswith(b"BM"):
        return len(start) >= 18 and struct.unpack_from("<I", start, 14)[0] in BITMAP_HEADERS
    is_pnm = start[:1] == b"P" and start[1:2] in b"123456" and start[2:3] in b" \t\r\n"
    return is_pnm and (start[3:4].isdigit() or start[3:4] == b"#")


def without_images(kind: str) -> str:
    """Returns the kind of a tar or Parquet file that was looked into and holds no image, as a table of labels."""
    return f"{kind} without images"


@dataclass
class PassedOver:
    """Counts files that are not taken as images, by kind, with an example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Counts files of a kind; `name` is one of them."""
        self.counts[kind] += count
        self.examples.setdefault(kind, name)

    def update(self, other: "PassedOver") -> None:
        """Adds the counts of another listing."""
        for kind, count in other.counts.items():
            self.add(kind, other.examples[kind], count)

    def describe(self) -> str:
        """Returns one line: how many files of which kinds, an example of each, and what can be done; empty if there are none."""
        if not self.counts:
            return ""
        kinds = [f"{count:,} {kind} ({self.examples[kind]})" for kind, count in self.counts.most_common()]
        total = self.counts.total()
        text = f"passed over {total:,} file{'s' if total > 1 else ''} that {'are no images' if total > 1 else 'is no image'}"
        remedies = [remedy for endings, remedy in REMEDIES if not set(endings).isdisjoint(self.counts)]
        return " ".join([f"{text}: {shortened(kinds, 6)}.", *remedies])
