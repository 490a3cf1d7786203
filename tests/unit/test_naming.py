"""Names of results: whatever fills the fields, a name is one that every store can hold, and no two of a batch meet."""

from __future__ import annotations

import random
import tracemalloc
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import NightshiftError
from common.naming import EXAMPLE, FIELDS, MAX_NAME_BYTES, Item, Template, same, slug, suffixes
from common.storage.keys import MAX_PART_BYTES, check_key

TEMPLATES = [
    Template.parse(text)
    for text in (
        EXAMPLE,
        "{title}-{stem}.{ext}",
        "{stem}/{title}.{ext}",
        "{title}{stem}.{ext}",
        "{show}/{title}-{stem}/{stem}.{ext}",
        "Ünsere {batch}/{index:05}_{name}/{stem}.{ext}",
        "{show}-{year}-{month}-{guid}-{number:04}.{stem}.{ext}",
    )
]
STEMS = ("voice", "b-voice", "residual", "residual-voice", "voice-", "0")

# What titles are made of when they are meant to meet, and when they are meant to do harm.
words = st.one_of(
    st.sampled_from(
        [
            *("", "a", "A", "a-b", "b", "a b", "\u00e1", "a\u0301", "ß", "SS", "ſs", "K", "ı", "a-voice", "voice"),
            *("con", "_con", "nul.flac", "..", "../..", "/", "\\", "\u202eexe", "\u200b", "\ud800", "\0"),
            *("é" * 300, "日本" * 200, "x" * 2000),
        ]
    ),
    st.text(max_size=30),
)
fields = st.dictionaries(st.sampled_from(sorted(FIELDS.keys() - {"stem", "ext"})), words)
batches = st.lists(fields, min_size=1, max_size=12).map(
    lambda found: [Item(f"item {i}", one) for i, one in enumerate(found)]
)
templates = st.sampled_from(TEMPLATES)


def names(template: Template, items: list[Item], taken: tuple[str, ...] = ()) -> dict[tuple[str, str], str]:
    chosen = dict(suffixes(template, items, STEMS, "flac", taken))
    return {
        (item.identity, stem): template.render(item.fields, stem, "flac", chosen.get(item.identity, ""))
        for item in items
        for stem in STEMS
    }


@given(template=templates, one=fields, stem=st.sampled_from(STEMS), suffix=st.sampled_from(("", "1f0c22ab", "f" * 32)))
def test_every_name_is_one_that_all_stores_and_file_systems_hold(
    template: Template, one: dict[str, str], stem: str, suffix: str
) -> None:
    name = template.render(one, stem, "flac", suffix)
    assert check_key(name) == name
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert unicodedata.normalize("NFC", name) == name
    assert name.endswith(".flac") and stem in name
    assert len(name.split("/")) == len(template.text.split("/"))
    for part in name.split("/"):
        assert part not in ("", ".", "..") and part.strip(" .") == part and len(part.encode()) <= MAX_PART_BYTES
        assert not set(part) & set('\\:*?"<>|')
        assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs") for char in part)
        assert part.split(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")


@given(template=templates, items=batches)
def test_no_two_names_of_a_batch_are_the_same_to_any_file_system(template: Template, items: list[Item]) -> None:
    found = list(names(template, items).values())
    assert len({same(name) for name in found}) == len(found)
    assert len({unicodedata.normalize("NFD", name).lower() for name in found}) == len(found)


@given(template=templates, items=batches, seed=st.integers(0, 1000))
def test_the_order_of_the_items_changes_no_name(template: Template, items: list[Item], seed: int) -> None:
    shuffled = random.Random(seed).sample(items, len(items))
    assert names(template, shuffled) == names(template, items)


@given(template=templates, first=batches, second=batches)
def test_names_that_are_there_already_are_not_used_again(
    template: Template, first: list[Item], second: list[Item]
) -> None:
    taken = tuple(names(template, first).values())
    later = [Item(f"later {item.identity}", item.fields) for item in second]
    assert not {same(name) for name in names(template, later, taken).values()} & {same(name) for name in taken}


@given(template=templates, items=batches)
def test_only_names_that_would_meet_get_a_suffix(template: Template, items: list[Item]) -> None:
    plain = [{same(template.render(item.fields, stem, "flac")) for stem in STEMS} for item in items]
    chosen = dict(suffixes(template, items, STEMS, "flac"))
    for i, item in enumerate(items):
        if item.identity not in chosen:
            assert all(plain[i].isdisjoint(other) for j, other in enumerate(plain) if j != i)
    if sum(map(len, plain)) == len(set().union(*plain)):
        assert not chosen


def test_a_title_that_looks_like_another_s_suffixed_name_still_meets_nothing() -> None:
    template = Template.parse("{title}.{stem}.{ext}")
    items = [Item("one", {"title": "a"}), Item("two", {"title": "A"})]
    guess = dict(suffixes(template, items, STEMS, "flac"))["one"]
    items += [Item("three", {"title": f"a-{guess}"}), Item("four", {"title": f"A {guess}"})]
    found = list(names(template, items).values())
    assert len({same(name) for name in found}) == len(found)


def test_a_chain_of_such_titles_ends() -> None:
    """Each title is the name the one before it would move to: moving them one at a time would take a turn for each."""
    template = Template.parse("{title}.{stem}.{ext}")
    items = [Item("0", {"title": "a"}), Item("twin", {"title": "a"})]
    for i in range(1, 30):
        twins = [items[-1], Item("x", items[-1].fields)]
        suffix = dict(suffixes(template, twins, ["voice"], "flac"))[items[-1].identity]
        items.append(Item(str(i), {"title": f"{items[-1].fields['title']}-{suffix}"}))
    found = list(names(template, items).values())
    assert len({same(name) for name in found}) == len(found)


def test_one_identity_twice_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="identity"):
        suffixes(TEMPLATES[0], [Item("one", {}), Item("one", {})], STEMS, "flac")


@settings(max_examples=300)
@given(text=st.text(max_size=80), limit=st.integers(1, 60))
@example("नमस्ते दुनिया", 10)
@example("e" + "\u0301\u0323" * 20, 7)
def test_slugs_are_short_normal_and_stable(text: str, limit: int) -> None:
    found = slug(text, limit)
    assert len(found.encode()) <= limit
    assert unicodedata.normalize("NFC", found) == found and slug(found, limit) == found
    assert not found.startswith("-") and not found.endswith("-") and "--" not in found
    assert not found or unicodedata.category(found[0])[0] != "M"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Daily: “Why?” (Part 2)", "The-Daily-Why-Part-2"),
        ("Don’t panic", "Dont-panic"),
        ("¿Qué pasa, señor?", "Qué-pasa-señor"),
        ("日本語のポッドキャスト #12", "日本語のポッドキャスト-12"),
        ("नमस्ते दुनिया", "नमस्ते-दुनिया"),
        ("snake_case v1.5", "snake_case-v1-5"),
        ("ﬁle ½ ①", "file-1-2-1"),
        ("🎙️", ""),
        ("../../etc/passwd", "etc-passwd"),
    ],
)  # fmt: skip
def test_slugs_keep_what_can_be_read(text: str, expected: str) -> None:
    assert slug(text, 100) == expected


@given(text=st.text(st.characters(max_codepoint=127), max_size=40), limit=st.integers(1, 30))
def test_ascii_alone_gives_what_it_gives_among_other_letters(text: str, limit: int) -> None:
    assert slug(text + " é", 100).removesuffix("é").strip("-") == slug(text, 100)
    assert slug(text, limit) == slug(text, 100)[:limit].strip("-")


def test_no_accent_is_cut_from_its_letter() -> None:
    assert slug("ab" + "q\u0323\u0307", 5) == "ab"
    assert slug("ab" + "q\u0323\u0307", 7) == "abq\u0323\u0307"


def test_what_is_too_long_is_cut_alike_and_the_stem_not_at_all() -> None:
    one = {"show": "s" * 500, "title": "t" * 500, "date": "2026-01-02"}
    show, file = TEMPLATES[0].render(one, "v" * 73, "flac").split("/")
    assert show == "s" * 80 and file == f"2026-01-02-{'t' * 80}.{'v' * 73}.flac"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/B", "A/b"),
        ("ß", "SS"),
        ("ſ", "S"),
        ("ı", "I"),
        ("\u212a", "k"),
        ("ﬁ", "fi"),
        ("\u00e9", "e\u0301"),
        ("Σ", "ς"),
    ],
)
def test_what_some_file_system_takes_for_one_is_the_same(one: str, other: str) -> None:
    assert same(one) == same(other) != same("x")


def test_a_name_that_windows_keeps_for_itself_is_changed() -> None:
    template = Template.parse("{stem}/{title}.{ext}")
    assert template.render({"title": "Con"}, "aux", "flac") == "_aux/_Con.flac"
    assert template.render({"title": "Con-1"}, "console", "flac") == "console/Con-1.flac"


def test_a_name_is_normal_where_a_field_meets_the_text_before_it() -> None:
    """A leading consonant in the template and a vowel in the title are one syllable."""
    name = Template.parse("\u1100{title}.{stem}.{ext}").render({"title": "\u1161"}, "voice", "flac")
    assert name == "\uac00.voice.flac"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
@pytest.mark.parametrize("value", ["x" * 900, "日本" * 300, "é" * 500, "𝔘" * 300])
def test_long_fields_all_at_once_still_fit(template: Template, value: str) -> None:
    name = template.render(dict.fromkeys(FIELDS, value), "v" * 73, "flac", "f" * 32)
    assert check_key(name) == name and len(name.encode()) <= MAX_NAME_BYTES
    assert all(len(part.encode()) <= MAX_PART_BYTES for part in name.split("/"))


def test_an_example() -> None:
    one = {"show": "La Radio de Ana", "title": "Nº 5: el mar", "date": "2026-01-02"}
    template = Template.parse(EXAMPLE)
    assert template.render(one, "voice", "flac") == "La-Radio-de-Ana/2026-01-02-No-5-el-mar.voice.flac"
    assert template.render({}, "voice", "flac") == "no-show/no-date-no-title.voice.flac"
    items = [Item("guid-1", one), Item("guid-2", {**one, "title": "NO 5 – EL MAR"})]
    assert names(template, items)["guid-2", "voice"] == "La-Radio-de-Ana/2026-01-02-NO-5-EL-MAR-b0c6dedc.voice.flac"
    assert Template.parse("{index:05}.{stem}.mp3", "mp3").render({"index": "7"}, "voice", "mp3") == "00007.voice.mp3"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "{stem}"),
        ("{title}.flac", "{stem}"),
        ("{stem}.flac", "{title}"),
        ("{batch}.{stem}.flac", "{title}"),
        ("{title}.{stem}", "end"),
        ("{title}.{stem}.mp3", ".flac"),
        ("{title}-{stem}-flac", ".flac"),
        ("/{title}.{stem}.flac", "slash"),
        ("a//{title}.{stem}.flac", "slash"),
        ("{title}/../{stem}.flac", "dot"),
        (".{title}.{stem}.flac", "dot"),
        ("{title} /{stem}.flac", "space"),
        ("C:{title}.{stem}.flac", "':'"),
        ("{title}\\{stem}.flac", "'\\\\'"),
        ("{title}\n{stem}.flac", "'\\n'"),
        ("{title}\u202e{stem}.flac", "seen"),
        ("{title.__class__}.{stem}.flac", "no field"),
        ("{title[0]}.{stem}.flac", "no field"),
        ("{0}.{stem}.flac", "no field"),
        ("{}.{stem}.flac", "no field"),
        ("{title!r}.{stem}.flac", "conversion"),
        ("{title:>1000000000}.{stem}.flac", "format"),
        ("{index:{title}}.{stem}.flac", "format"),
        ("{index:99}.{stem}.flac", "format"),
        ("{title", "expected"),
        ("{title}" * 20 + ".{stem}.flac", "room"),
        ("x" * 301, "300"),
    ],
)
def test_templates_that_cannot_be_used(text: str, part: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        Template.parse(text, "flac", "/naming")
    assert (caught.value.code, caught.value.pointer) == ("invalid_template", "/naming")
    assert part in caught.value.detail and EXAMPLE in caught.value.hint


def test_very_many_names_take_little_memory() -> None:
    class Items(list[Item]):
        """4,000 items, each made when it is looked at; every thousandth is called like another."""

        def __iter__(self):  # type: ignore[no-untyped-def]
            return (Item(str(i), {"index": str(i // 1000 * 1000 if i % 1000 == 1 else i)}) for i in range(4_000))

        def __len__(self) -> int:
            return 4_000

    template = Template.parse("{index}.{stem}.{ext}")
    tracemalloc.start()
    try:
        found = dict(suffixes(template, Items(), ["voice"], "flac"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 8
    assert peak < 4_000 * 50
