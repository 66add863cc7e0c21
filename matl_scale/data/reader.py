"""Reads single samples out of the tars by the manifest's offsets, and decodes them. Never trains on a wrong sample:
the tar header before each image has to carry the key that the manifest expects there."""

import io
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from matl_scale.data.shards import HEADER_BYTES, InputError, Manifest, member_name

MAX_OPEN_SHARDS = 64


class SampleReader:
    """Random access to the images of a shard set. Opens files when they are first needed, so it can be pickled."""

    def __init__(self, manifest: Manifest) -> None:
        self.root: Path = manifest.root
        self._files: list[str] = manifest.shards["file"].to_pylist()
        samples: pa.Table = manifest.samples
        self._shard = samples["shard"].to_numpy()
        self._offset = samples["offset"].to_numpy()
        self._size = samples["size"].to_numpy()
        self._key = samples["key"].combine_chunks()
        self._extension = samples["extension"].combine_chunks().dictionary_encode()
        self._open: OrderedDict[int, int] = OrderedDict()  # shard → file descriptor

    def read(self, row: int) -> dict[str, object]:
        """Returns one sample: `__key__` and `__url__` as WebDataset has them, `row`, and the encoded `image`.

        Raises:
            InputError: The tar does not hold this sample where the manifest says.
        """
        shard = int(self._shard[row])
        size, offset = int(self._size[row]), int(self._offset[row])
        key, extension = self._key[row].as_py(), self._extension[row].as_py()
        # pread: forked workers share the position of a file that was open before the fork
        block = os.pread(self._file(shard), HEADER_BYTES + size, offset - HEADER_BYTES)
        name = block[:100].rstrip(b"\0").decode("ascii", "replace")
        if name != member_name(key, extension) or len(block) != HEADER_BYTES + size:
            raise InputError(
                f"{self.root / self._files[shard]} should hold {member_name(key, extension)} ({size} bytes) at offset "
                f"{offset}. Got {name!r}: the manifest does not match its tars. Prepare the shard set again."
            )
        return {"__key__": key, "__url__": self._files[shard], "row": row, "image": block[HEADER_BYTES:]}

    def _file(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self.root / self._files[shard]
        try:
            self._open[shard] = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path} cannot be opened: {error.strerror}.") from error
        if len(self._open) > MAX_OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        return self._open[shard]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}


def decode_image(data: bytes, size: int) -> torch.Tensor:
    """Decodes an image to uint8 RGB, shape `(3, size, size)`; another shape is scaled and centre-cropped."""
    with Image.open(io.BytesIO(data)) as encoded:
        image = encoded.convert("RGB")
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) / 2 / scale, (height - size) / 2 / scale
        box = (left, top, left + size / scale, top + size / scale)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
