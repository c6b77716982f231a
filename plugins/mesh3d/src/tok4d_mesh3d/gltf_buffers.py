"""The bytes of a glTF 2.0 or GLB file: container, buffers, images, accessors; every offset and count is checked."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any
from urllib.parse import unquote

import numpy as np

from tok4d.errors import Tok4dError
from tok4d_mesh3d.assets import Assets
from tok4d_mesh3d.parts import Limits

GLB_MAGIC, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}


def read_container(content: bytes) -> tuple[dict[str, Any], bytes | None]:
    """JSON header and the binary chunk, if there is one."""
    embedded = None
    text = content
    if content[:4] == b"glTF":
        if len(content) < 20:
            raise Tok4dError("is truncated: a GLB header has 20 bytes")
        _, version, length, size, kind = struct.unpack("<5I", content[:20])
        if version != 2 or kind != JSON_CHUNK:
            raise Tok4dError(f"is GLB version {version}; only 2 with a JSON chunk can be read")
        if length > len(content) or 20 + size > len(content):
            raise Tok4dError(f"is truncated: {len(content):,} of {length:,} bytes")
        text, rest = content[20 : 20 + size], content[20 + size :]
        if len(rest) >= 8:
            size, kind = struct.unpack("<2I", rest[:8])
            if size > len(rest) - 8:
                raise Tok4dError(f"is truncated: {len(rest) - 8:,} of {size:,} bytes of its binary chunk")
            embedded = rest[8 : 8 + size] if kind == BIN_CHUNK else None
    try:
        header = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Tok4dError(f"has no readable JSON header ({error})") from None
    if not isinstance(header, dict):
        raise Tok4dError("has a JSON header that is no object")
    return header, embedded


class Buffers:
    """What a header's accessors, buffer views and images point to, decoded on demand."""

    def __init__(self, header: dict[str, Any], embedded: bytes | None, assets: Assets, limits: Limits) -> None:
        self.header, self.embedded, self.assets, self.limits = header, embedded, assets, limits
        self.buffers: dict[int, bytes] = {}

    def buffer(self, index: int) -> bytes:
        """Content of a buffer: the binary chunk, base64, or a file beside the asset."""
        if index not in self.buffers:
            uri = self.header["buffers"][index].get("uri")
            if uri is None:
                if self.embedded is None:
                    raise Tok4dError("refers to a binary chunk that is not there")
                self.buffers[index] = self.embedded
            else:
                self.buffers[index] = self.resolve(str(uri))
        return self.buffers[index]

    def resolve(self, uri: str) -> bytes:
        """Content of a `data:` address or of a file beside the asset."""
        if not uri.startswith("data:"):
            return self.assets.read(uri, self.limits.max_bytes)
        head, _, body = uri.partition(",")
        return base64.b64decode(body) if head.endswith(";base64") else unquote(body).encode()

    def view(self, index: int) -> bytes:
        """Bytes of a buffer view."""
        view = self.header["bufferViews"][index]
        start, size = int(view.get("byteOffset", 0)), int(view["byteLength"])
        content = self.buffer(int(view["buffer"]))
        if start < 0 or size < 0 or start + size > len(content):
            raise Tok4dError(f"is truncated: buffer view {index} ends at byte {start + size:,} of {len(content):,}")
        return content[start : start + size]

    def image(self, index: int) -> bytes:
        """Encoded bytes of an image."""
        image = self.header["images"][index]
        return self.view(int(image["bufferView"])) if "bufferView" in image else self.resolve(str(image["uri"]))

    def array(self, index: int) -> np.ndarray:
        """An accessor's values `[count, width]`; normalised integers as floats, sparse values filled in."""
        accessor = self.header["accessors"][index]
        count, width = int(accessor["count"]), WIDTHS[accessor["type"]]
        dtype = np.dtype(_TYPES[accessor["componentType"]])
        if width == 1:  # indices, three a face
            self.limits.check(faces=count // 3)
        else:
            self.limits.check(faces=0, vertices=count)
        if "bufferView" in accessor:
            values = self._strided(int(accessor["bufferView"]), int(accessor.get("byteOffset", 0)), count, width, dtype)
        elif "sparse" in accessor:
            values = np.zeros((count, width), dtype)
        else:
            raise Tok4dError(f"accessor {index} has no data")
        if "sparse" in accessor:
            values = self._filled(values, accessor["sparse"], width, dtype)
        if accessor.get("normalized") and dtype.kind in "iu":
            return np.maximum(values.astype(np.float32) / np.iinfo(dtype).max, -1)
        return values

    def _strided(self, view: int, offset: int, count: int, width: int, dtype: np.dtype) -> np.ndarray:
        content = self.view(view)
        size = width * dtype.itemsize
        stride = int(self.header["bufferViews"][view].get("byteStride") or size)
        if count < 0 or offset < 0 or stride < size or (count and offset + (count - 1) * stride + size > len(content)):
            raise Tok4dError(
                f"is damaged: {count:,} values do not fit into buffer view {view} of {len(content):,} bytes"
            )
        if not count:
            return np.zeros((0, width), dtype)
        return np.ndarray((count, width), dtype, content, offset, (stride, dtype.itemsize)).copy()

    def _filled(self, values: np.ndarray, sparse: dict[str, Any], width: int, dtype: np.dtype) -> np.ndarray:
        places, contents, count = sparse["indices"], sparse["values"], int(sparse["count"])
        kind = np.dtype(_TYPES[places["componentType"]])
        rows = self._strided(int(places["bufferView"]), int(places.get("byteOffset", 0)), count, 1, kind)[:, 0]
        if count and int(rows.max()) >= len(values):
            raise Tok4dError(f"is damaged: sparse index {int(rows.max())} of {len(values)} values")
        values[rows] = self._strided(
            int(contents["bufferView"]), int(contents.get("byteOffset", 0)), count, width, dtype
        )
        return values
