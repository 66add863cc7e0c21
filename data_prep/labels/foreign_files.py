"""Files that look like label files and are not: told by their first bytes, and refused with the way out.

The ending of a name says little (`labels.csv` may be a spreadsheet that was renamed), so the content decides.
"""

import json
import re

from matl_scale.errors import InputError

PANDAS = "Convert it, for example with pandas: pd.{reader}({path!r}).to_csv('labels.csv', index=False)."
NO_RECORDS = "Write a table from it: a row per image with its name, and a column per task."
SAVE_AS = "Save the sheet as CSV (in Excel: Save as, CSV UTF-8)."
UNPACK = "Unpack it first."
DOWNLOAD = "Download the file itself again."
TAR_MAGIC_OFFSET = 257
# first bytes, what such a file is, and what to do with it
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)", SAVE_AS),
    (b"ARROW1", "a Feather or Arrow file", PANDAS.replace("{reader}", "read_feather")),
    (b"FEA1", "a Feather file", PANDAS.replace("{reader}", "read_feather")),
    (b"ORC", "an ORC file", PANDAS.replace("{reader}", "read_orc")),
    (b"\x89HDF", "an HDF5 file", PANDAS.replace("{reader}", "read_hdf")),
    (b"\x93NUMPY", "a NumPy array", "Write it as CSV with a header and a column of image names."),
    (b"\x80\x04", "a Python pickle", PANDAS.replace("{reader}", "read_pickle")),
    (b"\x80\x05", "a Python pickle", PANDAS.replace("{reader}", "read_pickle")),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV."),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it first, with `unxz`."),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Fetch it with `git lfs pull`."),
    (b"\xff\xd8\xff", "a JPEG image", "--labels should be a table."),
    (b"\x89PNG", "a PNG image", "--labels should be a table."),
    (b"%PDF", "a PDF document", "Save the table as CSV."),
)
JSON = re.compile(rb"\s*(\{\s*\"|\[\s*[\[{])")
HTML = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)


def check_is_table(path: str, head: bytes) -> None:
    """Raises `InputError` if `head`, the first bytes of a file, belongs to a file that is neither text nor Parquet."""
    if (found := describe_foreign(path, head.removeprefix(b"\xef\xbb\xbf"))) is not None:
        what, remedy = found
        raise InputError(
            f"{path} should be CSV with a header, or Parquet. Got {what}. {remedy.replace('{path!r}', repr(path))}"
        )


def describe_foreign(path: str, head: bytes) -> tuple[str, str] | None:
    """Returns what a file is and what to do with it, if it is of a kind that is not read; otherwise None."""
    if head.startswith(b"PK\x03\x04"):
        return describe_zip(path, head)
    if head[TAR_MAGIC_OFFSET : TAR_MAGIC_OFFSET + 5] == b"ustar":
        return "a tar archive", f"{UNPACK} Tars with images belong to --images."
    for magic, what, remedy in KINDS:
        if head.startswith(magic):
            return what, remedy
    if JSON.match(head):
        return describe_json(head)
    if HTML.match(head):
        return "a web page or XML", f"{DOWNLOAD} A page that asks to log in often takes its place."
    return None


def describe_json(head: bytes) -> tuple[str, str]:
    """Tells records in lines, a list of records and any other object apart; the latter, as in COCO, is often no table."""
    if head.lstrip().startswith(b"["):
        return "JSON", PANDAS.replace("{reader}", "read_json")
    first, *others = head.strip().splitlines()[:2]
    try:
        values = json.loads(first).values()
    except ValueError:  # the object goes on in the next line
        return "a JSON object", NO_RECORDS
    if not others and any(isinstance(value, (list, dict)) for value in values):
        return "a JSON object", NO_RECORDS
    return "JSON lines", PANDAS.replace("{reader}({path!r})", "read_json({path!r}, lines=True)")


def describe_zip(path: str, head: bytes) -> tuple[str, str]:
    if path.lower().endswith((".xlsx", ".xlsm")) or b"[Content_Types].xml" in head:
        return "an Excel workbook (.xlsx)", SAVE_AS
    if path.lower().endswith(".ods") or b"opendocument.spreadsheet" in head:
        return "an OpenDocument spreadsheet (.ods)", "Save the sheet as CSV."
    return "a zip archive", UNPACK
