"""Picture files to pixels: every file is either converted correctly or refused with its reason, never fatal."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millijoule.errors import DataError, ToolchainError

__all__ = ["MAX_PIXELS", "PictureError", "decode_picture", "header_size", "import_cv2", "stretch"]

MAX_PIXELS = 100_000_000
"""Pictures that announce more pixels than this are refused before any of them is decoded."""


class PictureError(DataError):
    """One picture that cannot be used; a data set skips it and lists it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason, "Repair or remove this picture")

    def __reduce__(self) -> Any:
        """Pickle by the two arguments."""
        return type(self), (self.what, self.reason)


def import_cv2() -> Any:
    """The OpenCV module, quiet about the broken files that this module reports itself.

    Raises:
        ToolchainError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ToolchainError(
            "OpenCV", "it is needed for pictures and is not installed", "Run pip install 'millijoule[train]'"
        ) from error
    return cv2


def _jpeg(data: bytes) -> tuple[int, int, bool]:
    """Width, height and whether the end marker is there (ITU-T T.81, annex B)."""
    position, size = 2, None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            position += 1
            continue
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8 or marker == 0x00:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and size is None:
            if position + 9 > len(data):
                break
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            size = (width, height)
        if marker == 0xDA:
            if size is None:
                break
            return *size, data.find(b"\xff\xd9", position) >= 0
        position += 2 + max(2, length)
    return *(size or (0, 0)), False


def header_size(data: bytes, name: str = "picture") -> tuple[int, int]:
    """Width and height announced by the header, without decoding; JPEG, PNG, WebP, BMP, GIF, TIFF.

    Raises:
        PictureError: another format, or a header that is cut off or damaged.
    """
    if not data:
        raise PictureError(name, "the file is empty (zero bytes)")
    width = height = 0
    if data[:3] == b"\xff\xd8\xff":
        width, height, complete = _jpeg(data)
        if not complete:
            raise PictureError(name, "the JPEG file is truncated: its end marker is missing")
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        if data[12:16] == b"IHDR" and len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
        if b"IEND" not in data[-16 - 4096 :]:
            raise PictureError(name, "the PNG file is truncated: its end chunk is missing")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if len(data) < 8 + int.from_bytes(data[4:8], "little"):
            raise PictureError(name, "the WebP file is truncated")
        width, height = _webp(data)
    elif data[:2] == b"BM" and len(data) >= 26:
        if int.from_bytes(data[14:18], "little") == 12:
            width, height = struct.unpack("<HH", data[18:22])
        else:
            width, height = struct.unpack("<ii", data[18:26])
            height = abs(height)
    elif data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        width, height = struct.unpack("<HH", data[6:10])
    elif data[:4] in (b"II*\x00", b"MM\x00*"):
        width, height = _tiff(data)
    else:
        raise PictureError(name, "it is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture")
    if width <= 0 or height <= 0:
        raise PictureError(name, "its header is damaged: it states no size")
    return width, height


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _tiff(data: bytes) -> tuple[int, int]:
    order = "little" if data[:2] == b"II" else "big"

    def number(start: int, count: int) -> int:
        return int.from_bytes(data[start : start + count], order)  # type: ignore[arg-type]

    folder = number(4, 4)
    found = {256: 0, 257: 0}
    for index in range(min(number(folder, 2), 512)):
        entry = folder + 2 + 12 * index
        tag, kind = number(entry, 2), number(entry + 2, 2)
        if tag in found:
            found[tag] = number(entry + 8, 2 if kind == 3 else 4)
    return found[256], found[257]


def decode_picture(data: bytes, name: str = "picture") -> NDArray[np.uint8]:
    """Decodes a picture file to upright 8-bit RGB.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit pictures are converted; transparent parts are laid on
    white; of an animation the first frame is taken.

    Args:
        data: the bytes of a JPEG, PNG, WebP, BMP, GIF or TIFF file.
        name: what to call it in the error.

    Returns:
        uint8 (height, width, 3) RGB.

    Raises:
        PictureError: empty, truncated, damaged, of another format, or larger than `MAX_PIXELS`.
        ToolchainError: OpenCV is not installed.
    """
    cv2 = import_cv2()
    width, height = header_size(data, name)
    if width * height > MAX_PIXELS:
        raise PictureError(name, f"it announces {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} million")
    buffer = np.frombuffer(data, np.uint8)
    jpeg = data[:2] == b"\xff\xd8"
    try:
        picture = cv2.imdecode(buffer, cv2.IMREAD_COLOR if jpeg else cv2.IMREAD_UNCHANGED)
    except cv2.error:
        picture = None
    if picture is None or picture.size == 0:
        raise PictureError(name, "its content is damaged and cannot be decoded")
    return _to_rgb(picture, name, cv2)


def _to_rgb(picture: Any, name: str, cv2: Any) -> NDArray[np.uint8]:
    """OpenCV's BGR, BGRA or grey of any depth to 8-bit RGB on white."""
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    elif picture.dtype != np.uint8:
        raise PictureError(name, f"its pixels are {picture.dtype}, only 8-bit and 16-bit pictures are used")
    if picture.ndim == 2 or picture.shape[2] == 1:
        return np.ascontiguousarray(np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2))
    if picture.shape[2] == 2:
        picture = np.concatenate([np.repeat(picture[:, :, :1], 3, axis=2), picture[:, :, 1:]], axis=2)
    if picture.shape[2] == 4:
        alpha = picture[:, :, 3:].astype(np.uint32)
        blended = (picture[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
        picture = blended.astype(np.uint8)
    rgb: NDArray[np.uint8] = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2RGB)
    return rgb


def stretch(picture: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """The whole photo stretched to a square: by area when its shorter side is at least the resolution, else bilinear.

    Args:
        picture: uint8 (height, width, 3).
        resolution: pixels per side of the result.

    Returns:
        uint8 (resolution, resolution, 3).
    """
    cv2 = import_cv2()
    if picture.shape[:2] == (resolution, resolution):
        return picture
    method = cv2.INTER_AREA if min(picture.shape[:2]) >= resolution else cv2.INTER_LINEAR
    result: NDArray[np.uint8] = cv2.resize(picture, (resolution, resolution), interpolation=method)
    return result
