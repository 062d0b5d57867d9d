"""Read the header of a JPEG without Pillow, which parses it in Python: 24 us of the interpreter's lock per image.

Only files whose every segment before the scan is one that Pillow accepts and that changes nothing but the pixels are
read here.  All others are Pillow's to judge: EXIF, XMP, Photoshop's resources, several pictures in one file, damage.
Format: ITU-T T.81, annex B; JFIF 1.02; the segment of an ICC profile as in ICC.1:2022, annex B.4.
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.compiled import compiled

_SOF0, _SOF2, _DHT, _SOS, _DQT, _DRI = 0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD
_APP0, _APP2, _APP14, _COM = 0xE0, 0xE2, 0xEE, 0xFE
_JFIF = np.frombuffer(b"JFIF\0", np.uint8)
_ICC = np.frombuffer(b"ICC_PROFILE\0", np.uint8)
_ADOBE = np.frombuffer(b"Adobe", np.uint8)
_JFIF_BYTES, _ICC_BYTES, _ADOBE_BYTES = 14, 14, 12  # lengths of these segments without thumbnail or profile


@compiled
def read_size(data: np.ndarray) -> tuple[int, int]:
    """Return (width, height) of a plain JPEG, (0, 0) for everything else.

    data: (n,) uint8.  Plain: 8 bits, one or three components, baseline or progressive, nothing but a JFIF header,
    comments, ICC profiles, Adobe's colour transform and tables before the first scan, all of them whole.
    """
    width, height, at = 0, 0, 2
    if len(data) < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return 0, 0
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], data[at + 2] * 256 + data[at + 3] - 2
        body = at + 4
        at = body + size
        if size < 0 or at > len(data):
            return 0, 0
        if marker == _SOS:
            return width, height
        if _SOF0 <= marker <= _SOF2:
            components = data[body + 5] if size >= 6 else 0
            if components not in (1, 3) or size != 6 + 3 * components:  # first: a short segment has no byte to read
                return 0, 0
            if width or data[body] != 8:
                return 0, 0
            height, width = data[body + 1] * 256 + data[body + 2], data[body + 3] * 256 + data[body + 4]
            is_plain = True
        elif marker == _DQT:
            is_plain = _are_tables(data, body, at)
        elif marker == _APP0:
            is_plain = _begins(data, body, size, _JFIF, _JFIF_BYTES)
        elif marker == _APP2:
            is_plain = _begins(data, body, size, _ICC, _ICC_BYTES)
        elif marker == _APP14:
            is_plain = _begins(data, body, size, _ADOBE, _ADOBE_BYTES)
        else:
            is_plain = marker in (_DHT, _DRI, _COM)
        if not is_plain:
            return 0, 0
    return 0, 0


@compiled
def _begins(data: np.ndarray, body: int, size: int, mark: np.ndarray, min_size: int) -> bool:
    if size < min_size:
        return False
    return bool(np.array_equal(data[body : body + len(mark)], mark))


@compiled
def _are_tables(data: np.ndarray, body: int, end: int) -> bool:
    """Return whether a segment is whole quantisation tables, of 64 or 128 bytes behind one."""
    while body < end:
        body += 1 + (128 if data[body] >= 16 else 64)
    return body == end
