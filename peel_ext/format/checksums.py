"""The checksum of bytes of which every part was summed elsewhere."""

from __future__ import annotations

#: The polynomial of CRC-32 less its highest term; bit 31 stands for x^0, bit 0 for x^31.
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def join_crc32(first: int, second: int, second_bytes: int) -> int:
    """The ``zlib.crc32`` of two runs of bytes, one after the other.

    Args:
        first: that of the first run.
        second: that of the second run.
        second_bytes: length of the second run.
    """
    shift, power = _ONE, _ONE >> 8  # x^8: what a byte more does to what was before it
    while second_bytes:
        if second_bytes & 1:
            shift = _multiply(shift, power)
        power = _multiply(power, power)
        second_bytes >>= 1
    return _multiply(first, shift) ^ second


def _multiply(left: int, right: int) -> int:
    """The product of two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    for place in range(31, -1, -1):
        if left >> place & 1:
            product ^= right
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product
