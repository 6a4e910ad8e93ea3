"""A result of run.py as Markdown tables; `plots` draws it.

    python benchmarks/report.py RESULT.json [-o FOLDER]      writes RESULT.md and the plots
    python benchmarks/report.py RESULT.json --into PAGE.md   and the summary into a page

Ratios are times faster: the engine loses where one is below 1, and those are bold.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]
NONE = "–"
MARK = "†"
_LONGEST_REASON = 240
# What `put_into` replaces, and the workloads of which it shows every contestant.
MARKERS = ("<!-- table -->", "<!-- end of table -->")
SHOWN = ("encode-mixed", "translate")


def table(result: Found) -> str:
    """The Markdown of a result, as `run.py` makes it; parts that are missing are left out.

    Args:
        result: `machine`, `ceiling` and `workloads`; each workload has its `contestants` and
            `ratios`, or the reason it was `skipped`.
    """
    parts = _summary(result)
    for name, workload in measured(result).items():
        parts += _section(name, workload, result.get("ceiling", {}))
    return "\n\n".join(parts) + "\n"


def put_into(page: str, result: Found) -> str:
    """A page with the summary and the sections of `SHOWN` between its two `MARKERS`."""
    before, _, rest = page.partition(MARKERS[0])
    _, _, behind = rest.partition(MARKERS[1])
    parts = _summary(result)
    for name, workload in measured(result).items():
        if name in SHOWN:
            parts += _section(name, workload, result.get("ceiling", {}))
    inner = "\n\n".join(part.replace("## ", "### ", 1) for part in parts)
    return f"{before}{MARKERS[0]}\n{inner}\n{MARKERS[1]}{behind}"


def _summary(result: Found) -> list[str]:
    """Machine, versions, a line for each workload, and what was left out."""
    workloads = measured(result)
    parts = [_machine(result)]
    if peers := _versions(workloads.values()):
        parts.append(f"Versions by contestant: {peers}.")
    if workloads:
        parts += [_overview(workloads, result.get("ceiling", {})), _legend()]
        seconds = sum(workload.get("measured_seconds", 0) for workload in workloads.values())
        if seconds:
            parts.append(f"Measured in {seconds / 60:.0f} minutes, without what is made once.")
    if left := [f"- {n}: {w}" for n, w in _left_out(result.get("workloads", {}))]:
        parts.append("\n".join(left))
    return parts


# What a result says


def measured(result: Found) -> dict[str, Found]:
    return {n: w for n, w in result.get("workloads", {}).items() if "skipped" not in w}


def _left_out(entries: Mapping[str, Found]) -> Iterator[tuple[str, str]]:
    """(name, why) of what has no figures."""
    for name, entry in entries.items():
        for kind in ("skipped", "failed"):
            if kind in entry:
                yield name, f"{kind}, {_reason(entry[kind])}"


def contestants_of(workload: Found) -> dict[str, Found]:
    """Contestants with figures, in the order of the result."""
    return {n: c for n, c in workload.get("contestants", {}).items() if c.get("seconds")}


def _ours(workload: Found) -> list[str]:
    return [name for name in contestants_of(workload) if name.startswith("engine")]


def peers(workload: Found) -> list[str]:
    return [name for name in contestants_of(workload) if not name.startswith("engine")]


def _median(contestant: Found) -> float:
    return float(statistics.median(contestant["seconds"]))


def _ratio(workload: Found, mine: str, peer: str) -> Found | None:
    found: Found | None = workload.get("ratios", {}).get(mine, {}).get(peer)
    return found


def best(workload: Found, peer: str) -> tuple[str, Found] | None:
    """The engine's variant that does best against a peer, and its ratio."""
    pairs = [(mine, _ratio(workload, mine, peer)) for mine in _ours(workload)]
    there = [(mine, ratio) for mine, ratio in pairs if ratio]
    return max(there, key=lambda pair: float(pair[1]["median"]), default=None)


def _share(workload: Found, mine: str, ceiling: Found) -> tuple[float, float] | None:
    """Useful operations a second in billions, and their share of the machine's own products."""
    integer = "int8" in mine
    limit = ceiling.get("int8_gops" if integer else "fp32_gflops", 0)
    seconds = _median(contestants_of(workload)[mine])
    if not (workload.get("operations") and limit and seconds and (integer or "32" in mine)):
        return None
    rate = workload["operations"] / seconds / 1e9
    return rate, rate / limit


# Markdown


def _machine(result: Found) -> str:
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
    ceilings = [told.format(_number(ceiling[n])) for n, told in limits.items() if n in ceiling]
    line = ", ".join([
        machine.get("date", "no date"),
        machine.get("cpu", "unknown CPU") + (f" ({features})" if features else ""),
        f"{machine.get('cores', '?')} cores",
        *python,
        *versions,
    ])  # fmt: skip
    threads = f" with {ceiling['threads']} threads" if "threads" in ceiling else ""
    return _plain(line + ".") + (f" Ceiling{threads}: {', '.join(ceilings)}." if ceilings else "")


def _versions(workloads: Iterable[Found]) -> str:
    """Each contestant's packages once, its variants together."""
    found: dict[str, dict[str, str]] = {}
    for workload in workloads:
        for name, contestant in contestants_of(workload).items():
            packages = found.setdefault(name.rpartition(" ")[0] or name, {})
            packages |= contestant.get("versions", {})
    named = {n: ", ".join(f"{p} {v}" for p, v in packages.items()) for n, packages in found.items()}
    return "; ".join(f"{name}: {packages}" for name, packages in named.items() if packages)


def _legend() -> str:
    return (
        "Ratios are times faster, the median of the rounds; **bold** is where the engine loses. "
        "tokens/s counts what encoders read and, where text is generated, what is generated. "
        "The share of the ceiling is useful arithmetic, without padding, against the machine's own "
        f"matrix products. {MARK} has answers that differ from the reference's."
    )


def _overview(workloads: Mapping[str, Found], ceiling: Found) -> str:
    variants = list(dict.fromkeys(mine for w in workloads.values() for mine in _ours(w)))
    head = [
        "workload", *variants, "best peer", "its speed", "engine's best ×", "answers that differ",
        "share of ceiling",
    ]  # fmt: skip
    rows = [_overview_row(name, w, variants, ceiling) for name, w in workloads.items()]
    return _grid(head, rows, left={0, len(variants) + 1, len(variants) + 4})


def _overview_row(name: str, workload: Found, variants: Sequence[str], ceiling: Found) -> list[str]:
    timed = contestants_of(workload)
    speeds = [_speed(timed[v]) if v in timed else NONE for v in variants]
    peer = min(peers(workload), key=lambda n: _median(timed[n]), default="")
    found = best(workload, peer) if peer else None
    differing = [
        f"{n} {timed[n]['differs']:,}"
        for n in (*_ours(workload), *([peer] if peer else []))
        if timed[n].get("differs")
    ]
    shares = [(mine, _share(workload, mine, ceiling)) for mine in _ours(workload)]
    return [
        name,
        *speeds,
        marked(peer, timed[peer]) if peer else NONE,
        _speed(timed[peer]) if peer else NONE,
        f"{_times(found[1]['median'])} ({variant(found[0])})" if found else NONE,
        (", ".join(differing) + f" of {workload.get('rows', 0):,}") if differing else "none",
        ", ".join(f"{variant(m)} {_percent(s[1])}" for m, s in shares if s) or NONE,
    ]


def _section(name: str, workload: Found, ceiling: Found) -> list[str]:
    parts = [f"## {name}", _told(workload)]
    if arithmetic := _arithmetic(workload, ceiling):
        parts.append(arithmetic)
    if contestants_of(workload):
        parts.append(_contestants(workload))
    if stages := workload.get("stages"):
        each = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in stages.items())
        parts.append(f"The engine's stages, seconds at work (they overlap): {each}.")
    if left := [f"- {n}: {w}" for n, w in _left_out(workload.get("contestants", {}))]:
        parts.append("\n".join(left))
    return parts


def _told(workload: Found) -> str:
    said = [f"{_plain(workload.get('told', ''))} ({workload.get('task', 'no task')})."]
    said.append(f"{workload.get('rows', 0):,} rows{_texts(workload)}, {_lengths(workload)}.")
    if options := _setting(workload.get("options", {})):
        said.append(f"Options: {options}.")
    said.append(f"{workload.get('rounds', 0)} rounds.")
    if reference := workload.get("reference"):
        said.append(f"Answers are compared with {reference}.")
    return " ".join(said)


def _texts(workload: Found) -> str:
    return f", texts {workload['texts']}" if workload.get("texts") else ""


def _lengths(workload: Found) -> str:
    said = []
    for side, key in (("input", "tokens"), ("output", "output_tokens")):
        if not workload.get(key):
            continue
        spread = workload.get("lengths", {}).get(side)
        each = (
            f" (a row: {spread['min']} to {spread['max']}, median {spread['median']:g}, mean "
            f"{spread['mean']:g}, 95% up to {spread['p95']})" if spread else ""
        )  # fmt: skip
        said.append(f"{workload[key]:,} {side} tokens{each}")
    return ", ".join(said) or "lengths unknown"


def _arithmetic(workload: Found, ceiling: Found) -> str:
    shares = [(mine, _share(workload, mine, ceiling)) for mine in _ours(workload)]
    told = [
        f"{mine} {_number(s[0])} {'GOP/s' if 'int8' in mine else 'GFLOP/s'}, {_percent(s[1])}"
        for mine, s in shares
        if s
    ]
    if not told:
        return ""
    billions = _number(workload["operations"] / 1e9)
    return f"Useful arithmetic: {billions} billion operations; of the ceiling: {'; '.join(told)}."


def _contestants(workload: Found) -> str:
    mine = [name for name in _ours(workload) if workload.get("ratios", {}).get(name)]
    head = [
        "contestant", "setting", "median s", "spread", "rows/s", "tokens/s",
        *(f"{name} ×" for name in mine), "answers that differ", "start-up s", "peak MiB",
    ]  # fmt: skip
    rows = [
        [
            marked(name, contestant),
            _setting(contestant.get("setting", {})) or NONE,
            _number(_median(contestant)),
            _percent(contestant["spread"]) if "spread" in contestant else NONE,
            _number(contestant.get("rows_per_second")),
            _number(contestant.get("tokens_per_second")),
            *(_rounds(_ratio(workload, variant, name)) for variant in mine),
            _differs(name, contestant, workload),
            _number(contestant.get("startup_seconds")),
            _mebibytes(contestant.get("peak_bytes")),
        ]
        for name, contestant in contestants_of(workload).items()
    ]
    return _grid(head, rows, left={0, 1})


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    marks = ["---" if n in left else "--:" for n in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, marks, *rows))


def marked(name: str, contestant: Found) -> str:
    return f"{name} {MARK}" if contestant.get("differs") else name


def variant(name: str) -> str:
    return name.removeprefix("engine").strip() or name


def _speed(contestant: Found) -> str:
    for unit in ("tokens", "rows"):
        if speed := contestant.get(f"{unit}_per_second"):
            return f"{_number(speed)} {unit}/s"
    return NONE


def _times(ratio: float) -> str:
    return f"**{exact(ratio)}**" if ratio < 1 else exact(ratio)


def exact(ratio: float) -> str:
    """Never 1.00 for a loss."""
    return f"{ratio:.3f}" if 0.995 <= ratio < 1 else f"{ratio:.2f}"


def _rounds(ratio: Found | None) -> str:
    if not ratio:
        return ""
    each = ratio.get("rounds")
    return _times(ratio["median"]) + (f" ({min(each):.2f} to {max(each):.2f})" if each else "")


def _differs(name: str, contestant: Found, workload: Found) -> str:
    if name == workload.get("reference"):
        return "reference"
    if "differs" not in contestant:
        return NONE
    cosine = contestant.get("cosine")
    told = f" (mean cosine {cosine:.5f})" if cosine is not None else ""
    return f"{contestant['differs']:,} of {workload.get('rows', 0):,}{told}"


def _setting(values: Found) -> str:
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


def _reason(why: str) -> str:
    line = " ".join(str(why).split())
    return _plain(line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "…")


def _plain(text: str) -> str:
    """Without what Markdown would take for markup or for a cell's end."""
    return "".join(f"\\{c}" if c in "|<>*`" else c for c in text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="beside the result")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="put the summary there, too")
    given = parser.parse_args()
    from plots import plots

    try:
        result = json.loads(given.result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{given.result} cannot be read: {error}")
    out = given.out or given.result.parent
    files = plots(result, out / given.result.stem)
    file = out / f"{given.result.stem}.md"
    file.write_text(table(result), encoding="utf-8")
    if given.into:
        page = given.into.read_text(encoding="utf-8")
        given.into.write_text(put_into(page, result), encoding="utf-8")
    print(*map(str, [file, *files]), sep="\n")


if __name__ == "__main__":
    main()
