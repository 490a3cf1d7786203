"""The messages between the sandbox and the process that reads from it.

A message is a kind (one byte), the length of its body (uint32, big-endian) and the body. INFO, END and ERROR carry
JSON; PCM carries float32 samples, [channels, n], channel after channel; ROWS carries rows of pixels, uint8
[n, width, 3] in red, green and blue.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("!cI")
INFO, PCM, ROWS, END, ERROR = b"I", b"P", b"R", b"E", b"X"

# What the reader accepts at most: a decoder gone wild must not make it allocate without bound.
MAX_JSON = 1 << 20
PCM_FRAMES = 1 << 15
MAX_PCM_FRAMES = 1 << 20
MAX_ROWS_BYTES = 1 << 24

LARGEST = {PCM: 4 * 256 * MAX_PCM_FRAMES, ROWS: MAX_ROWS_BYTES}
"""Bytes of a body by its kind; of the others MAX_JSON."""
