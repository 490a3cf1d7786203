"""The lossless files of finished blocks: written once, read back by whoever assembles the stems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile

from common.errors import NightshiftError
from worker.media.encode import AudioWriter
from worker.media.formats import EXTENSIONS, BlockFormat
from worker.separation.plan import Window

# Samples go through the writer in pieces: its copies in wider types would otherwise be several blocks large.
_PIECE_SECONDS = 5


class BlockFiles:
    """Block files of one job in one folder.

    Stems are always assembled from these files, also from those just written, so that it makes no difference to the
    result which blocks an earlier attempt had finished.
    """

    def __init__(self, folder: Path, form: BlockFormat, rate: int, channels: int) -> None:
        self._folder = folder
        self._form = form
        self._rate = rate
        self._channels = channels
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, index: int, name: str, samples: np.ndarray) -> Path:
        """Writes float32 [channels, n]. A file that has its name is whole."""
        path = self._folder / f"{index:06d}-{name}{EXTENSIONS[self._form.format]}"
        form = self._form
        with AudioWriter(
            path, self._rate, self._channels, form.format, bit_depth=form.bit_depth, floating=form.floating
        ) as writer:
            step = _PIECE_SECONDS * self._rate
            for start in range(0, samples.shape[1], step):
                writer.write(samples[:, start : start + step])
        return path

    def read(self, path: Path, window: Window) -> Iterator[np.ndarray]:
        """float32 [channels, n] pieces, together what the window gives. Raises `storage_failed` for another size."""
        left = window.give_stop - window.give_start
        try:
            with soundfile.SoundFile(path) as file:
                held, expected = (file.channels, file.frames), (self._channels, left)
                if held != expected:
                    raise _broken(window, f"holds {held} channels and samples instead of {expected}")
                while left:
                    piece = file.read(min(left, _PIECE_SECONDS * self._rate), dtype="float32", always_2d=True)
                    if not len(piece):
                        raise _broken(window, f"ends {left} samples early")
                    left -= len(piece)
                    yield np.ascontiguousarray(piece.T)
        except soundfile.LibsndfileError as error:
            raise _broken(window, f"cannot be read ({error})") from error

    @staticmethod
    def of(files: Mapping[str, Path], name: str, window: Window) -> Path:
        """The file of a stem among those of a finished block. Raises `storage_failed` where it is not there."""
        if name not in files:
            raise _broken(window, f"lacks the stem {name}")
        return files[name]


def _broken(window: Window, what: str) -> NightshiftError:
    return NightshiftError("storage_failed", f"The stored block {window.index} {what}.")
