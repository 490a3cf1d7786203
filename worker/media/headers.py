"""What a file's own header says where FFmpeg's answer is only an estimate. Pure reading of bytes, no decoding.

FFmpeg shortens the duration of a truncated WAV to what the file holds, and estimates that of an MP3 without a frame
count from its first bit rate; both hide or fake a missing end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_MAGIC = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b"\x1a\x45\xdf\xa3", b"caff", b".snd", b"riff")
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
_MP3_SEARCH = 4096


@dataclass(frozen=True)
class WavHeader:
    """samples: frames that the data chunk declares, None for a stream of unknown length."""

    samples: int | None


def is_known_container(head: bytes) -> bool:
    """Whether the first bytes are the signature of a container this service reads."""
    return head.startswith(_MAGIC) or head[4:8] in (b"ftyp", b"moov", b"mdat")


def wav_header(path: Path) -> WavHeader | None:
    """The header of a RIFF or RF64 WAVE file; None where it is neither or has no data chunk."""
    with path.open("rb") as file:
        magic, _, form = _unpack(file, "<4sI4s") or (b"", 0, b"")
        if magic not in (b"RIFF", b"RF64") or form != b"WAVE":
            return None
        align, long_size = 0, None
        while chunk := _unpack(file, "<4sI"):
            name, size = chunk
            if name == b"data":
                if long_size is not None and size == 0xFFFFFFFF:
                    size = long_size
                elif size in _UNKNOWN_SIZES:
                    return WavHeader(None)
                return WavHeader(size // align) if align else None
            start = file.tell()
            if name == b"ds64" and (sizes := _unpack(file, "<QQ")):
                long_size = sizes[1]
            elif name == b"fmt " and (fields := _unpack(file, "<HHIIH")):
                align = fields[4]
            file.seek(start + size + size % 2)
    return None


def flac_bits(path: Path) -> int | None:
    """Bits per sample of a FLAC stream (STREAMINFO, RFC 9639 section 8.2); None where the file is not plain FLAC."""
    with path.open("rb") as file:
        head = file.read(42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F != 0:
        return None
    return ((head[20] & 0x01) << 4 | head[21] >> 4) + 1


def mp3_has_frame_count(path: Path) -> bool:
    """Whether an MP3 begins with a Xing, Info or VBRI frame, which states how many frames follow."""
    with path.open("rb") as file:
        head = file.read(10)
        offset = 0
        if len(head) == 10 and head[:3] == b"ID3":
            size = head[6:10]
            offset = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
        file.seek(offset)
        frame = file.read(_MP3_SEARCH)
    return any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...] | None:
    body = file.read(struct.calcsize(layout))
    return struct.unpack(layout, body) if len(body) == struct.calcsize(layout) else None
