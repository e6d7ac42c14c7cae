"""Every picture file is converted correctly or refused with its reason."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.data.decode import MAX_PIXELS, PictureError, decode_picture, header_size, stretch

SCENE = np.zeros((24, 40, 3), np.uint8)  # RGB: left red, right blue, top right corner green
SCENE[:, :20] = (250, 10, 10)
SCENE[:, 20:] = (10, 10, 250)
SCENE[:8, 32:] = (10, 250, 10)


def encode(picture: np.ndarray, suffix: str, *options: int) -> bytes:
    if picture.ndim == 3 and picture.shape[2] == 3:
        picture = picture[:, :, ::-1]
    done, data = cv2.imencode(suffix, picture, list(options))
    assert done
    return data.tobytes()


def jpeg(picture: np.ndarray = SCENE) -> bytes:
    return encode(picture, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98)


def with_orientation(data: bytes, orientation: int) -> bytes:
    tiff = b"MM\x00*" + struct.pack(">IHHHII", 8, 1, 0x0112, 3, 1, orientation << 16) + b"\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".jpg"])
def test_colours_are_rgb_in_every_format(suffix: str) -> None:
    data = encode(SCENE, suffix, *((cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()))
    assert header_size(data) == (40, 24)
    picture = decode_picture(data)
    assert picture.shape == (24, 40, 3) and picture.dtype == np.uint8
    limit = 40 if suffix == ".jpg" else 0
    assert np.abs(picture.astype(int) - SCENE).mean() <= limit / 4
    assert np.abs(picture[12, 8].astype(int) - (250, 10, 10)).max() <= limit


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda p: np.rot90(p),
    }[orientation](SCENE)
    picture = decode_picture(with_orientation(jpeg(), orientation))
    assert picture.shape == upright.shape
    assert np.abs(picture.astype(int) - upright).mean() < 12


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
    picture = decode_picture(encode(grey, ".png"))
    assert np.array_equal(picture, np.repeat(grey[:, :, None], 3, axis=2))
    assert decode_picture(encode(grey, ".jpg")).shape == (24, 40, 3)


def test_sixteen_bits_keep_the_high_byte() -> None:
    deep = SCENE.astype(np.uint16) * 257
    assert np.array_equal(decode_picture(encode(deep, ".png")), SCENE)
    grey = (np.arange(960, dtype=np.uint32) * 68).astype(np.uint16).reshape(24, 40)
    assert np.array_equal(decode_picture(encode(grey, ".png"))[:, :, 1], grey >> 8)


def test_transparent_parts_lie_on_white() -> None:
    alpha = np.zeros((24, 40, 1), np.uint8)
    alpha[:, :20], alpha[:, 20:30] = 255, 128
    picture = decode_picture(encode(np.concatenate([SCENE[:, :, ::-1], alpha], axis=2), ".png"))
    assert picture[12, 5].tolist() == [250, 10, 10]
    assert picture[12, 25].tolist() == [132, 132, 252]
    assert picture[12, 35].tolist() == [255, 255, 255]


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow makes the CMYK picture; it is not installed")
    import io

    buffer = io.BytesIO()
    image.fromarray(SCENE).convert("CMYK").save(buffer, "JPEG", quality=98)
    picture = decode_picture(buffer.getvalue())
    assert picture.shape == SCENE.shape
    assert np.abs(picture[12, 8].astype(int) - (250, 10, 10)).max() < 30
    assert np.abs(picture[20, 30].astype(int) - (10, 10, 250)).max() < 30


def test_palette_png() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow makes the palette picture; it is not installed")
    import io

    buffer = io.BytesIO()
    image.fromarray(SCENE).quantize(8).save(buffer, "PNG")
    assert np.abs(decode_picture(buffer.getvalue()).astype(int) - SCENE).max() <= 8


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_decompression_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(PictureError, match="announces 60000 x 60000 pixels"):
        decode_picture(bomb(60_000, 60_000), "bomb.png")
    assert MAX_PIXELS < 60_000 * 60_000
    huge = jpeg().replace(struct.pack(">HH", 24, 40), struct.pack(">HH", 65_000, 65_000), 1)
    with pytest.raises(PictureError, match="65000 x 65000"):
        decode_picture(huge)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>not a picture</html>", "not a JPEG"),
        (jpeg()[:-200], "truncated"),
        (jpeg()[:30], "truncated"),
        (encode(SCENE, ".png")[:-20], "truncated"),
        (encode(SCENE, ".webp")[:-20], "truncated"),
        (encode(SCENE, ".bmp")[:200], "damaged"),
        (bomb(300, 300), "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(16) + b"IEND", "no size"),
        (b"II*\x00" + bytes(20), "no size"),
    ],
)
def test_broken_files_are_refused_with_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason) as caught:
        decode_picture(data, "picture 7")
    assert caught.value.what == "picture 7"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_escape_as_another_error(data: st.DataObject) -> None:
    original = data.draw(
        st.sampled_from([jpeg(), encode(SCENE, ".png"), encode(SCENE, ".webp"), encode(SCENE, ".tiff")])
    )
    broken = bytearray(original[: data.draw(st.integers(0, len(original)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = decode_picture(bytes(broken))
    except PictureError:
        return
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8


def test_stretch_is_by_area_down_and_bilinear_up() -> None:
    checks = np.indices((64, 128)).sum(axis=0) % 2 * 255
    picture = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    small = stretch(picture, 32)
    assert small.shape == (32, 32, 3) and np.abs(small.astype(int) - 127).max() <= 1
    assert stretch(picture, 96).shape == (96, 96, 3)
    assert stretch(small, 32) is small
