"""The child process that decodes images: `python -m worker.media.image_sandbox picture PATH LIMITS`.

Confined like the one for sound. Only the four formats below are looked for, by content; size and frames are checked
from the header, before a pixel is decoded. It sends INFO, the pixels as ROWS from top to bottom, and END.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.media import wire
from worker.media.confine import Refused, confine, forbid_threads, send, take_stdout

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
# A phone's JPEG may hold depth or a second exposure behind the picture, as further frames.
_PRIMARY_FIRST = ("JPEG", "MPO")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*")

SHORTEST_SIDE = 16
LARGEST_RATIO = 64
"""Of the sides: a picture narrower than that would leave a model a strip of a few pixels."""

_ROWS_BYTES = 1 << 22
_ORIENTATION = 0x0112
_WHITE = (255, 255, 255)


def main(arguments: list[str]) -> int:
    path, limits = Path(arguments[1]), json.loads(arguments[2])
    out = take_stdout()
    confine(int(limits["cpu_seconds"]))
    import numpy as np
    from PIL import Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    forbid_threads()
    # Our own limit holds, before decoding too; Pillow's would only warn.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with path.open("rb") as file:
            image, info = _read(file, int(limits["pixels"]))
            send(out, wire.INFO, json.dumps(info).encode())
            step = max(1, _ROWS_BYTES // (3 * image.width))
            for top in range(0, image.height, step):
                rows = image.crop((0, top, image.width, min(top + step, image.height)))
                send(out, wire.ROWS, np.asarray(rows).tobytes())
            send(out, wire.END, b"{}")
    except Refused as refusal:
        send(out, wire.ERROR, json.dumps({"code": refusal.code, "detail": refusal.detail}).encode())
    except BrokenPipeError:
        return 1
    return 0


def _read(file: Any, limit: int) -> tuple[Image, dict[str, Any]]:
    """The picture in RGB, upright, and the members of `images.PictureInfo`. Raises Refused."""
    from PIL import Image, UnidentifiedImageError

    head = file.read(12)
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        if head.startswith(_MAGIC) or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
            raise Refused("corrupt_media", "The image is damaged or not complete.") from error
        raise Refused("unsupported_media", "The file is not an image this service reads.") from error
    except Exception as error:
        raise Refused("corrupt_media", f"The image's header cannot be read ({_reason(error)}).") from error
    _check_size(image.size, limit)
    frames = getattr(image, "n_frames", 1)
    if frames != 1 and image.format not in _PRIMARY_FIRST:
        raise Refused("unsupported_media", f"The file holds {frames} pictures, an animation or pages; one is read.")
    changes: list[str] = []
    try:
        name = "JPEG" if image.format in _PRIMARY_FIRST else str(image.format)
        if _orientation(image) != 1:
            changes.append("Turned as its EXIF orientation says.")
        # For TIFF, loading itself turns the image and forgets the orientation.
        image.load()
        flat = _rgb(_upright(image), changes)
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("too_many_pixels", "The image needs more memory to decode than is allowed.") from error
    except Exception as error:
        raise Refused("corrupt_media", f"The image is damaged or not complete ({_reason(error)}).") from error
    return flat, {"format": name.lower(), "width": flat.width, "height": flat.height, "changes": changes}


def _check_size(size: tuple[int, int], limit: int) -> None:
    width, height = size
    if width * height > limit:
        raise Refused("too_many_pixels", f"The image has {width} x {height} pixels; at most {limit} are read.")
    if min(size) < SHORTEST_SIDE or max(size) > LARGEST_RATIO * min(size):
        raise Refused(
            "image_too_small",
            f"The image has {width} x {height} pixels; each side needs at least {SHORTEST_SIDE}, "
            f"and the longer at most {LARGEST_RATIO} times the shorter.",
        )


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Whatever a hostile file has in the place of EXIF, its pixels may be well.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    orientation = _orientation(image)
    return image if orientation == 1 else image.transpose(turns[orientation])


def _rgb(image: Image, changes: list[str]) -> Image:
    """In RGB with 8 bits. What is transparent lies on white."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        changes.append("16 bits a channel became 8.")
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise Refused(
            "unsupported_media", "The image has 32 bits a channel, without a range that means black to white."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            changes.append("Transparent parts were laid on white.")
        flat = Image.new("RGB", image.size, _WHITE)
        flat.paste(image, mask=image.getchannel("A"))
        return flat
    if image.mode == "CMYK":
        changes.append("CMYK became RGB without its colour profile.")
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
