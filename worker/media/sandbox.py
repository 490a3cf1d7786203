"""The child process that decodes: `python -m worker.media.sandbox probe|decode PATH LIMITS`.

Media comes from strangers and FFmpeg is large: what goes wrong in it must cost one job and no more. The child has no
environment, bounds on memory and processor time, may write no file, opens no protocol (FFmpeg sees one file object and
nothing else), and uses only the demuxers and audio decoders named here. It writes the messages of `wire` to stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.media import wire
from worker.media.confine import Refused, confine, forbid_threads, send, take_stdout
from worker.media.headers import flac_bits, is_known_container, mp3_has_frame_count, wav_header

if TYPE_CHECKING:
    from worker.media.track import Track

MIN_RATE, MAX_RATE = 8_000, 192_000

# Containers, by FFmpeg's names. Absent on purpose: hls, dash, concat, sdp, image and text formats, anything that
# names other files.
DEMUXERS = (
    "aac", "ac3", "aiff", "amr", "asf", "au", "avi", "caf", "eac3", "flac", "flv", "matroska", "mov", "mp3", "mp4",
    "mpeg", "mpegts", "ogg", "w64", "wav", "wv",
)  # fmt: skip
# No video decoder: a video track is never opened, not even to look for its size.
DECODERS = (
    "aac", "ac3", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "alac", "amrnb", "amrwb", "dca", "eac3", "flac",
    "gsm_ms", "mp1float", "mp2", "mp2float", "mp3", "mp3float", "opus", "pcm_alaw", "pcm_f32be", "pcm_f32le",
    "pcm_f64be", "pcm_f64le", "pcm_mulaw", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be",
    "pcm_s32le", "pcm_s8", "pcm_u8", "speex", "truehd", "vorbis", "wavpack", "wmalossless", "wmapro", "wmav1", "wmav2",
)  # fmt: skip

_INTEGER_BITS = {"pcm_u8": 8, "pcm_s8": 8, "pcm_s16": 16, "pcm_s24": 24, "pcm_s32": 32}
_LOSSLESS = ("flac", "alac", "wavpack", "wmalossless", "truehd")
_PRECISE = ("wav", "w64", "flac", "aiff", "au", "caf", "mov", "matroska")


class _Source:
    """A file as FFmpeg sees it: bytes without a name, so that neither name nor extension decides what it is."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.read = self._file.read
        self.seek = self._file.seek
        self.tell = self._file.tell


def main(arguments: list[str]) -> int:
    mode, path, limits = arguments[0], Path(arguments[1]), json.loads(arguments[2])
    out = take_stdout()
    confine(int(limits["cpu_seconds"]))
    # Within the bounds, and before threads are forbidden: some libraries start theirs when imported.
    import worker.media.track  # noqa: F401

    forbid_threads()
    try:
        for kind, body in _messages(path, limits, decode=mode == "decode"):
            send(out, kind, body)
    except Refused as refusal:
        send(out, wire.ERROR, json.dumps({"code": refusal.code, "detail": refusal.detail}).encode())
    except BrokenPipeError:
        return 1
    return 0


def _messages(path: Path, limits: dict[str, Any], *, decode: bool) -> Iterator[tuple[bytes, bytes]]:
    """INFO after the first decoded frame; then, to decode, PCM and END. Raises Refused."""
    from worker.media.track import Track

    with _open(path) as container:
        stream = container.streams.best("audio")
        if stream is None:
            if container.streams.audio:
                raise Refused("corrupt_media", "The file's audio track declares no usable format.")
            raise Refused("no_audio", f"The file ({container.format.name}) has no audio track.")
        _check_declared(stream, limits)
        track = Track(container, stream)
        try:
            first = next(track.frames(), None)
            if first is None:
                raise _nothing_decoded(track)
            _check_format(first.sample_rate, len(first.layout.channels), limits)
            yield wire.INFO, json.dumps(_describe(path, container, stream, first)).encode()
            if decode:
                for block in track.pcm(first):
                    yield wire.PCM, block.tobytes()
                end = {"samples": track.samples, "errors": track.errors, "last_error": track.last_error}
                yield wire.END, json.dumps(end).encode()
        finally:
            track.close()


def _open(path: Path) -> Any:
    import av

    try:
        return av.open(
            _Source(path),
            options={
                "format_whitelist": ",".join(DEMUXERS),
                "codec_whitelist": ",".join(DECODERS),
                "protocol_whitelist": "none",
            },
            metadata_errors="replace",
        )
    except av.error.FFmpegError as error:
        with path.open("rb") as file:
            head = file.read(16)
        if head[:7] == b"#EXTM3U" or head[:8] == b"ffconcat":
            raise Refused("unsupported_media", "The file is a playlist, which names media but holds none.") from error
        if is_known_container(head):
            raise Refused("corrupt_media", f"The file is damaged or not complete ({error.strerror}).") from error
        raise Refused("unsupported_media", f"The file is not audio this service reads ({error.strerror}).") from error


def _check_declared(stream: Any, limits: dict[str, Any]) -> None:
    context = stream.codec_context
    if context is None or context.name not in DECODERS:
        name = f" ({context.name})" if context else ""
        raise Refused("unsupported_media", f"The audio track's codec{name} is not one this service reads.")
    if context.sample_rate and context.channels:
        _check_format(context.sample_rate, context.channels, limits)


def _check_format(rate: int, channels: int, limits: dict[str, Any]) -> None:
    if channels > limits["channels"]:
        raise Refused("too_many_channels", f"The audio has {channels} channels; at most {limits['channels']} are read.")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Refused("unsupported_rate", f"The sample rate is {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are read.")


def _nothing_decoded(track: Track) -> Refused:
    context = track.stream.codec_context
    if track.errors and context.channels == 0 and context.sample_rate == 0:
        return Refused("unsupported_media", f"No audio could be decoded from the file ({track.last_error}).")
    if track.errors:
        return Refused("corrupt_media", f"No audio could be decoded from the file ({track.last_error}).")
    return Refused("no_samples", "The audio track holds no samples.")


def _describe(path: Path, container: Any, stream: Any, frame: Any) -> dict[str, Any]:
    """The members of `probe.AudioInfo`."""
    codec = stream.codec_context.name
    container_name = container.format.name.split(",")[0]
    depth, floating = _depth(path, codec, frame.format.name)
    duration, samples, estimated = _duration(path, container, stream, container_name, frame.sample_rate)
    tags = {**container.metadata, **stream.metadata}
    return {
        "sample_rate": frame.sample_rate,
        "channels": len(frame.layout.channels),
        "duration": duration,
        "samples": samples,
        "codec": codec,
        "container": container_name,
        "bit_depth": depth,
        "is_float": floating,
        "tags": {str(k).lower()[:64]: str(v)[:1000] for k, v in list(tags.items())[:64]},
        "estimated": estimated,
    }


def _depth(path: Path, codec: str, sample_format: str) -> tuple[int | None, bool]:
    if codec.startswith("pcm_f"):
        return int(codec[5:7]), True
    for prefix, bits in _INTEGER_BITS.items():
        if codec.startswith(prefix):
            return bits, False
    if codec in _LOSSLESS:
        if sample_format.startswith("flt"):
            return 32, True
        return (flac_bits(path) if codec == "flac" else None) or (16 if "16" in sample_format else 24), False
    return None, False


def _duration(
    path: Path, container: Any, stream: Any, container_name: str, rate: int
) -> tuple[float | None, int | None, bool]:
    """Seconds, samples, and whether they are an estimate (which says nothing about a missing end)."""
    if container_name == "wav" and (header := wav_header(path)) is not None:
        if header.samples is None:
            return None, None, True
        return header.samples / rate, header.samples, False
    if stream.duration is not None:
        seconds = float(stream.duration * stream.time_base)
        precise = container_name in _PRECISE or (container_name == "mp3" and mp3_has_frame_count(path))
        return seconds, round(seconds * rate), not precise
    if container.duration is not None and container.duration > 0:
        seconds = container.duration / 1_000_000
        # With several tracks it is the longest that the container tells, which need not be the audio.
        precise = container_name in _PRECISE and len(container.streams) == 1
        return seconds, round(seconds * rate), not precise
    return None, None, True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
