"""Bundles from strangers: whatever a description or a folder holds is right or refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.bundle import format as bundle_format
from engine.bundle import typed_json
from engine.bundle.format import BundleFolder
from engine.errors import BundleError
from engine.pipeline import Bundle

DEMO = Path(bundle_format.__file__).parents[1] / "demo" / "bundle"
BAD: tuple[Any, ...] = (
    None,
    True,
    -5,
    10**9,
    10**30,
    1e308,
    0.5,
    "",
    "x\x1b[31m",
    [],
    [None],
    [[[[[]]]]],
    {},
    {"a": {"b": 1}},
)
REMOVED = object()


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a description, but for what is free text there."""
    if path:
        yield path
    if isinstance(content, dict):
        for name, value in content.items():
            yield from places(value, (*path, name))
    elif isinstance(content, list) and content:
        yield from places(content[0], (*path, 0))


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    place = copy
    for step in path[:-1]:
        place = place[step]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "bundle"))


def refusal(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as refused:
        bundle_format.load(folder).check()
    assert refused.value.hint
    assert refused.value.message.isprintable()
    return refused.value


def refusal_of(folder: Path) -> str:
    """What a refusal says, "" for a description that is read and can be written again."""
    try:
        description = bundle_format.load(folder).description
    except BundleError as error:
        return error.message
    description.to_json().encode()
    return ""


def test_every_value_of_a_description_is_right_or_refused(folder: Path) -> None:
    file = folder / "bundle.json"
    content = json.loads(file.read_text())
    refused = 0
    paths = list(places(content))
    for path in paths:
        for value in (*BAD, REMOVED):
            file.write_text(json.dumps(changed(content, path, value)))
            said = refusal_of(folder)
            refused += bool(said)
            assert len(said) < 1000
            assert said.isprintable()
    assert refused > 8 * len(paths)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("model_config", "decoder", "layers"), 10**9, "model_config.decoder.layers is 1000000000"),
        (("model_config", "decoder", "layers"), "2", 'layers is "2", where a whole number is'),
        (("model_config", "decoder", "heads"), True, "heads is true, where a whole number is"),
        (("model_config", "decoder", "kv_heads"), 3, "which 4 heads cannot share"),
        (("model_config", "decoder", "start_id"), 256, "start_id is 256, of 256 tokens"),
        (("model_config", "decoder", "end_ids"), [1.5], "end_ids[0] is 1.5"),
        (("model_config", "decoder", "max_new_tokens"), "many", "max_new_tokens is 'many'"),
        (("model_config", "decoder", "search", "top_p"), 2, "top_p is 2, where a number from 0"),
        (("model_config", "decoder", "search", "early_stopping"), "x", "early_stopping is 'x'"),
        (("model_config", "decoder", "search", "beams"), 2, "unknown key model_config.decoder"),
        (("model_config", "max_length"), REMOVED, "model_config.max_length is missing"),
        (("model_config", "labels"), "good", 'labels is "good", where a list is expected'),
        (("model_config", "labels"), ["a", 1], "model_config.labels[1] is 1, where a text"),
        (("model_config", "prompts"), {"a": 1}, "model_config.prompts.a is 1"),
        (("model_config", "truncation_side"), "up", 'truncation_side is "up"'),
        (("model_config", "languages"), {"ids": {}, "source": "en"}, 'source is "en"'),
        (("files", "../outside"), {"sha256": "0" * 64, "bytes": 1}, 'files lists "../outside"'),
        (("files", "tuned.json"), {"sha256": "0" * 64, "bytes": 1}, 'files lists "tuned.json"'),
        (("files", "encoder.onnx", "bytes"), -1, "files.encoder.onnx.bytes is -1"),
        (("files", "encoder.onnx", "sha256"), "x", 'files.encoder.onnx.sha256 is "x"'),
        (("files", "tokenizer.json"), REMOVED, "files does not list tokenizer.json"),
        (("graphs", 0, "file"), "weights.bin", "which is no ONNX file of this bundle"),
        (("graphs", 0, "role"), "encoder", "two graphs of one role for one device"),
        (("graphs", 0, "device"), "tpu", "graphs[0].device is"),
        (("graphs",), [], "graphs lacks one of encoder, step"),
        (("task",), "\ud800", "task is no Unicode text"),
        (("task",), "a" * 5_000_000, "task has 5,000,000 characters"),
        (("notes",), [["x"]], "notes[0] is a list of 1"),
        (("proof",), {"x": {}}, ""),
    ],
)
def test_what_is_wrong_is_named(folder: Path, path: tuple[Any, ...], value: Any, said: str) -> None:
    file = folder / "bundle.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    if said:
        assert said in refusal(folder).message
    else:
        bundle_format.load(folder).check()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"[1]", "not a bundle description"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"format": NaN}', "NaN is no number of JSON"),
        (b'{"format": 4, "format": 3}', 'the key "format" comes twice'),
        (b'{"format": ' + b"1" * 10_000 + b"}", "a number is too long"),
        (b'{"format": [4]}', "bundle format a list of 1"),
        (b'{"format": true}', "bundle format true"),
        (b'{"format": 4.0}', "bundle format 4.0"),
    ],
)
def test_a_file_that_is_no_description_is_refused(folder: Path, text: bytes, said: str) -> None:
    (folder / "bundle.json").write_bytes(text)
    assert said in refusal(folder).message


def test_a_description_of_many_bytes_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typed_json, "MOST_BYTES", 1000)
    assert "it has more than 1,000 bytes" in refusal(folder).message


def _unlisted(folder: Path) -> None:
    (folder / "more.json").write_text("{}")


def _folder(folder: Path) -> None:
    (folder / "more").mkdir()


def _link(folder: Path) -> None:
    (folder / "weights.bin").rename(folder.parent / "weights.bin")
    (folder / "weights.bin").symlink_to(folder.parent / "weights.bin")


def _hard_link(folder: Path) -> None:
    os.link(folder / "weights.bin", folder.parent / "weights.bin")


def _linked_description(folder: Path) -> None:
    (folder / "bundle.json").rename(folder.parent / "b.json")
    (folder / "bundle.json").symlink_to(folder.parent / "b.json")


def _linked_tuning(folder: Path) -> None:
    (folder / "tuned.json").symlink_to("/etc/hostname")


def _pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_unlisted, 'holds "more.json", which is no file of this bundle'),
        (_folder, 'holds "more", which is no file of this bundle'),
        (_link, "weights.bin: is a symbolic link"),
        (_hard_link, "weights.bin: is a hard link"),
        (_linked_description, "bundle.json: is a symbolic link"),
        (_linked_tuning, "tuned.json: is a symbolic link"),
        (_pipe, "tokenizer.json: is a special file"),
    ],
)
def test_a_folder_with_other_things_is_refused(
    folder: Path, change: Callable[[Path], None], said: str
) -> None:
    change(folder)
    assert said in refusal(folder).message


@pytest.mark.parametrize("change", [_link, _hard_link, _linked_description])
def test_the_copy_that_the_hint_makes_is_a_bundle(
    folder: Path, change: Callable[[Path], None]
) -> None:
    change(folder)
    copy = folder.with_name("copy")
    hint = refusal(folder).hint.partition(": ")[2].replace("COPY", str(copy))
    assert os.system(hint) == 0
    bundle_format.load(copy).check()


def test_what_tools_leave_in_a_folder_is_passed_over(folder: Path) -> None:
    (folder / ".DS_Store").write_text("")
    (folder / ".git").mkdir()
    bundle_format.load(folder).check()
    link = folder.with_name("link")
    link.symlink_to(folder)
    bundle_format.load(link).check()


@pytest.mark.parametrize("name", ["weights.bin", "bundle.json", "tokenizer.json"])
def test_a_bundle_swapped_while_it_is_loaded_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    check = BundleFolder.check

    def swapping(bundle: BundleFolder) -> None:
        check(bundle)
        copy = folder.with_name("copy")
        shutil.copy2(folder / name, copy)
        copy.replace(folder / name)

    monkeypatch.setattr(BundleFolder, "check", swapping)
    with pytest.raises(BundleError, match=f"{name}: has been changed while the bundle was loaded"):
        Bundle.load(folder, device="cpu")
