"""Images in: upright and in RGB whatever they were, and a code for each that cannot be read. Real files of Pillow's."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from common.errors import NightshiftError
from worker.engine import Limits
from worker.media import child, image_sandbox
from worker.media.images import read_image

LIMITS = Limits(pixels=200_000)
HEIGHT, WIDTH = 48, 80


def scene() -> np.ndarray:
    """uint8 [48, 80, 3]: another colour in each corner, smooth between them."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([3 * x, 5 * y, 255 - 3 * x], axis=-1).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def refusal(path: Path, limits: Limits = LIMITS) -> NightshiftError:
    with pytest.raises(NightshiftError) as caught:
        read_image(path, limits)
    return caught.value


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("tiff", {}, 0),
        ("tiff", {"compression": "tiff_lzw"}, 0),
        ("tiff", {"compression": "tiff_adobe_deflate"}, 0),
        ("jpg", {"quality": 95}, 12),
        ("jpg", {"quality": 95, "progressive": True}, 12),
        ("webp", {"quality": 95}, 24),
    ],
)
def test_the_formats(tmp_path: Path, suffix: str, options: dict[str, object], tolerance: int) -> None:
    path = saved(tmp_path / f"scene.{suffix}", Image.fromarray(scene()), **options)
    picture = read_image(path.rename(tmp_path / "without-a-suffix"), LIMITS)
    assert picture.pixels.shape == (HEIGHT, WIDTH, 3)
    assert picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - scene()).max() <= tolerance
    assert picture.format == {"jpg": "jpeg"}.get(suffix, suffix)
    assert picture.changes == ()
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg"])
def test_what_a_camera_turned_is_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The stored pixels are what the sensor saw; a viewer sees the scene."""
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](scene())))
    picture = read_image(saved(tmp_path / f"camera.{suffix}", stored, exif=exif), LIMITS)
    assert picture.pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(picture.pixels.astype(int) - scene()).max() <= (0 if suffix != "jpg" else 60)
    assert np.abs(picture.pixels.astype(int) - scene()).mean() <= 4
    assert bool(picture.changes) == (orientation != 1)


def test_exif_that_is_none_does_not_matter(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(scene()), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(path, LIMITS).pixels.shape == (HEIGHT, WIDTH, 3)


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, :40] = 0
    alpha[:, 40:60] = 128
    rgba = np.concatenate([scene(), alpha], axis=-1)
    expected = np.round(scene() * (alpha / 255.0) + 255 * (1 - alpha / 255.0))
    for name in ("a.png", "a.webp", "a.tiff"):
        picture = read_image(saved(tmp_path / name, Image.fromarray(rgba, "RGBA"), lossless=True), LIMITS)
        assert np.abs(picture.pixels - expected).max() <= 1, name
        assert "white" in picture.changes[0]
    opaque = Image.fromarray(scene()).convert("RGBA")
    assert read_image(saved(tmp_path / "b.png", opaque), LIMITS).changes == ()


def test_palettes_grey_and_black_and_white(tmp_path: Path) -> None:
    flat = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    flat[:, :30], flat[:, 30:] = (200, 10, 10), (10, 10, 200)
    palette = Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert np.abs(read_image(saved(tmp_path / "p.png", palette), LIMITS).pixels.astype(int) - flat).max() <= 2
    index = palette.getpixel((0, 0))
    picture = read_image(saved(tmp_path / "t.png", palette, transparency=index), LIMITS)
    assert (picture.pixels[:, :30] == 255).all()
    grey = Image.fromarray(scene()[..., 0])
    found = read_image(saved(tmp_path / "g.png", grey), LIMITS).pixels
    assert (found == scene()[..., :1]).all()
    line = read_image(saved(tmp_path / "1.png", grey.convert("1", dither=Image.Dither.NONE)), LIMITS).pixels
    assert set(np.unique(line)) == {0, 255}


def test_16_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    deep = (scene()[..., 0].astype(np.uint16) << 8) + 77
    for name in ("g.png", "g.tiff"):
        picture = read_image(saved(tmp_path / name, Image.fromarray(deep)), LIMITS)
        assert (picture.pixels == scene()[..., :1]).all(), name
        assert "16 bits" in picture.changes[0]
    picture = read_image(png16(tmp_path / "rgb.png"), LIMITS)
    assert np.abs(picture.pixels.astype(int) - scene()).max() <= 1


def png16(path: Path) -> Path:
    """A PNG with 16 bits for each of red, green and blue, which Pillow cannot write."""
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in scene())
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_cmyk_is_read_and_said(tmp_path: Path) -> None:
    red = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))
    for name in ("a.jpg", "a.tiff"):
        picture = read_image(saved(tmp_path / name, red), LIMITS)
        assert (picture.pixels.reshape(-1, 3).mean(axis=0) > (240, -1, -1)).all(), name
        assert (picture.pixels.reshape(-1, 3).mean(axis=0)[1:] < 15).all(), name
        assert any("CMYK" in change for change in picture.changes)


def test_a_phones_second_exposure_is_left_alone(tmp_path: Path) -> None:
    first, second = Image.fromarray(scene()), Image.new("RGB", (WIDTH, HEIGHT))
    path = saved(tmp_path / "phone.jpg", first, format="MPO", save_all=True, append_images=[second], quality=95)
    picture = read_image(path, LIMITS)
    assert picture.format == "jpeg"
    assert np.abs(picture.pixels.astype(int) - scene()).mean() < 5


def animation(path: Path, form: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), (i * 60, 0, 0)) for i in range(3)]
    frames[0].save(path, format=form, save_all=True, append_images=frames[1:])
    assert len(list(ImageSequence.Iterator(Image.open(path)))) == 3


def noisy() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))


def cut(form: str, share: float = 0.6) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        buffer = io.BytesIO()
        noisy().save(buffer, form)
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])

    return make


def of_size(width: int, height: int) -> Callable[[Path], None]:
    """A PNG whose header declares a size and which holds no pixels: what decodes it fails, what reads on may not."""

    def make(path: Path) -> None:
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)

    return make


def bomb(path: Path) -> None:
    """100 kB that would be 300 MB of pixels."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(30_010_000), 9)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("empty", lambda path: path.write_bytes(b""), "empty_input"),
    ("text", lambda path: path.write_text("no image at all\n" * 50), "unsupported_media"),
    ("svg", lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "unsupported_media"),
    ("gif", lambda path: Image.fromarray(scene()).save(path, "GIF"), "unsupported_media"),
    ("bmp", lambda path: Image.fromarray(scene()).save(path, "BMP"), "unsupported_media"),
    ("eps", lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "unsupported_media"),
    ("moving webp", lambda path: animation(path, "WEBP"), "unsupported_media"),
    ("moving png", lambda path: animation(path, "PNG"), "unsupported_media"),
    ("pages", lambda path: animation(path, "TIFF"), "unsupported_media"),
    ("float tiff", lambda path: Image.fromarray(np.ones((48, 80), np.float32)).save(path, "TIFF"), "unsupported_media"),
    ("32 bits", lambda path: Image.fromarray(np.ones((48, 80), np.int32)).save(path, "TIFF"), "unsupported_media"),
    ("cut jpeg", cut("JPEG"), "corrupt_media"),
    ("cut png", cut("PNG"), "corrupt_media"),
    ("cut webp", cut("WEBP"), "corrupt_media"),
    ("cut tiff", cut("TIFF"), "corrupt_media"),
    ("head of a jpeg", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0"), "corrupt_media"),
    ("head of a png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "corrupt_media"),
    ("png without pixels", of_size(80, 48), "corrupt_media"),
    ("too many pixels", of_size(500, 401), "too_many_pixels"),
    ("a bomb", bomb, "too_many_pixels"),
    ("huge", of_size(2**31 - 1, 2**31 - 1), "too_many_pixels"),
    ("one pixel", of_size(1, 1), "image_too_small"),
    ("fifteen", of_size(15, 100), "image_too_small"),
    ("a line", of_size(1100, 16), "image_too_small"),
]


@pytest.mark.parametrize(("make", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_cannot_be_read_is_refused(tmp_path: Path, make: Callable[[Path], object], code: str) -> None:
    make(tmp_path / "image")
    error = refusal(tmp_path / "image")
    assert (error.code, error.retryable) == (code, False), error.detail
    assert error.hint
    assert str(tmp_path) not in error.detail


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").code == "input_missing"


def test_a_picture_at_the_limit_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(scene()))
    assert read_image(path, Limits(pixels=HEIGHT * WIDTH)).width == WIDTH
    assert refusal(path, Limits(pixels=HEIGHT * WIDTH - 1)).code == "too_many_pixels"


def test_an_image_gets_no_hours_of_processor_time() -> None:
    assert child.cpu_seconds("image", Limits(pixels=100_000_000)) == 80
    assert child.cpu_seconds("audio", Limits(duration_seconds=3600.0)) == 240


def test_hints_speak_of_images() -> None:
    assert child.IMAGE_HINTS.keys() <= {"unsupported_media", "corrupt_media", "too_many_pixels", "image_too_small",
                                        "decoder_crashed"}  # fmt: skip
    assert "audio" not in " ".join(child.IMAGE_HINTS.values())


@pytest.mark.parametrize("form", image_sandbox.FORMATS)
def test_no_damage_brings_the_reader_down(tmp_path: Path, form: str) -> None:
    """Bytes changed at random: a picture or a code, and never another exception."""
    buffer = io.BytesIO()
    noisy().save(buffer, form)
    random = np.random.default_rng(1)
    for _ in range(3):
        content = bytearray(buffer.getvalue())
        for at in random.integers(0, min(len(content), 400), 12):
            content[at] = random.integers(0, 256)
        (tmp_path / "image").write_bytes(content)
        try:
            assert read_image(tmp_path / "image", LIMITS).pixels.dtype == np.uint8
        except NightshiftError as error:
            assert error.code in {*child.IMAGE_HINTS}
