from __future__ import annotations

import pytest

from common.errors import NightshiftError
from common.params import AudioOutput
from worker.media.formats import BlockFormat, block_format, mp3_bitrates, output_plan
from worker.media.probe import AudioInfo


def info(rate: int = 48_000, channels: int = 2, bits: int | None = 16, floating: bool = False) -> AudioInfo:
    return AudioInfo(rate, channels, 1.0, rate, "codec", "container", bits, floating)


@pytest.mark.parametrize(
    ("format", "bits", "floating", "depth", "out_floating", "changed"),
    [
        ("flac", None, False, 16, False, False),
        ("flac", 8, False, 16, False, True),
        ("flac", 16, False, 16, False, False),
        ("flac", 24, False, 24, False, False),
        ("flac", 32, False, 24, False, True),
        ("flac", 32, True, 24, False, True),
        ("flac", 64, True, 24, False, True),
        ("wav", None, False, 16, False, False),
        ("wav", 16, False, 16, False, False),
        ("wav", 24, False, 24, False, False),
        ("wav", 32, False, 32, True, True),
        ("wav", 32, True, 32, True, False),
        ("wav", 64, True, 32, True, True),
    ],
)
def test_depth_is_kept_or_its_change_is_said(
    format: str, bits: int | None, floating: bool, depth: int, out_floating: bool, changed: bool
) -> None:
    plan = output_plan(info(bits=bits, floating=floating), AudioOutput(format=format))
    assert (plan.bit_depth, plan.floating, plan.sample_rate, plan.channels) == (depth, out_floating, 48_000, 2)
    assert bool(plan.changes) == changed


@pytest.mark.parametrize(
    ("format", "rate", "becomes"),
    [
        ("flac", 192_000, 192_000),
        ("wav", 37_123, 37_123),
        ("opus", 48_000, 48_000),
        ("opus", 44_100, 48_000),
        ("opus", 16_000, 16_000),
        ("opus", 96_000, 48_000),
        ("mp3", 44_100, 44_100),
        ("mp3", 96_000, 48_000),
        ("mp3", 88_200, 44_100),
        ("mp3", 37_123, 44_100),
        ("mp3", 8_000, 8_000),
    ],
)
def test_a_rate_the_format_lacks_becomes_the_next_and_is_said(format: str, rate: int, becomes: int) -> None:
    plan = output_plan(info(rate), AudioOutput(format=format))
    assert plan.sample_rate == becomes
    assert [str(becomes) in change for change in plan.changes] == ([True] if becomes != rate else [])


@pytest.mark.parametrize(("format", "most"), [("mp3", 2), ("opus", 2), ("flac", 8)])
def test_more_channels_than_the_format_holds(format: str, most: int) -> None:
    output_plan(info(channels=most), AudioOutput(format=format))
    with pytest.raises(NightshiftError) as caught:
        output_plan(info(channels=most + 1), AudioOutput(format=format))
    assert caught.value.code == "unsupported_output"
    assert output_plan(info(channels=most + 1), AudioOutput(format=format), channels=1).channels == 1


@pytest.mark.parametrize(
    ("format", "rate", "asked", "given"),
    [
        ("mp3", 48_000, None, 192),
        ("mp3", 48_000, 130, 128),
        ("mp3", 48_000, 512, 320),
        ("mp3", 48_000, 16, 64),
        ("mp3", 16_000, None, 160),
        ("mp3", 8_000, 128, 64),
        ("opus", 48_000, None, 128),
        ("opus", 48_000, 16, 16),
        ("opus", 48_000, 512, 512),
    ],
)
def test_bit_rates_are_those_the_format_has(format: str, rate: int, asked: int | None, given: int) -> None:
    plan = output_plan(info(rate), AudioOutput(format=format, bitrate_kbps=asked))
    assert plan.bitrate_kbps == given
    assert bool(plan.changes) == (asked not in (None, given))


def test_every_mp3_rate_has_bit_rates() -> None:
    assert mp3_bitrates(48_000) == (64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    assert mp3_bitrates(24_000)[0] == 64
    assert mp3_bitrates(8_000) == (24, 32, 40, 48, 56, 64)


@pytest.mark.parametrize(
    ("bits", "floating", "format", "expected"),
    [
        (16, False, "flac", BlockFormat("flac", 24, False)),
        (32, True, "flac", BlockFormat("flac", 24, False)),
        (None, False, "mp3", BlockFormat("flac", 24, False)),
        (24, False, "wav", BlockFormat("flac", 24, False)),
        (32, True, "wav", BlockFormat("wav", None, True)),
        (32, False, "wav", BlockFormat("wav", None, True)),
    ],
)
def test_blocks_lose_nothing_that_the_final_file_keeps(
    bits: int | None, floating: bool, format: str, expected: BlockFormat
) -> None:
    assert block_format(info(bits=bits, floating=floating), AudioOutput(format=format)) == expected
