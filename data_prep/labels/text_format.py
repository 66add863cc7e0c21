"""How a label file of text is written: its encoding, compression, separator, and where its header ends.

Encoding: what a byte order mark says, else UTF-8, else Windows-1252 if no part of the file is UTF-8 beyond ASCII. The separator
is the one that yields the column of image names; no other content is guessed at.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa

from data_prep.labels.foreign_files import check_is_table
from data_prep.labels.white_space import trim
from matl_scale.errors import InputError

BLOCK_SIZE = 1 << 24  # a header has to fit into the first block, and every row into two
SEPARATORS = (",", ";", "\t", "|")
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
# the longer mark first: that of UTF-32 begins with that of UTF-16
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UTF8_PAIR = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')  # Excel's first line for Excel


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """What has to be known to read a label file of text."""

    compression: str | None
    encoding: str
    separator: str
    header: tuple[str, ...]  # as it is written
    header_lines: int  # lines before the first row, the header's own included
    has_quotes: bool  # whether a cell may be quoted, and so hold line breaks


def read_text_format(path: Path, shown: str, image_column: str) -> TextFormat:
    """Reads a file once to find how it is written. `shown` is its name in messages.

    Raises:
        InputError: The file is empty, has no header, or is of a kind that is not read.
    """
    compression = find_compression(path)
    blocks = read_blocks(path, compression)
    head = next(blocks, b"")
    check_is_table(shown, head)
    has_quotes, encoding = scan(head, blocks)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
    separator, header, lines = read_header(text, shown, image_column)
    return TextFormat(
        compression=compression,
        encoding=encoding,
        separator=separator,
        header=tuple(header),
        header_lines=lines,
        has_quotes=has_quotes,
    )


def find_compression(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)


def read_blocks(path: Path, compression: str | None) -> Iterator[bytes]:
    """Yields the content of a file, unpacked, in blocks."""
    with pa.input_stream(str(path), compression=compression) as stream:
        while block := stream.read(BLOCK_SIZE):
            yield block


def scan(head: bytes, others: Iterator[bytes]) -> tuple[bool, str]:
    """Returns whether there are quotes in a file, and its encoding; `head` and `others` are its blocks."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return True, encoding  # quotes may be anywhere: such files are small
    utf8, windows = (codecs.getincrementaldecoder(name)() for name in ("utf-8", "cp1252"))
    has_quotes, is_utf8, is_windows, has_pair = False, True, True, False
    for block in chain([head], others):
        has_quotes = has_quotes or b'"' in block
        if block.isascii() and not utf8.getstate()[0]:
            continue
        is_utf8 = is_utf8 and decodes(utf8, block)
        is_windows = is_windows and decodes(windows, block)
        has_pair = has_pair or bool(UTF8_PAIR.search(block))
    if is_utf8:
        is_utf8 = decodes(utf8, b"", final=True)
    # a file with text in UTF-8 and broken bytes is a damaged one: it fails where a column with such bytes is used
    return has_quotes, "cp1252" if not is_utf8 and is_windows and not has_pair else "utf-8"


def decodes(decoder: codecs.IncrementalDecoder, block: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True


def read_header(text: str, shown: str, image_column: str) -> tuple[str, list[str], int]:
    """Returns the separator, the header and the number of lines up to its end, from the beginning of a file."""
    if "\0" in text[:1000]:
        raise InputError(
            f"{shown} should be CSV with a header, or Parquet. Got bytes that are no text. Save it as UTF-8."
        )
    first, _, rest = text.partition("\n")
    if found := SEPARATOR_LINE.fullmatch(first.rstrip("\r")):
        header, lines = first_row(rest, found[1], shown)
        return found[1], header, lines + 1
    rows = {separator: first_row(text, separator, shown) for separator in SEPARATORS}
    with_images = [one for one in SEPARATORS if trim(image_column) in map(trim, rows[one][0]) and len(rows[one][0]) > 1]
    # without the column the file is refused: the longest row makes the clearest message
    chosen = with_images[0] if with_images else max(SEPARATORS, key=lambda one: len(rows[one][0]))
    return chosen, *rows[chosen]


def first_row(text: str, separator: str, shown: str) -> tuple[list[str], int]:
    """Returns the first row that is not empty, and the number of lines up to its end."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator)
    try:
        for row in reader:
            if row and not lines.read(1):
                raise InputError(f"{shown} has no row beside its header.")
            if row:
                return row, reader.line_num
    except csv.Error as error:
        raise InputError(f"{shown} should begin with a header. Its first row cannot be read: {error}.") from error
    raise InputError(f"{shown} is empty. It should be CSV with a header, or Parquet.")
