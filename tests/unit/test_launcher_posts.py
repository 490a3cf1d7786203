"""Which workers a machine gets, and what each is told: the decisions of the launcher by themselves."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.settings import Settings
from tests.nvml import FakeNvml
from worker.__main__ import main, parse
from worker.cards import find
from worker.launcher import Post, command, environment, posts, share_of_cores


@pytest.mark.parametrize("count", [2, 8])
def test_every_card_gets_a_worker_that_sees_it_alone(count: int) -> None:
    cards = find(FakeNvml(count)).cards
    manned = posts(cards, 0, "host")
    assert [post.name for post in manned] == [f"gpu{n}@host" for n in range(count)]
    environments = [environment(post) for post in manned]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == [card.uuid for card in cards]
    assert {env["NIGHTSHIFT_WORKER_DEVICE"] for env in environments} == {"cuda:0"}
    assert [env["NIGHTSHIFT_WORKER_NAME"] for env in environments] == [post.name for post in manned]


def test_a_card_keeps_its_name_when_others_are_hidden() -> None:
    assert [post.name for post in posts(find(FakeNvml(8), "6,3").cards, 0, "host")] == ["gpu6@host", "gpu3@host"]


def test_a_worker_on_the_cpu_sees_no_card() -> None:
    (post,) = posts((), 1, "host")
    assert environment(post) == {
        "CUDA_VISIBLE_DEVICES": "",
        "NIGHTSHIFT_WORKER_NAME": "cpu0@host",
        "NIGHTSHIFT_WORKER_LANES": "cpu",
        "NIGHTSHIFT_WORKER_DEVICE": "cpu",
    }


def test_workers_on_the_cpu_share_its_cores_and_those_on_cards_know_their_memory() -> None:
    cards = find(FakeNvml(2)).cards
    manned = posts(cards, 3, "host")
    assert [share_of_cores(manned, cores) for cores in (1, 3, 8, 64)] == [1, 1, 2, 21]
    told = [environment(post, 2) for post in manned]
    assert [env.get("OMP_NUM_THREADS") for env in told] == [None, None, "2", "2", "2"]
    memory = [str(card.memory) for card in cards]
    assert [env.get("NIGHTSHIFT_WORKER_MEMORY_BYTES") for env in told] == [*memory, None, None, None]


def test_lanes_suit_the_worker_and_its_neighbours() -> None:
    cards = find(FakeNvml(1)).cards
    assert posts(cards, 0, "h")[0].lanes == ("gpu", "cpu")
    assert [post.lanes for post in posts(cards, 2, "h")] == [("gpu",), ("cpu",), ("cpu",)]
    assert posts((), 1, "h", models_on_cpu=True)[0].lanes == ("cpu", "gpu")
    assert {post.lanes for post in posts(cards, 1, "h", lanes=("cpu",))} == {("cpu",)}


@given(st.integers(0, 8), st.integers(0, 8), st.booleans())
def test_names_are_unique_and_every_lane_that_can_be_served_is(cards: int, cpus: int, models_on_cpu: bool) -> None:
    manned = posts(find(FakeNvml(cards)).cards, cpus, "h", models_on_cpu=models_on_cpu)
    assert len({post.name for post in manned}) == len(manned) == cards + cpus
    served = {lane for post in manned for lane in post.lanes}
    assert ("cpu" in served) == bool(manned)
    assert ("gpu" in served) == bool(cards or (cpus and models_on_cpu))


def test_with_a_broker_a_post_is_a_celery_worker_of_its_queues_in_order() -> None:
    settings = Settings(broker_url="redis://:hidden@127.0.0.1/0", broker_prefix="night")
    argv = command(settings, Post("gpu1@host", ("gpu", "cpu")))
    assert argv[:3] == [sys.executable, "-m", "celery"]
    assert argv[argv.index("--hostname") + 1] == "gpu1@host"
    assert argv[argv.index("--queues") + 1].split(",") == [
        "night.gpu.interactive",
        "night.cpu.interactive",
        "night.gpu.batch",
        "night.cpu.batch",
    ]
    assert "hidden" not in " ".join(argv)


def test_without_a_broker_a_post_is_a_polling_worker() -> None:
    assert command(Settings(), Post("cpu0@host", ("cpu",))) == [sys.executable, "-m", "worker.poll"]


@pytest.mark.parametrize(
    ("arguments", "cpu", "cards", "lanes"),
    [
        ([], 0, False, ()),
        (["--cpu"], 1, False, ()),
        (["--cpu", "3"], 3, False, ()),
        (["--cpu", "2", "--cards"], 2, True, ()),
        (["--cpu", "--lanes", "cpu, gpu"], 1, False, ("cpu", "gpu")),
    ],
)
def test_the_command_line(arguments: list[str], cpu: int, cards: bool, lanes: tuple[str, ...]) -> None:
    options = parse(arguments)
    assert (options.cpu, options.cards, options.lanes) == (cpu, cards, lanes)


@pytest.mark.parametrize("arguments", [["--lanes", "tpu"], ["--cpu", "-1"], ["--cpu", "many"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(arguments)
    assert refused.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--cpu", "2", "--cards"]])
def test_where_cards_are_wanted_and_none_is_there_it_says_what_to_do(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, FakeNvml(2, "nvmlInit")) == 78
    said = capsys.readouterr().err
    assert "Driver Not Loaded" in said
    assert "python -m worker --cpu" in said
