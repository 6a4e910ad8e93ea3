"""A result of run.py as Markdown tables; `plots` draws it.

    python benchmarks/report.py RESULT.json [-o FOLDER]      writes RESULT.md and the plots
    python benchmarks/report.py RESULT.json --into PAGE.md   and the summary into a page

Ratios are times faster: the engine loses where one is below 1, and those are bold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plots import plots
from result import (
    MARK,
    Part,
    best,
    contestants,
    engines,
    marked,
    measured,
    median,
    peers,
    ratio,
    share_of_ceiling,
    two_digits,
    variant,
    without_figures,
)

NONE = "–"
_LONGEST_REASON = 240
# `put_into` replaces what stands between these, and shows every contestant of `SHOWN`.
MARKERS = ("<!-- table -->", "<!-- end of table -->")
SHOWN = ("encode-mixed", "translate")


def table(result: Part) -> str:
    """The Markdown of a result of `run.py`; missing parts are left out."""
    parts = _summary(result)
    for name, workload in measured(result).items():
        parts += _section(name, workload, result.get("ceiling", {}))
    return "\n\n".join(parts) + "\n"


def put_into(page: str, result: Part) -> str:
    """A page with the summary and the sections of `SHOWN` between its two `MARKERS`."""
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    parts = _summary(result)
    for name, workload in measured(result).items():
        if name in SHOWN:
            parts += _section(name, workload, result.get("ceiling", {}))
    inner = "\n\n".join(part.replace("## ", "### ", 1) for part in parts)
    return f"{before}{MARKERS[0]}\n{inner}\n{MARKERS[1]}{after}"


def _summary(result: Part) -> list[str]:
    """Machine, versions, a line for each workload, and what was left out."""
    workloads = measured(result)
    parts = [_machine(result)]
    if versions := _versions(workloads.values()):
        parts.append(f"Versions by contestant: {versions}.")
    if workloads:
        parts += [_overview(workloads, result.get("ceiling", {})), _legend()]
        seconds = sum(workload.get("measured_seconds", 0) for workload in workloads.values())
        if seconds:
            parts.append(f"Measured in {seconds / 60:.0f} minutes, without what is made once.")
    if reasons := _reasons(result.get("workloads", {})):
        parts.append(reasons)
    return parts


def _machine(result: Part) -> str:
    machine, ceiling = result.get("machine", {}), result.get("ceiling", {})
    features = ", ".join(machine.get("cpu_features", ()))
    versions = [f"{n} {v}" for n, v in machine.get("versions", {}).items()]
    python = [f"Python {machine['python']}"] if "python" in machine else []
    kind = f" ({ceiling['int8_kind']})" if ceiling.get("int8_kind") else ""
    limits = {
        "fp32_gflops": "fp32 GEMM {} GFLOP/s",
        "int8_gops": f"exact int8 GEMM {{}} GOP/s{kind}",
        "read_gb_per_second": "memory read {} GB/s",
        "tokenizer_tokens_per_second": "tokenizer {} tokens/s",
    }
    ceilings = [
        sentence.format(_number(ceiling[name]))
        for name, sentence in limits.items()
        if name in ceiling
    ]
    line = ", ".join([
        machine.get("date", "no date"),
        machine.get("cpu", "unknown CPU") + (f" ({features})" if features else ""),
        f"{machine.get('cores', '?')} cores",
        *python,
        *versions,
    ])  # fmt: skip
    threads = f" with {ceiling['threads']} threads" if "threads" in ceiling else ""
    return _plain(line + ".") + (f" Ceiling{threads}: {', '.join(ceilings)}." if ceilings else "")


def _versions(workloads: Iterable[Part]) -> str:
    """Each contestant's packages once, its variants together."""
    libraries: dict[str, dict[str, str]] = {}
    for workload in workloads:
        for name, contestant in contestants(workload).items():
            packages = libraries.setdefault(name.rpartition(" ")[0] or name, {})
            packages |= contestant.get("versions", {})
    return "; ".join(
        f"{library}: {', '.join(f'{name} {version}' for name, version in packages.items())}"
        for library, packages in libraries.items()
        if packages
    )


def _legend() -> str:
    return (
        "Ratios are times faster, the median of the rounds; **bold** is where the engine loses. "
        "tokens/s counts what encoders read and, where text is generated, what is generated. "
        "The share of the ceiling is useful arithmetic, without padding, against the machine's own "
        f"matrix products. {MARK} has answers that differ from the reference's."
    )


def _overview(workloads: Mapping[str, Part], ceiling: Part) -> str:
    variants = list(dict.fromkeys(name for w in workloads.values() for name in engines(w)))
    head = [
        "workload", *variants, "best peer", "its speed", "engine's best ×", "answers that differ",
        "share of ceiling",
    ]  # fmt: skip
    rows = [_overview_row(name, w, variants, ceiling) for name, w in workloads.items()]
    return _grid(head, rows, left={0, len(variants) + 1, len(variants) + 4})


def _overview_row(name: str, workload: Part, variants: Sequence[str], ceiling: Part) -> list[str]:
    timed = contestants(workload)
    speeds = [_speed(timed[v]) if v in timed else NONE for v in variants]
    peer = min(peers(workload), key=lambda n: median(timed[n]), default="")
    against = best(workload, peer) if peer else None
    differing = [
        f"{n} {timed[n]['differs']:,}"
        for n in (*engines(workload), *([peer] if peer else []))
        if timed[n].get("differs")
    ]
    shares = [(name, share_of_ceiling(workload, name, ceiling)) for name in engines(workload)]
    return [
        name,
        *speeds,
        marked(peer, timed[peer]) if peer else NONE,
        _speed(timed[peer]) if peer else NONE,
        f"{_times(against[1]['median'])} ({variant(against[0])})" if against else NONE,
        (", ".join(differing) + f" of {workload.get('rows', 0):,}") if differing else "none",
        ", ".join(f"{variant(name)} {_percent(s[1])}" for name, s in shares if s) or NONE,
    ]


def _section(name: str, workload: Part, ceiling: Part) -> list[str]:
    parts = [f"## {name}", _description(workload)]
    if arithmetic := _arithmetic(workload, ceiling):
        parts.append(arithmetic)
    if contestants(workload):
        parts.append(_contestants(workload))
    if stages := workload.get("stages"):
        each = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in stages.items())
        parts.append(f"The engine's stages, seconds at work (they overlap): {each}.")
    if reasons := _reasons(workload.get("contestants", {})):
        parts.append(reasons)
    return parts


def _description(workload: Part) -> str:
    sentences = [f"{_plain(workload.get('told', ''))} ({workload.get('task', 'no task')})."]
    sentences.append(f"{workload.get('rows', 0):,} rows{_texts(workload)}, {_lengths(workload)}.")
    if options := _setting(workload.get("options", {})):
        sentences.append(f"Options: {options}.")
    sentences.append(f"{workload.get('rounds', 0)} rounds.")
    if reference := workload.get("reference"):
        sentences.append(f"Answers are compared with {reference}.")
    return " ".join(sentences)


def _texts(workload: Part) -> str:
    return f", texts {workload['texts']}" if workload.get("texts") else ""


def _lengths(workload: Part) -> str:
    sides = []
    for side, key in (("input", "tokens"), ("output", "output_tokens")):
        if not workload.get(key):
            continue
        spread = workload.get("lengths", {}).get(side)
        each = (
            f" (a row: {spread['min']} to {spread['max']}, median {spread['median']:g}, mean "
            f"{spread['mean']:g}, 95% up to {spread['p95']})" if spread else ""
        )  # fmt: skip
        sides.append(f"{workload[key]:,} {side} tokens{each}")
    return ", ".join(sides) or "lengths unknown"


def _arithmetic(workload: Part, ceiling: Part) -> str:
    shares = [(name, share_of_ceiling(workload, name, ceiling)) for name in engines(workload)]
    rates = [
        f"{name} {_number(s[0])} {'GOP/s' if 'int8' in name else 'GFLOP/s'}, {_percent(s[1])}"
        for name, s in shares
        if s
    ]
    if not rates:
        return ""
    billions = _number(workload["operations"] / 1e9)
    return f"Useful arithmetic: {billions} billion operations; of the ceiling: {'; '.join(rates)}."


def _contestants(workload: Part) -> str:
    compared = [name for name in engines(workload) if workload.get("ratios", {}).get(name)]
    head = [
        "contestant", "setting", "median s", "spread", "rows/s", "tokens/s",
        *(f"{name} ×" for name in compared), "answers that differ", "start-up s", "peak MiB",
    ]  # fmt: skip
    rows = [
        [
            marked(name, contestant),
            _setting(contestant.get("setting", {})) or NONE,
            _number(median(contestant)),
            _percent(contestant["spread"]) if "spread" in contestant else NONE,
            _number(contestant.get("rows_per_second")),
            _number(contestant.get("tokens_per_second")),
            *(_rounds(ratio(workload, engine, name)) for engine in compared),
            _differs(name, contestant, workload),
            _number(contestant.get("startup_seconds")),
            _mebibytes(contestant.get("peak_bytes")),
        ]
        for name, contestant in contestants(workload).items()
    ]
    return _grid(head, rows, left={0, 1})


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    marks = ["---" if n in left else "--:" for n in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, marks, *rows))


def _speed(contestant: Part) -> str:
    for unit in ("tokens", "rows"):
        if speed := contestant.get(f"{unit}_per_second"):
            return f"{_number(speed)} {unit}/s"
    return NONE


def _times(times: float) -> str:
    return f"**{two_digits(times)}**" if times < 1 else two_digits(times)


def _rounds(against: Part | None) -> str:
    if not against:
        return ""
    each = against.get("rounds")
    return _times(against["median"]) + (f" ({min(each):.2f} to {max(each):.2f})" if each else "")


def _differs(name: str, contestant: Part, workload: Part) -> str:
    if name == workload.get("reference"):
        return "reference"
    if "differs" not in contestant:
        return NONE
    cosine = contestant.get("cosine")
    mean = f" (mean cosine {cosine:.5f})" if cosine is not None else ""
    return f"{contestant['differs']:,} of {workload.get('rows', 0):,}{mean}"


def _setting(values: Part) -> str:
    return ", ".join(f"{_plain(key)} {_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    """A setting's value; of a list, its length: ten labels would make the table unreadable."""
    return f"({len(value)})" if isinstance(value, list | tuple) else _plain(str(value))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"


def _number(value: float | None) -> str:
    """About three digits that matter, thousands apart."""
    if value is None:
        return NONE
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def _mebibytes(size: int | None) -> str:
    return f"{size / 2**20:,.0f}" if size else NONE


def _reasons(entries: Mapping[str, Part]) -> str:
    """A list of what has no figures, or nothing."""
    return "\n".join(
        f"- {name}: {outcome}, {_reason(why)}" for name, outcome, why in without_figures(entries)
    )


def _reason(why: str) -> str:
    line = " ".join(str(why).split())
    return _plain(line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "…")


def _plain(text: str) -> str:
    """Text with what Markdown would read as markup, or as the end of a cell, escaped."""
    return "".join(f"\\{c}" if c in "|<>*`" else c for c in text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="default: the result's")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="put the summary there, too")
    arguments = parser.parse_args()
    try:
        result = json.loads(arguments.result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.result} cannot be read: {error}")
    out = arguments.out or arguments.result.parent
    files = plots(result, out / arguments.result.stem)
    file = out / f"{arguments.result.stem}.md"
    file.write_text(table(result), encoding="utf-8")
    if arguments.into:
        page = arguments.into.read_text(encoding="utf-8")
        arguments.into.write_text(put_into(page, result), encoding="utf-8")
    print(*map(str, [file, *files]), sep="\n")


if __name__ == "__main__":
    main()
