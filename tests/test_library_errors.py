"""What is said of a library's exception: no text of a row, however the library quotes it."""

from __future__ import annotations

import io
import json
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.json as pj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from engine.data.columnar import reading
from engine.library_errors import code_of, describe_bug, reason_of

SECRET = "zqrow"


def _csv(text: str, **more: object) -> Callable[[], object]:
    return lambda: pcsv.read_csv(io.BytesIO(text.encode()), **more)


QUOTING: dict[str, Callable[[], object]] = {
    "cast": lambda: pa.array([f"{SECRET} it's '{SECRET}' {SECRET}"]).cast(pa.int64()),
    "cast of lines": lambda: pa.array([f"it's {SECRET}\n{SECRET} 'x"]).cast(pa.int64()),
    "cast of a long text": lambda: pa.array([f"'a' {SECRET} 'b' " * 4000]).cast(pa.int64()),
    "cast to bool": lambda: pa.array([SECRET]).cast(pa.bool_()),
    "cast to a time": lambda: pa.array([SECRET]).cast(pa.timestamp("us")),
    "cast to a decimal": lambda: pa.array([SECRET]).cast(pa.decimal128(9, 2)),
    "a number too large": lambda: pa.array([773177317731]).cast(pa.int8()),
    "a float with a fraction": lambda: pa.array([773177.7317]).cast(pa.int64()),
    "a negative number": lambda: pa.array([-773177317731]).cast(pa.uint64()),
    "a decimal": lambda: pa.array(["773177317731.5"]).cast(pa.decimal128(3, 1)),
    "fields of csv": _csv(f"a,b\n1,2\n{SECRET},{SECRET},{SECRET}\n"),
    "a value of csv": _csv(
        f"a\n1\n{SECRET}\n",
        convert_options=pcsv.ConvertOptions(column_types={"a": pa.int64()}),
    ),
    "json": lambda: pj.read_json(io.BytesIO(f'{{"a": 1}}\n{{"a": {SECRET}}}\n'.encode())),
    "json of python": lambda: json.loads(f'{{"a": {SECRET}}}'),
    "int": lambda: int(SECRET),
    "float": lambda: float(f"{SECRET} '"),
    "key": lambda: {}[SECRET],
    "bytes": lambda: SECRET.encode().decode("utf-16"),
    "text": f"{SECRET}\ud800".encode,
}


@pytest.mark.parametrize("fail", QUOTING.values(), ids=QUOTING)
def test_the_text_of_a_row_stays_out_of_reasons(fail: Callable[[], object]) -> None:
    try:
        fail()
    except Exception as error:  # whatever the library raises
        reason = reason_of(error)
    assert reason
    assert SECRET not in reason
    assert "773177" not in reason
    assert "\n" not in reason
    assert len(reason) <= 200


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Expected 2 columns, got 3: uno,dos,tres", "Expected 2 columns, got 3: ..."),
        ("can't start new thread", "can't start new thread"),
        ("Not a file: it's 5 bytes, don't read", "Not a file: it's 5 bytes, don't read"),
        ("Failed to parse string: 'it's me' as a scal", "Failed to parse string: '...' as a scal"),
        ("Integer value 300 not in range: 0 to 127", "Integer value ... not in range: 0 to 127"),
        ("Failed to parse value: it is me", "Failed to parse value: ..."),
        ("Expected to read 825 metadata bytes, but only read 15",
         "Expected to read 825 metadata bytes, but only read 15"),
        ("", "ValueError"),
    ],
)  # fmt: skip
def test_what_says_what_is_wrong_is_left(message: str, reason: str) -> None:
    assert reason_of(ValueError(message)) == reason


@given(st.text(alphabet="ab '\"`\n", max_size=40), st.sampled_from("'\"`"))
def test_a_quotation_of_any_text_is_left_out(text: str, quote: str) -> None:
    row = f"{SECRET}{text}{SECRET}"
    reason = reason_of(ValueError(f"bad: {quote}{row}{quote} as a number"))
    assert SECRET not in reason
    assert reason.startswith("bad: ")


def _fail() -> None:
    try:
        int(SECRET)
    except ValueError as error:
        raise KeyError(SECRET) from error


def test_the_cause_of_an_error_quotes_nothing_either(tmp_path: Path) -> None:
    with pytest.raises(errors.InputError) as error, reading(tmp_path / "a", "csv"):
        pa.array([SECRET]).cast(pa.int64())
    shown = "".join(traceback.format_exception(error.value))
    assert "LibraryError: ArrowInvalid: Failed to parse string: '...'" in shown
    assert SECRET not in shown.replace("[SECRET]", "")


def test_a_bug_is_told_of_without_its_message() -> None:
    with pytest.raises(KeyError) as error:
        _fail()
    message, hint = describe_bug(error.value)
    assert message == "KeyError, a bug of the engine"
    assert "CORPUS_ENGINE_DEBUG=1" in hint
    lines = "\n".join(code_of(error.value))
    assert "KeyError, raised at" in lines
    assert "ValueError, raised at" in lines
    assert "int(SECRET)" in lines
    assert SECRET not in lines + message + hint


def test_a_bug_of_the_engine_is_told_with_its_place() -> None:
    with pytest.raises(KeyError) as error:
        errors.from_dict({SECRET: 1})
    message, _ = describe_bug(error.value)
    assert message.startswith("KeyError at engine/errors.py:")


def test_what_the_system_says_of_a_file_is_told() -> None:
    with pytest.raises(FileNotFoundError) as error:
        Path("/no/such\nfile").read_bytes()
    assert describe_bug(error.value)[0] == (
        "No such file or directory: /no/such\nfile (FileNotFoundError)"
    )
