"""Settings that a person gives and that change nothing in a run, by what their declarations need.

`core.settings.Setting.needs` names conditions; here is what each of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from engine import data, tasks
from engine.core.config import RunConfig
from engine.core.settings import Setting, declared
from engine.tasks.embedding_chunks import OFF
from engine.tasks.pooling import NONE
from engine.tasks.task import Options


@dataclass(frozen=True)
class RunFacts:
    """What decides whether a setting changes anything.

    Attributes:
        config: Settings of the run.
        task, options: Of the bundle; the options have its defaults.
        kinds: Kinds of the input files.
        stored: Whether one of them is an object of a store.
        by_ending: Whether the endings of all files tell their kinds.
        typed: Whether the person gave the type of a column that is kept.
        on_gpu: Whether a GPU computes.
        loaded: Whether the bundle was loaded before the run.
    """

    config: RunConfig
    task: tasks.Task
    options: Options
    kinds: frozenset[str] = frozenset()
    stored: bool = False
    by_ending: bool = False
    typed: bool = False
    on_gpu: bool = False
    loaded: bool = False

    def option(self, name: str) -> object:
        """The value of an option; None where the task has none of this name."""
        return getattr(self.options, name, None)


def _larger_windows(facts: RunFacts) -> str:
    most = facts.task.window(facts.options)
    return f"{facts.task.name} reads at most {most:,} rows together" * (facts.config.window >= most)


def _length_of_its_own(facts: RunFacts) -> str:
    length = facts.option("max_seq_len")
    return f"max_seq_len is {length}" if length else ""


def _sampling(facts: RunFacts) -> str:
    return "" if facts.task.samples(facts.options) else "do_sample is off (--do-sample)"


def _beams(facts: RunFacts) -> str:
    return "num_beams is 1" if facts.option("num_beams") == 1 else ""


def _beams_or_scores(facts: RunFacts) -> str:
    single = facts.option("num_beams") == 1 and not facts.option("return_scores")
    return "num_beams is 1 and return_scores is off" if single else ""


def _no_seed_column(facts: RunFacts) -> str:
    columns = facts.config.text
    return f"column {columns[1]!r} has a seed for each row" if len(columns) > 1 else ""


def _several_labels(facts: RunFacts) -> str:
    labels = facts.option("candidate_labels")
    alone = isinstance(labels, tuple) and len(labels) == 1
    return "one label is always scored on its own" if alone else ""


def _truncation(facts: RunFacts) -> str:
    chunk = facts.option("chunk")
    return f"chunk is {chunk}, which cuts nothing off" if chunk not in (None, OFF) else ""


def _unknown_endings(facts: RunFacts) -> str:
    return "the endings of all files tell it" if facts.by_ending else ""


def _cut_files(facts: RunFacts) -> str:
    cut = " and ".join(data.CUT)
    return "" if facts.kinds & set(data.CUT) else f"only files of {cut} are cut, uncompressed ones"


NEEDS: Mapping[str, Callable[[RunFacts], str]] = {
    "gpu": lambda facts: "" if facts.on_gpu else "the run is on the CPU",
    "cpu": lambda facts: "the graphs run on the GPU" if facts.on_gpu else "",
    "loading": lambda facts: "the bundle is loaded already" if facts.loaded else "",
    # A run to a store takes the setting before it plans one in that folder.
    "store": lambda facts: "the output is a local one",
    "objects": lambda facts: "" if facts.stored else "all inputs are local files",
    "keep": lambda facts: "" if facts.typed else "none of its columns is kept (--keep)",
    "reject": lambda facts: "on_error is fail" if facts.config.on_error == "fail" else "",
    "files of unknown endings": _unknown_endings,
    "files that are cut": _cut_files,
    "larger windows": _larger_windows,
    "length of its own": _length_of_its_own,
    "truncation": _truncation,
    "sampling": _sampling,
    "no sampling": lambda facts: "" if _sampling(facts) else "tokens are sampled, for each row",
    "no seed column": _no_seed_column,
    "beams": _beams,
    "beams or scores": _beams_or_scores,
    "no chat": lambda facts: "chat is on" if facts.option("chat") else "",
    "several labels": _several_labels,
    "no prompt": lambda facts: "prompt says what goes before" if facts.option("prompt") else "",
    "pooling": lambda facts: "pooling is none" if facts.option("pooling") == NONE else "",
}
"""What a setting may need: the facts of a run -> why the run does not have it, or ""."""


def unused_notes(facts: RunFacts, settings: Mapping[str, object]) -> tuple[str, ...]:
    """A note for each reason why settings change nothing.

    Args:
        facts: Of the run.
        settings: Those that a person gave, by name. One that has its default asks for nothing.
    """
    reasons: dict[str, list[str]] = {}
    for name, setting in _given(facts, settings):
        if reason := next(filter(None, (NEEDS[need](facts) for need in setting.needs)), ""):
            reasons.setdefault(reason, []).append(name)
    return tuple(
        f"{', '.join(names)} changed nothing: {reason}" for reason, names in reasons.items()
    )


def _given(facts: RunFacts, settings: Mapping[str, object]) -> Iterator[tuple[str, Setting]]:
    """Settings and options that a person gave, with their declarations."""
    defaults = RunConfig()
    for name, (_, setting) in declared(RunConfig).items():
        # Nothing is "" on the command line, and {} where it is read.
        if name in settings and (settings[name] or None) != (getattr(defaults, name) or None):
            yield name, setting
    for name, (_, setting) in declared(facts.task.options).items():
        if name in facts.config.options:
            yield name, setting
