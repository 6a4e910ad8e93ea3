"""Chats: text-generation with --chat against the pipeline, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bundles import bundle_of, checkpoint_of
from support.checkpoints.chat_templates import CHATS, TEMPLATES, chat
from support.checkpoints.chats import chatting
from support.checkpoints.decoders import gpt2
from support.fakes import write_arrow
from support.runs import content, rows_of

import engine
from engine.bundle import format as bundle_format
from engine.errors import ColumnError, InputError, RowError, SettingsError

GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
SECRET = "what nobody must read"


@pytest.fixture(scope="module", params=["gpt2", "opt"])
def family(request: pytest.FixtureRequest) -> tuple[Path, engine.Bundle]:
    pytest.importorskip("optimum.exporters.onnx")
    checkpoint = checkpoint_of(chatting, request.param)
    return checkpoint, engine.Bundle.load(bundle_of(checkpoint, "text-generation"))


@pytest.fixture(scope="module")
def bundle() -> engine.Bundle:
    pytest.importorskip("optimum.exporters.onnx")
    return engine.Bundle.load(bundle_of(checkpoint_of(chatting), "text-generation"))


def test_answers_equal_the_pipelines(family: tuple[Path, engine.Bundle]) -> None:
    from transformers import pipeline

    checkpoint, bundle = family
    pipe = pipeline("text-generation", model=str(checkpoint), device="cpu")
    compared = 0
    for name in TEMPLATES:
        wanted: list[str] = []
        chats = []
        for messages in CHATS:
            try:
                (answer,) = pipe(
                    messages,
                    return_full_text=False,
                    tokenizer_encode_kwargs={"chat_template": name},
                    **GREEDY,
                )
            except Exception:  # the template's own, of a class of Jinja's
                with pytest.raises(InputError, match="item 0 of the list: the chat template fails"):
                    bundle([messages], chat=True, chat_template=name, **GREEDY)
                continue
            chats.append(messages)
            wanted.append(answer["generated_text"])
        answers = bundle(chats, chat=True, chat_template=name, **GREEDY)
        assert answers.column("generated_text").to_pylist() == wanted, name
        compared += len(chats)
    assert compared > 80


def test_a_text_is_one_message_of_the_user_and_system_goes_before(bundle: engine.Bundle) -> None:
    def answers(items: list[Any], **options: Any) -> list[str]:
        table = bundle(items, chat=True, **GREEDY, **options)
        return [str(text) for text in table.column("generated_text").to_pylist()]

    asked, system = ("user", "Is the house large?"), ("system", "You are a dog.")
    plain, with_system = answers([chat(asked), chat(system, asked)])
    assert plain != with_system
    assert answers(["Is the house large?"]) == [plain]
    assert answers(["Is the house large?", chat(asked)], system=system[1]) == [with_system] * 2
    own = chat(("system", "Its own."), asked)
    assert answers([own], system=system[1]) == answers([own])


def test_variables_and_date_reach_the_template(bundle: engine.Bundle) -> None:
    def tokens(template: str, **options: Any) -> Any:
        table = bundle(["x"], chat=True, chat_template=template, **GREEDY, **options)
        return table.column("generated_text").to_pylist()

    plain = tokens("{{ 'a dog' }}")
    assert tokens("{% if not thinking %}a dog{% endif %}", chat_variables="thinking=false") == plain
    assert tokens("{{ animal }}", chat_variables=["animal=a dog", "n=3"]) == plain
    dated = "{{ strftime_now('%Y') }}"
    assert tokens(dated, chat_date="2026-01-31") == tokens("{{ 2026 }}")
    with pytest.raises(SettingsError, match="the date of the day") as error:
        tokens(dated)
    hinted = error.value.hint.rsplit("--chat-date ", 1)[1]
    assert tokens(dated, chat_date=hinted)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"system": "x"}, "system is given without chat", "add --chat"),
        ({"chat_template": "zephyr"}, "chat_template is given without chat", "add --chat"),
        ({"chat_date": "2026-01-31"}, "chat_date is given without chat", "add --chat"),
        ({"chat_variables": "a=1"}, "chat_variables is given without chat", "add --chat"),
        ({"chat": True, "chat_date": "today"}, "chat_date is 'today'", "a date such as 2026-01-31"),
        ({"chat": True, "chat_variables": "a"}, "chat_variables is 'a'", "a name and a value"),
        ({"chat": True, "prefix": "x"}, "prefix is given with chat", "--system"),
        ({"chat": True, "chat_template": "nope"}, "'nope' is neither", "--chat-template default"),
    ],
)
def test_options_that_contradict_each_other(
    bundle: engine.Bundle, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as error:
        bundle(["a"], **options)
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_checkpoint_without_a_template(tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    model = engine.Bundle.load(bundle_of(checkpoint_of(gpt2), "text-generation"))
    with pytest.raises(SettingsError, match="the checkpoint has no chat template") as error:
        model(["a"], chat=True)
    assert error.value.hint == "--chat-template FILE"
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}", encoding="utf-8")
    answers = model(["a"], chat=True, chat_template=str(file), **GREEDY)
    plain = model(["a"], return_full_text=False, **GREEDY)
    assert answers == plain


@pytest.mark.parametrize(
    "item", [{"role": "user", "content": "a"}, [{"role": "user"}], [["user", "a"]], 3, [None]]
)
def test_items_that_are_no_chats(bundle: engine.Bundle, item: object) -> None:
    with pytest.raises(InputError, match="item 1 of the list is neither") as error:
        bundle(["fine", item], chat=True)
    assert "in a list" in error.value.hint


BAD: list[tuple[Any, str, str]] = [
    ([], "bad_chat", "the chat has no messages"),
    ([{"role": "user"}], "bad_chat", "message 1 of the chat has no content"),
    (
        [{"role": "user", "content": SECRET}, {"role": "assistant", "content": None}],
        "bad_chat",
        "message 2 of the chat has no content",
    ),
    ([{"content": SECRET}], "bad_chat", "message 1 of the chat has no role"),
    (
        chat(("user", SECRET), ("user", SECRET)),
        "chat_template",
        "the chat template fails in line 1: "
        "Conversation roles must alternate user/assistant/user/assistant/...",
    ),
]
ODD: list[Any] = [
    None,
    3,
    "text among chats",
    {"role": "user", "content": SECRET},
    [SECRET],
    [{"role": "user", "content": [{"type": "text", "text": SECRET}]}],
    [{"role": "user", "content": SECRET, "tool_calls": [{"id": 1}]}],
    [{"role": 1, "content": SECRET}],
]


def jsonl(file: Path, chats: list[Any]) -> Path:
    lines = [json.dumps({"id": n, "messages": c}) for n, c in enumerate(chats)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def run(bundle: engine.Bundle, file: Path, out: Path, **settings: Any) -> engine.Report:
    options = {"chat": True, "chat_template": "llama-2", **GREEDY}
    return engine.run(bundle, [file], out, text="messages", keep="id", **options, **settings)


def test_bad_chats_are_set_aside(bundle: engine.Bundle, tmp_path: Path) -> None:
    good = [chat(("user", f"Is {n} large?")) for n in range(6)]
    bad = [value for value, _, _ in BAD]
    file = jsonl(tmp_path / "chats.jsonl", [*good[:2], *bad, *good[2:], *ODD])
    report = run(bundle, file, tmp_path / "out", on_error="reject")
    assert (report.rows_in, report.rows_out) == (6 + len(bad) + len(ODD), 6)
    answered = rows_of(tmp_path / "out", report)
    assert [row["id"] for row in answered] == [0, 1, *range(2 + len(bad), 6 + len(bad))]
    alone = bundle(good, chat=True, chat_template="llama-2", **GREEDY)
    assert [r["generated_text"] for r in answered] == alone.column("generated_text").to_pylist()
    (rejects,) = (tmp_path / "out/_manifest/rejects").iterdir()
    rows = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [row["row"] for row in rows][: len(bad)] == list(range(2, 2 + len(bad)))
    assert [tuple(row.values())[1:] for row in rows[: len(bad)]] == [b[1:] for b in BAD]
    assert {row["row"] for row in rows[len(bad) :]} == set(
        range(6 + len(bad), 6 + len(bad) + len(ODD))
    )
    assert SECRET.encode() not in b"".join(
        value if isinstance(value, bytes) else repr(value).encode()
        for value in content(tmp_path / "out").values()
    )


def test_a_bad_chat_is_recorded_where_its_text_is_wanted(
    bundle: engine.Bundle, tmp_path: Path
) -> None:
    file = jsonl(tmp_path / "chats.jsonl", [chat(("user", "Is 1 large?")), [{"role": SECRET}], []])
    run(bundle, file, tmp_path / "out", on_error="reject", reject_text=True)
    (rejects,) = (tmp_path / "out/_manifest/rejects").iterdir()
    texts = [json.loads(json.loads(line)["text"]) for line in rejects.read_text().splitlines()]
    assert texts == [[{"role": SECRET, "content": None}], []]


def test_the_first_bad_chat_stops_a_run(bundle: engine.Bundle, tmp_path: Path) -> None:
    for n, (value, code, message) in enumerate(BAD):
        file = jsonl(tmp_path / f"{n}.jsonl", [chat(("user", "fine")), value])
        with pytest.raises(RowError, match=r"row 1 \(counted from 0\)") as error:
            run(bundle, file, tmp_path / f"out-{n}")
        assert error.value.code == code
        assert error.value.message.endswith(message)
        assert SECRET not in str(error.value)


def test_every_kind_of_file_gives_the_same(bundle: engine.Bundle, tmp_path: Path) -> None:
    good = [chat(("user", f"Is {n} large?")) for n in range(5)]
    good[2] = chat(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    kinds = {
        "large": pa.large_list(
            pa.struct([("content", pa.large_string()), ("role", pa.large_string())])
        ),
        "plain": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        "name": pa.list_(pa.struct([(n, pa.string()) for n in ("name", "role", "content")])),
    }
    files = [jsonl(tmp_path / "chats.jsonl", good)]
    for name, kind in kinds.items():
        columns = pa.table({"id": range(5), "messages": pa.array(good, kind)})
        pq.write_table(columns, tmp_path / f"{name}.parquet")
        files += [tmp_path / f"{name}.parquet", write_arrow(tmp_path / f"{name}.arrow", columns)]
    outs = []
    for n, file in enumerate(files):
        report = run(bundle, file, tmp_path / f"out-{n}", window=2, tokenizers=n % 2)
        outs.append(rows_of(tmp_path / f"out-{n}", report))
    assert all(out == outs[0] for out in outs)
    assert len(outs[0]) == 5


def test_a_run_that_is_stopped_goes_on(bundle: engine.Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a", "b"):
        jsonl(folder / f"{name}.jsonl", [chat(("user", f"{name} {n}")) for n in range(3)])
    settings: dict[str, Any] = {"text": "messages", "chat": True, **GREEDY}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    engine.run(bundle, [folder], whole, **settings)
    engine.run(bundle, [folder], parts, **settings)
    max((parts / "_manifest").glob("part-*.json")).unlink()
    report = engine.run(bundle, [folder], parts, **settings)
    assert report.splits_skipped == 1
    assert content(parts) == content(whole)
    with pytest.raises(engine.errors.OtherRunError):
        engine.run(bundle, [folder], parts, **settings, system="other")


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.struct([("role", pa.string())])),
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(pa.string()))])),
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("n", pa.int64())])),
        pa.struct([("role", pa.string()), ("content", pa.string())]),
        pa.list_(pa.string()),
        pa.int64(),
    ],
)
def test_columns_that_hold_no_chats(
    bundle: engine.Bundle, tmp_path: Path, kind: pa.DataType
) -> None:
    columns = pa.table({"id": [1], "messages": pa.nulls(1, kind)})
    file = write_arrow(tmp_path / "chats.arrow", columns)
    with pytest.raises(ColumnError, match="not text or lists of messages"):
        run(bundle, file, tmp_path / "out")


def test_messages_without_chat_name_the_option(bundle: engine.Bundle, tmp_path: Path) -> None:
    columns = pa.table({"text": [chat(("user", "a"))]})
    file = write_arrow(tmp_path / "chats.arrow", columns)
    with pytest.raises(ColumnError) as error:
        engine.run(bundle, [file], tmp_path / "out", **GREEDY)
    assert "text-generation answers messages with --chat" in error.value.hint
    assert engine.run(bundle, [file], tmp_path / "out", chat=True, **GREEDY).rows_out == 1


def test_invalid_utf8_within_a_message(bundle: engine.Bundle, tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("role", pa.binary()), ("content", pa.binary())]))
    raw = pa.array([[{"role": b"user", "content": c}] for c in (b"a", b"\xff", b"b")], kind)
    fields = [f.view(pa.string()) for f in raw.flatten().flatten()]
    messages = pa.StructArray.from_arrays(fields, ["role", "content"])
    column = pa.ListArray.from_arrays(raw.offsets, messages)
    file = write_arrow(tmp_path / "a.arrow", pa.table({"id": [0, 1, 2], "messages": column}))
    report = run(bundle, file, tmp_path / "out", on_error="reject")
    assert dict(report.rejected) == {"invalid_utf8": 1}
    assert [row["id"] for row in rows_of(tmp_path / "out", report)] == [0, 2]


def forms(checkpoint: Path, out: Path, form: str) -> Path:
    """The checkpoint with one template, kept in another way."""
    shutil.copytree(checkpoint, out)
    (out / "chat_template.jinja").unlink()
    shutil.rmtree(out / "additional_chat_templates")
    config = json.loads((out / "tokenizer_config.json").read_text())
    source = TEMPLATES["zephyr"]
    if form == "jinja":
        (out / "chat_template.jinja").write_text(source)
    elif form == "legacy":
        (out / "chat_template.json").write_text(json.dumps({"chat_template": source}))
    else:
        named = [{"name": "default", "template": source}, {"name": "other", "template": "x"}]
        config["chat_template"] = named if form == "list" else source
    (out / "tokenizer_config.json").write_text(json.dumps(config))
    return out


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("form", ["jinja", "legacy", "list", "text"])
def test_every_place_of_a_template_is_read(form: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from engine.export.checkpoint import chat_templates, hub

    folder = forms(checkpoint_of(chatting), tmp_path / form, form)
    copied = tmp_path / "only-what-an-export-reads"
    for file in hub.files(folder):
        target = copied / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    notes: list[str] = []
    read = chat_templates.read(
        hub.resolve(str(copied), None, notes.append),
        AutoTokenizer.from_pretrained(copied),
        notes.append,
    )
    assert read["chat_templates"]["default"] == TEMPLATES["zephyr"]
    assert set(read["chat_templates"]) == {"default", *(["other"] if form == "list" else [])}
    assert read["special_tokens"]["bos_token"] == "<|endoftext|>"
    assert "--chat" in notes[-1]


def test_the_bundle_keeps_templates_and_says_so(bundle: engine.Bundle) -> None:
    description = bundle_format.load(bundle.folder.path).description
    assert description.model_config.chat_templates == TEMPLATES
    assert any("--chat-template NAME" in note for note in description.notes)
