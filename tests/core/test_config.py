"""Settings: frozen, refused by name, and none forgotten when two runs are compared."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.config import COMPRESSIONS, FORMATS, ON_ERROR, RunConfig, RunSettings
from engine.core.settings import declared, format_size, parse_size
from engine.errors import SettingsError

FIELDS = {f.name for f in dataclasses.fields(RunConfig)}
NEVER_SHAPING = {
    "workers": "a row's answer does not depend on them",
    "threads": "likewise",
    "tokenizers": "likewise",
    "on_error": "a finished part has the same good rows either way",
    "max_rejects": "likewise",
    "overwrite": "what becomes of an earlier run, not of this one",
    "input_identity": "what is compared of an input, not what is read",
    "check_parts": "what is asked of finished parts",
    "lock": "who else may write there",
    "share": "which parts are computed, not what is in them",
    "stall_timeout": "how long a run that stands still goes on",
    "scratch": "where a run to a store works, not what",
    "gpu_memory": "where there is little, a batch is halved, and a row's answer is its own",
    "device": "the device that it stands for is in the fingerprint (identity.of_run)",
    "options": "settled with the checkpoint's defaults in the fingerprint (identity.of_run)",
}
OTHER: dict[str, Any] = {
    "text": ("body",),
    "keep": ("id",),
    "result_prefix": "my_",
    "schema": {"id": "int64"},
    "input_format": "jsonl",
    "limit": 7,
    "format": "parquet",
    "compression": "none",
    "split_size": 5,
    "max_row_bytes": 5,
    "reject_text": True,
    "window": 5,
    "batch_tokens": 5,
    "max_length": 5,
    "truncation_side": "left",
    "dedupe": False,
}


def test_every_setting_is_decided_to_shape_the_output_or_not() -> None:
    shaping = set(RunConfig().shaping())
    assert shaping | NEVER_SHAPING.keys() == FIELDS, "decide where a new setting belongs"
    assert not shaping & NEVER_SHAPING.keys()


def test_another_value_of_a_shaping_setting_shows() -> None:
    assert OTHER.keys() == RunConfig().shaping().keys()
    for name, value in OTHER.items():
        changed = RunConfig(**{name: value}).shaping()
        assert {n for n, v in changed.items() if v != RunConfig().shaping()[n]} == {name}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_an_unknown_setting_is_refused_by_name_with_the_nearest(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RunConfig.of({name + "s": 1})
    assert repr(name + "s") in caught.value.message
    assert f"did you mean {name!r}?" in caught.value.hint
    assert all(field in caught.value.hint for field in FIELDS)
    assert caught.value.exit_code == 2


def test_a_setting_like_none_is_refused_with_all_names() -> None:
    with pytest.raises(SettingsError) as caught:
        RunConfig.of({"zzz": 1})
    assert "did you mean" not in caught.value.hint
    assert "known: " in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", ("",)),
        ("text", ("a", "a")),
        ("text", ("a", 5)),
        ("text", 5),
        ("text", None),
        ("keep", 5),
        ("keep", ("a", None)),
        ("limit", -1),
        ("limit", 1.5),
        ("limit", True),
        ("limit", "five"),
        ("limit", "1.5"),
        ("limit", "-1"),
        ("limit", ""),
        ("format", "orc"),
        ("format", None),
        ("compression", "gzip"),
        ("split_size", 0),
        ("split_size", "256 parsecs"),
        ("split_size", "0"),
        ("window", "true"),
        ("window", 0),
        ("batch_tokens", -1),
        ("max_length", -1),
        ("workers", -1),
        ("threads", -1),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("device", "cuda:x"),
        ("device", ""),
        ("device", None),
        ("on_error", "skip"),
        ("max_rejects", -2),
        ("overwrite", "perhaps"),
        ("overwrite", ""),
        ("options", 5),
        ("options", [("top_k", 3)]),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_settings_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        RunConfig.of({name: value})
    assert caught.value.message.startswith(name)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("limit", "300", 300),
        ("limit", " 7 ", 7),
        ("max_rejects", "-1", -1),
        ("split_size", "256MB", 256 << 20),
        ("split_size", "64KiB", 64 << 10),
        ("split_size", "5", 5),
        ("max_row_bytes", "0", 0),
        ("gpu_memory", "1.5G", 3 << 29),
        ("overwrite", "true", True),
        ("overwrite", "False", False),
        ("dedupe", "off", False),
        ("lock", "1", True),
        ("check_parts", "no", False),
    ],
)
def test_a_text_is_taken_for_what_it_says_as_on_the_command_line(
    name: str, text: str, value: object
) -> None:
    config = RunConfig.of({name: text})
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)
    assert config == RunConfig.of({name: value})
    assert config.shaping() == RunConfig.of({name: value}).shaping()


@pytest.mark.parametrize("name", sorted(FIELDS - {"options", "schema"}))
def test_every_default_may_be_given_as_text(name: str) -> None:
    default = getattr(RunConfig(), name)
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    assert RunConfig.of({name: text}) == RunConfig()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("format", FORMATS),
        ("compression", COMPRESSIONS),
        ("on_error", ON_ERROR),
        ("device", ("auto", "cpu", "cuda", "cuda:0", "cuda:12")),
        ("split_size", (1,)),
        ("window", (1,)),
        ("max_rejects", (-1, 0)),
        ("limit", (0, 1)),
        ("workers", (0, 1)),
    ],
)
def test_the_ends_of_a_range_are_taken(name: str, values: Any) -> None:
    for value in values:
        assert getattr(RunConfig.of({name: value}), name) == value


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ("text", ("text",)),
        ("a, b", ("a", "b")),
        ("a,,b,", ("a", "b")),
        (["a", "b"], ("a", "b")),
        (("a",), ("a",)),
    ],
)
def test_columns_are_a_list_or_names_with_commas(given: object, columns: tuple[str, ...]) -> None:
    assert RunConfig.of({"text": given}).text == columns
    assert RunConfig.of({"keep": given}).keep == columns


def test_every_setting_is_a_typed_keyword_argument_and_documented() -> None:
    types = {"tuple[str, ...]": "str | Sequence[str]"}
    fields = {name: types.get(kind, kind) for name, (kind, _) in declared(RunConfig).items()}
    assert fields == {n: t.__forward_arg__ for n, t in RunSettings.__annotations__.items()}
    for name, (_, setting) in declared(RunConfig).items():
        assert f"{name}: {setting.help}" in str(RunConfig.__doc__)
        assert all(choice in setting.help for choice in setting.choices)


def test_settings_are_frozen_and_named() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().limit = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        RunConfig(("text",))  # type: ignore[misc]
    with pytest.raises(SettingsError):
        RunConfig(text="ab")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512", 512),
        ("512b", 512),
        ("64KB", 64 << 10),
        ("64KiB", 64 << 10),
        ("64k", 64 << 10),
        (" 1.5 MB ", 3 << 19),
        ("256MB", 256 << 20),
        ("1G", 1 << 30),
        ("2tb", 2 << 40),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.1", "-1", "MB", "12 parsecs", "1,5GB", "1e6", "1 2", "nan", "9" * 400 + "G"],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingsError, match="256MB"):
        parse_size(text)


@given(st.integers(0, 10**12))
def test_a_size_is_shown_as_it_is_read(size: int) -> None:
    shown = format_size(size)
    assert (parse_size(shown) if size else int(shown)) == size
    assert format_size(256 << 20) == "256MB"


@given(st.integers(1, 10**12))
def test_a_plain_number_is_bytes(size: int) -> None:
    assert parse_size(str(size)) == size
