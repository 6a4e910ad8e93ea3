"""What has finished, under which fingerprint, with which counts.

    OUT/_manifest/run.json               settings, bundle and fingerprint of the run, written first
    OUT/_manifest/part-00000-NAME.json   the commit record of a split, written after its part
    OUT/_SUCCESS                         written last

A split is done when its record names the fingerprint of this run, the sha256 of the split's bytes
as they are now and the rows that the limit leaves to it, and its files still have the sizes that
the record claims.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

from engine.data import OutputFile, rejects_name, write_text, writing
from engine.errors import OtherRunError, OutputError

FOLDER = "_manifest"
SUCCESS = "_SUCCESS"
OURS = (FOLDER, SUCCESS, "_tmp", "rejects")
COUNTS = ("rows_in", "rows_out", "rows_rejected", "tokens", "truncated", "output_tokens")
_INPUT = ("path", "start", "stop", "first_row", "sha256", "limit")
_PART = re.compile(r"part-\d{5,}-.+\.(arrow|parquet)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The commit record of one split.

    Attributes:
        part: The part file; rejects: the file of its bad rows, if it has any.
        input: path, start, stop and sha256 of the bytes that were read, the number of their first
            row, and the limit of rows that held for them, 0 for none.
        fingerprint: Of bundle, settings and device.
        counts: Those of `COUNTS`.
        device: What ran.
        seconds: From the split's first row to its part's name.
        ran: The same at length: provider, versions, and nodes by provider (see
            `device.ExecutionInfo`).
    """

    part: OutputFile
    rejects: OutputFile | None
    input: Mapping[str, Any]
    fingerprint: str
    counts: Mapping[str, int]
    device: str
    seconds: float
    ran: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Entry:
        """From parsed JSON; raises TypeError or KeyError where it is not a record."""
        rejects = content["rejects"]
        return cls(
            **{
                **content,
                "part": OutputFile(**content["part"]),
                "rejects": rejects and OutputFile(**rejects),
                "input": {name: content["input"][name] for name in _INPUT},
                "counts": {name: index(content["counts"][name]) for name in COUNTS},
                "ran": dict(content["ran"]),
            }
        )

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """What lies under final names."""
        return (self.part, self.rejects) if self.rejects else (self.part,)


class Manifest:
    """The records of one output folder, held open by one run at a time."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / FOLDER

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out while the body runs.

        Raises:
            OutputError: Another run is writing here, or the folder cannot be written.
            OtherRunError: The folder holds something else; nothing in it is touched.
        """
        with writing(self.out):
            if not self.folder.is_dir():
                self._refuse_foreign()
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(
                    f"{self.out}: another run is writing here",
                    "wait for it, or choose another folder with -o",
                ) from error
            yield

    def begin(self, run: Mapping[str, Any], parts: set[str], *, overwrite: bool) -> None:
        """Take the folder for a run, or go on with the one it holds.

        Args:
            run: Settings, bundle and `fingerprint`, as JSON values.
            parts: Part file names of this run.
            overwrite: Clear what another run left.

        Raises:
            OtherRunError: The folder holds other settings, other inputs or foreign files.
        """
        try:
            self._check(run, parts)
        except OtherRunError:
            if not overwrite and any(self.out.glob("part-*")):
                raise
            self._clear()  # without an answer in it, another run's folder is free to take
        with writing(self.out):
            shutil.rmtree(self.out / "_tmp", ignore_errors=True)
        if self.read_run() is None:
            write_text(self.folder / "run.json", _json(run))

    def _check(self, run: Mapping[str, Any], parts: set[str]) -> None:
        earlier = self.read_run()
        if earlier is None:
            self._refuse_foreign()
            return
        if earlier.get("fingerprint") != run["fingerprint"]:
            raise OtherRunError(
                f"{self.out}: holds a run with {_difference(earlier, run)}", _CHOOSE
            )
        beyond = [e for e in self.entries() if e.part.file not in parts]
        for entry in beyond:
            if _file_of(entry.part.file) not in map(_file_of, parts):
                raise OtherRunError(
                    f"{self.out}: holds answers for {entry.input['path']}, which is not in this "
                    "run",
                    "name that input too, " + _CHOOSE,
                )
        for entry in beyond:  # of a file that had more splits before it changed
            self.forget(entry.part.file)

    def _refuse_foreign(self) -> None:
        there = sorted(self.out.iterdir()) if self.out.is_dir() else []
        if foreign := [p.name for p in there if p.name != FOLDER]:
            raise OtherRunError(
                f"{self.out}: not empty, and not a run's output (it holds {foreign[0]!r})",
                "choose an empty or new folder with -o",
            )

    def _clear(self) -> None:
        """Remove what runs write and nothing else; run.json last, to be recognized until then."""
        if self.read_run() is None:
            raise OtherRunError(
                f"{self.out}: not empty, and not a run's output; it is left as it is",
                "choose an empty or new folder with -o",
            )
        with writing(self.out):
            for path in self.out.iterdir():
                if path.is_dir() and path.name in OURS and path.name != FOLDER:
                    shutil.rmtree(path)
                elif path.name == SUCCESS or (path.is_file() and _PART.fullmatch(path.name)):
                    path.unlink()
            for path in sorted(self.folder.glob("*.json")):
                path.unlink()

    def read_run(self) -> dict[str, Any] | None:
        """run.json, or None where there is none."""
        return _read(self.folder / "run.json")

    def entry(self, part: str) -> Entry | None:
        """The record of a part file, or None where there is none that can be read."""
        content = _read(self.folder / f"{Path(part).stem}.json")
        try:
            return Entry.of(content) if content else None
        except (TypeError, KeyError):
            return None

    def entries(self) -> list[Entry]:
        """All records, by part name."""
        names = sorted(p.stem for p in self.folder.glob("part-*.json"))
        return [e for e in map(self.entry, names) if e]

    def done(self, part: str, fingerprint: str, taken: Mapping[str, Any]) -> Entry | None:
        """The record of a split that need not be computed again, or None.

        Args:
            taken: What `Entry.input` would say of it now.
        """
        entry = self.entry(part)
        if entry is None or entry.fingerprint != fingerprint or entry.input != taken:
            return None
        files = ((self.out / written.file, written.bytes) for written in entry.files)
        whole = all(file.is_file() and file.stat().st_size == size for file, size in files)
        return entry if whole else None

    def forget(self, part: str) -> None:
        """A part is to be written anew, or is none of this run's any more: what was said of it and
        of the run's success no longer holds."""
        with writing(self.folder):
            (self.folder / f"{Path(part).stem}.json").unlink(missing_ok=True)
            (self.out / SUCCESS).unlink(missing_ok=True)
            (self.out / rejects_name(part)).unlink(missing_ok=True)
            (self.out / part).unlink(missing_ok=True)

    def commit(self, entry: Entry) -> None:
        name = f"{Path(entry.part.file).stem}.json"
        write_text(self.folder / name, _json(dataclasses.asdict(entry)))

    def succeed(self, content: Mapping[str, Any]) -> None:
        with writing(self.out):
            shutil.rmtree(self.out / "_tmp", ignore_errors=True)
        write_text(self.out / SUCCESS, _json(content))


_CHOOSE = "or choose another folder with -o, or clear this one with --overwrite"


def _file_of(part: str) -> str:
    """What the parts of one input file have in common: their names without part and ordinal."""
    return part.split("-", 2)[-1]


def total(entries: Sequence[Entry]) -> dict[str, int]:
    """Counts summed over records."""
    return {name: sum(e.counts[name] for e in entries) for name in COUNTS}


def _difference(earlier: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words."""
    before, now = (_flat_settings(r) for r in (earlier, run))
    names = [n for n in sorted(before | now) if before.get(n) != now.get(n)]
    if not names:
        return "another fingerprint"
    shown = [f"{n} {_short(before.get(n))} (now {_short(now.get(n))})" for n in names[:3]]
    return "other settings: " + ", ".join(shown)


def _flat_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, options of the task among them, and the bundle."""
    settings = dict(run.get("settings", {}))
    return {**settings.pop("options", {}), **settings, "bundle": run.get("bundle")}


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True, default=str) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
