"""What has finished, under which fingerprint, with which counts.

    OUT/_manifest/run.json               settings, bundle and fingerprint of the run, written first
    OUT/_manifest/part-00000-NAME.json   the commit record of a split, written after its part
    OUT/_SUCCESS                         written last

A split is done when its record names the fingerprint of this run and the sha256 of the split's
bytes as they are now, and the part still has the size that the record claims.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import OtherRunError, OutputError
from engine.sink import Written, write_text, writing

FOLDER = "_manifest"
SUCCESS = "_SUCCESS"
OURS = (FOLDER, SUCCESS, "_tmp", "rejects")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The commit record of one split.

    Attributes:
        part: The part file; rejects: the file of its bad rows, if it has any.
        input: path, start, stop and sha256 of the bytes that were read.
        fingerprint: Of bundle, settings and device.
        counts: rows_in, rows_out, rows_rejected, tokens, truncated, output_tokens.
        device: What ran.
        seconds: From the split's first row to its part's name.
    """

    part: Written
    rejects: Written | None
    input: Mapping[str, Any]
    fingerprint: str
    counts: Mapping[str, int]
    device: str
    seconds: float

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Entry:
        """From parsed JSON; raises TypeError or KeyError where it is not a record."""
        rejects = content["rejects"]
        written = {"part": Written(**content["part"]), "rejects": rejects and Written(**rejects)}
        return cls(**{**content, **written})


class Manifest:
    """The records of one output folder, held open by one run at a time."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / FOLDER

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out while the body runs.

        Raises:
            OutputError: Another run is writing here, or the folder can not be written.
        """
        with writing(self.out):
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
            if not overwrite:
                raise
            self._clear()
        with writing(self.out):
            shutil.rmtree(self.out / "_tmp", ignore_errors=True)
        if self.read_run() is None:
            write_text(self.folder / "run.json", _json(run))

    def _check(self, run: Mapping[str, Any], parts: set[str]) -> None:
        earlier = self.read_run()
        if earlier is None:
            if foreign := [p.name for p in self.out.iterdir() if p.name != FOLDER]:
                raise OtherRunError(
                    f"{self.out}: not empty, and not a run's output (it holds {foreign[0]!r})",
                    "choose an empty or new folder with -o",
                )
            return
        if earlier.get("fingerprint") != run["fingerprint"]:
            raise OtherRunError(
                f"{self.out}: holds a run with {_difference(earlier, run)}", _CHOOSE
            )
        for entry in self.entries():
            if entry.part.file not in parts:
                raise OtherRunError(
                    f"{self.out}: holds answers for {entry.input['path']} (bytes "
                    f"{entry.input['start']} to {entry.input['stop']}), which is not in this run",
                    "name that input too, " + _CHOOSE,
                )

    def _clear(self) -> None:
        """Remove what runs write and nothing else."""
        if self.read_run() is None:
            raise OtherRunError(
                f"{self.out}: not empty, and not a run's output; it is left as it is",
                "choose an empty or new folder with -o",
            )
        with writing(self.out):
            for path in self.out.iterdir():
                if path.is_dir() and path.name in OURS and path.name != FOLDER:
                    shutil.rmtree(path)
                elif path.name == SUCCESS or (path.is_file() and path.name.startswith("part-")):
                    path.unlink()
            for path in self.folder.glob("*.json"):
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

    def done(self, part: str, fingerprint: str, sha256: str) -> Entry | None:
        """The record of a split that need not be computed again, or None."""
        entry = self.entry(part)
        if entry is None or entry.fingerprint != fingerprint or entry.input["sha256"] != sha256:
            return None
        file = self.out / entry.part.file
        whole = file.is_file() and file.stat().st_size == entry.part.bytes
        return entry if whole else None

    def forget(self, part: str) -> None:
        """A part is about to be written anew: its record and the run's success no longer hold."""
        with writing(self.folder):
            (self.folder / f"{Path(part).stem}.json").unlink(missing_ok=True)
            (self.out / "rejects" / f"{Path(part).stem}.parquet").unlink(missing_ok=True)
            (self.out / SUCCESS).unlink(missing_ok=True)

    def commit(self, entry: Entry) -> None:
        name = f"{Path(entry.part.file).stem}.json"
        write_text(self.folder / name, _json(dataclasses.asdict(entry)))

    def succeed(self, content: Mapping[str, Any]) -> None:
        with writing(self.out):
            shutil.rmtree(self.out / "_tmp", ignore_errors=True)
        write_text(self.out / SUCCESS, _json(content))


_CHOOSE = "or choose another folder with -o, or clear this one with --overwrite"


def total(entries: list[Entry]) -> dict[str, int]:
    """Counts summed over records."""
    names = ("rows_in", "rows_out", "rows_rejected", "tokens", "truncated", "output_tokens")
    return {name: sum(e.counts[name] for e in entries) for name in names}


def _difference(earlier: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words."""
    before, now = ({**r.get("settings", {}), "bundle": r.get("bundle")} for r in (earlier, run))
    names = [n for n in sorted(before | now) if before.get(n) != now.get(n)]
    if not names:
        return "another fingerprint"
    shown = [f"{n} {_short(before.get(n))} (now {_short(now.get(n))})" for n in names[:3]]
    return "other settings: " + ", ".join(shown)


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
