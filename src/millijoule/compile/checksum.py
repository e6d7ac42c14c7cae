"""The checksum of a model's constants, which the firmware compares when it starts: C text and the number."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from millijoule.compile.lower import Constant

__all__ = ["checksum_function", "constants_checksum"]

_TABLE_BYTES = 4096
"""Four tables of 256 words: with them a checksum of four bytes takes four look-ups."""


def constants_checksum(blocks: Iterable[tuple[Constant, ...]]) -> int:
    """CRC-32 (ISO-HDLC: polynomial 0x04C11DB7 reflected, start and end inverted; that of zlib) of blocks of constants.

    Args:
        blocks: the members of each layer's block in the order of its C structure; padding at the end does not count.
    """
    checksum = 0
    for members in blocks:
        for member in members:
            value = member.value
            checksum = zlib.crc32(value.astype(value.dtype.newbyteorder("<")).tobytes(), checksum)
    return checksum


def checksum_function(blocks: Iterable[tuple[str, tuple[Constant, ...]]], arena_bytes: int) -> str:
    """C text of `weights_are_intact`: 1 when the checksum of all blocks is the one computed here.

    It runs before the first inference, so its tables lie in the arena; a smaller arena gets the loop over bits.
    Method: slicing by four, after M. Kounavis and F. Berry, "Novel Table Lookup-Based Algorithms for High-Performance
    CRC Generation", IEEE Transactions on Computers 57(11), 2008.

    Args:
        blocks: for each layer, the number in `mj_constants_<number>` and its members.
        arena_bytes: size of the arena.
    """
    listed = list(blocks)
    rows = "\n".join(
        f"        {{&mj_constants_{number}, {sum(member.value.nbytes for member in members)}}},"
        for number, members in listed
    )
    expected = constants_checksum(members for _, members in listed)
    prepare, step = (_TABLES, _FOUR_BYTES) if arena_bytes >= _TABLE_BYTES else ("", _ONE_BYTE)
    return f"""/* CRC-32, as in zlib, of the constants of all layers. */
static int weights_are_intact(void)
{{
    static const struct {{
        const void *start;
        uint32_t count;
    }} blocks[] = {{
{rows}
    }};
    uint32_t crc = 0xFFFFFFFFu;
{prepare}    for (uint32_t block = 0; block < sizeof blocks / sizeof blocks[0]; ++block) {{
        const uint8_t *byte = blocks[block].start;
        const uint8_t *const end = byte + blocks[block].count;
{step}    }}
    return (crc ^ 0xFFFFFFFFu) == {expected:#010x}u;
}}
"""


_TABLES = """    /* table[256 * k + b]: what byte b does to the checksum when k bytes follow it. */
    uint32_t *const table = MJ_AT(uint32_t, 0);
    for (uint32_t index = 0; index < 256; ++index) {
        uint32_t value = index;
        for (int bit = 0; bit < 8; ++bit) {
            value = value >> 1 ^ (0xEDB88320u & (0u - (value & 1u)));
        }
        table[index] = value;
    }
    for (uint32_t index = 256; index < 1024; ++index) {
        table[index] = table[index - 256] >> 8 ^ table[table[index - 256] & 255u];
    }
"""

_FOUR_BYTES = """        for (; end - byte >= 4; byte += 4) {
            crc ^= (uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24;
            crc = table[768 + (crc & 255u)] ^ table[512 + (crc >> 8 & 255u)] ^ table[256 + (crc >> 16 & 255u)] ^
                  table[crc >> 24];
        }
        for (; byte < end; ++byte) {
            crc = crc >> 8 ^ table[(crc ^ *byte) & 255u];
        }
"""

_ONE_BYTE = """        for (; byte < end; ++byte) {
            crc ^= *byte;
            for (int bit = 0; bit < 8; ++bit) {
                crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
            }
        }
"""
