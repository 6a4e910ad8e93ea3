"""The house rules: imports go down, heavy modules stay in their rooms, and nothing loads early."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import engine
from engine import errors

ROOT = Path(engine.__file__).parent

# Rooms may import from any floor below their own; rooms of one floor are blind to one another.
FLOORS: tuple[set[str], ...] = (
    {"__main__"},
    {"cli", "integrations"},
    {"__init__"},
    {"reporting"},
    {"demo", "bench", "comparison", "summary"},
    {"runner", "export"},
    {"pipeline"},
    {"answering"},
    {"tasks"},
    {"generation"},
    {"data", "bundle", "runtime", "measures", "pages"},
    {"core"},
    {"errors", "version"},
    {"printable", "library_errors"},
)

# The same within export.
EXPORT_FLOORS: tuple[set[str], ...] = (
    {"cache"},
    {"__init__"},
    {"quantization"},
    {"acceptance"},
    {"recipes"},
    {"graphs"},
    {"checkpoint"},
    {"sentences", "versions", "requirements", "output_folder", "report"},
)

# Where a module may be imported: a file, or a whole room.
HOMES = {
    "torch": {"export"},
    "transformers": {"export"},
    "optimum": {"export"},
    "onnx": {"export"},
    "safetensors": {"export"},
    "huggingface_hub": {"export", "data/hub_datasets.py"},
    "onnxruntime": {"runtime", "export"},
    "tokenizers": {"bundle/tokenizer.py", "bundle/tokenizer_trial.py", "export"},
    "jinja2": {"bundle/chat_sandbox.py"},
    "matplotlib": {"pages"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
    "airflow": {"integrations"},
    "ray": {"integrations"},
    "pyspark": {"integrations"},
    "threading": {
        "runner/journal.py",  # several threads record
        "runner/publisher.py", "runner/store_lock.py",  # a put cannot be interrupted
        "data/object_files.py", "data/page_cache.py",  # nor a download
        "runner/threads.py", "runner/child_process.py", "core/telemetry.py", "runtime/backend.py",
        "runtime/gpu_serialization.py", "bundle/chat_template.py",
        "core/activity.py", "runner/supervision.py", "core/keywords.py",  # `stop`
        "integrations",  # a task's end is another thread's
        "cli/interrupt.py",  # a thread hears of signals while the main one is inside of a library
        "core/system_calls.py",  # and waits for a pipe where the system cannot
    },
    "queue": {"runner/threads.py", "runner/publisher.py"},
    "concurrent": {
        "runner/threads.py", "answering/in_flight.py", "data/object_files.py",
        "runtime/gpu_serialization.py", "runtime/backend.py",  # sessions are created side by side
    },
    "multiprocessing": set(),
    "asyncio": set(),
    "pickle": {"runner/child_process.py"},  # between a run and its own processes
    "signal": {"cli"},
    # What Windows has not; `system_calls` has a second way.
    "fcntl": {"core/system_calls.py"},
    "resource": {"core/system_calls.py"},
    "select": {"core/system_calls.py"},
    **{name: set[str]() for name in ("grp", "pty", "pwd", "syslog", "termios", "tty")},
}  # fmt: skip
# The same of modules that it has.
POSIX = {
    "os": {
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fdatasync", "fork",
        "fsync", "geteuid", "getpgid", "getuid", "kill", "killpg", "mkfifo", "nice", "pread",
        "posix_fadvise", "pwrite", "sched_setaffinity", "sendfile", "setsid", "statvfs", "sync",
        "sysconf", "uname",
    },
    "time": {"clock_gettime", "tzset"},
    "signal": {"SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGSTOP", "pthread_sigmask"},
}  # fmt: skip
PURE = {"bundle/chunking.py", "bundle/batching.py", "tasks", "generation"}
WORLD = {
    "os", "io", "time", "datetime", "pathlib", "shutil", "tempfile", "glob", "subprocess", "socket",
    "sys", "platform", "random", "secrets", "logging", "urllib", "http",
}  # fmt: skip
HEAVY = (
    "onnxruntime", "tokenizers", "pyarrow", "numpy", "torch", "transformers", "optimum", "onnx",
    "rich", "huggingface_hub", "safetensors", "pandas", "scipy", "asyncio", "multiprocessing",
)  # fmt: skip


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in FILES}
ROOMS = {room(path) for path in FILES}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, those within functions and TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def engine_room(name: str) -> str | None:
    """The room that engine.x.y names; `__init__` for a public name of the package."""
    top, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return None if top != "engine" else first if first in ROOMS else "__init__"


def floor(name: str, floors: tuple[set[str], ...] = FLOORS) -> int:
    return next(i for i, rooms in enumerate(floors) if name in rooms)


def within(path: Path, places: set[str]) -> bool:
    """Whether a file is one of the places, or in one of them."""
    return room(path) in places or path.relative_to(ROOT).as_posix() in places


def called(tree: ast.AST, *names: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]


def test_every_room_has_a_floor() -> None:
    placed = [name for rooms in FLOORS for name in rooms]
    assert len(placed) == len(set(placed))
    assert set(placed) >= ROOMS, "give the new room a floor"
    assert set(placed) - ROOMS <= {"integrations"}


def test_imports_only_go_down() -> None:
    wrong = []
    for path, tree in TREES.items():
        here = room(path)
        for line, name in imported(tree):
            there = engine_room(name)
            if there in (None, here):
                continue
            if floor(there) <= floor(here):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


def test_imports_within_export_only_go_down() -> None:
    names = {path.relative_to(ROOT).parts[1].removesuffix(".py"): path for path in FILES
             if room(path) == "export"}  # fmt: skip
    assert {name for floor_ in EXPORT_FLOORS for name in floor_} == names.keys()
    wrong = []
    for path, tree in TREES.items():
        if room(path) != "export":
            continue
        here = path.relative_to(ROOT).parts[1].removesuffix(".py")
        for line, name in imported(tree):
            top, _, rest = name.partition("engine.export.")
            if top or not rest:
                continue
            there = rest.partition(".")[0]
            there = there if there in names else "__init__"
            if there != here and floor(there, EXPORT_FLOORS) <= floor(here, EXPORT_FLOORS):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {dotted(path): path for path in FILES}
    reached = {
        name: {
            target
            for _, target_name in imported(TREES[path])
            if (target := module_of(target_name, names)) and target != name
        }
        for name, path in names.items()
    }
    assert not circles(reached)


def test_the_benchmarks_do_not_import_each_other_in_a_circle() -> None:
    folder = ROOT.parent / "benchmarks"
    if not folder.is_dir():
        pytest.skip("benchmarks are not installed with the package")
    trees = {path.stem: ast.parse(path.read_text("utf-8")) for path in folder.rglob("*.py")}
    reached = {
        name: {n.partition(".")[0] for _, n in imported(tree)} & (trees.keys() - {name})
        for name, tree in trees.items()
    }
    assert not circles(reached)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def module_of(name: str, modules: Mapping[str, Path]) -> str | None:
    """The module that an imported dotted name is, or is a name of."""
    parent = name.rpartition(".")[0]
    return name if name in modules else parent if parent in modules else None


def circles(reached: Mapping[str, set[str]]) -> list[str]:
    """Modules that reach themselves over others; a package's own `__init__` does not count."""
    wrong = []
    for start in reached:
        seen: set[str] = set()
        todo = list(reached[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += reached.get(name, ())
        if start in seen:
            wrong.append(start)
    return wrong


def test_heavy_and_risky_modules_stay_in_their_rooms() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, tree in TREES.items()
        for line, name in imported(tree)
        if not within(path, HOMES.get(name.partition(".")[0], {room(path)}))
    ]
    assert not wrong


def test_what_only_posix_has_stands_in_one_place() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for path, tree in TREES.items()
        if path.name != "system_calls.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in POSIX.get(node.value.id, ())
    ]
    assert not wrong


def test_the_pure_rooms_know_no_files_clock_or_environment() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path, tree in TREES.items()
        if within(path, PURE)
        for line, what in [
            *((line, n) for line, n in imported(tree) if n.partition(".")[0] in WORLD),
            *((line, "open()") for line in called(tree, "open")),
        ]
    ]
    assert not wrong


def test_only_the_command_line_prints_and_exits() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, tree in TREES.items()
        if room(path) != "cli"
        for line in called(
            tree, "print", "input", "exit", "quit", "sys.exit", "os._exit", "typer.echo",
            "sys.stdout.write", "sys.stderr.write", "breakpoint",
        )
    ]  # fmt: skip
    assert not wrong


def test_nothing_is_evaluated_or_unpickled() -> None:
    calls = ("eval", "exec", "compile", "os.system")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, tree in TREES.items()
        # Pickles of a run's own processes come through pipes that nobody else can write to.
        for line in called(tree, *calls, *(["pickle.load"] * (path.name != "child_process.py")))
    ]
    assert not wrong


def test_no_room_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in FILES if path.stem in vague or path.parent.name in vague]


def test_every_module_says_what_it_is_for() -> None:
    assert not [
        path
        for path, tree in TREES.items()
        if not ast.get_docstring(tree) and path.name not in ("version.py", "__main__.py")
    ]


@pytest.mark.parametrize("module", ["engine", "engine.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert module in loaded
    assert not {name for name in loaded if name.partition(".")[0] in HEAVY}
    if module == "engine":
        assert not {name for name in loaded if name.partition(".")[0] in ("typer", "click")}


def test_the_public_names_are_these() -> None:
    assert engine.__all__ == [
        "Answered", "Bundle", "Comparison", "EngineError", "Preview", "Report", "RunConfig",
        "__version__", "bundle_for", "compare", "errors", "open", "plan", "read", "report", "run",
        "schema", "splits",
    ]  # fmt: skip
    for name in engine.__all__:
        assert getattr(engine, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        engine.nonsense  # noqa: B018
    assert inspect.isfunction(engine.run)


def test_the_exception_tree_in_the_docstring_is_the_real_one() -> None:
    drawn: dict[str, tuple[str, int]] = {}
    above: list[str] = []
    code = 0
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+)\s+(?:exit (\d+))?", line)
        if not found:
            continue
        depth = len(found[1]) // 4
        above[depth:] = [found[2]]
        code = int(found[3]) if found[3] else drawn[above[depth - 1]][1]
        drawn[found[2]] = (above[depth - 1] if depth else "Exception", code)
    real = {
        name: (kind.__bases__[0].__name__, kind.exit_code)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EngineError)
    }
    assert drawn == real


def test_every_error_raised_on_purpose_is_one_of_the_tree() -> None:
    """Besides signals between threads, what a person may see has an exit code."""
    allowed = {name for name in vars(errors) if name[0].isupper()}
    allowed |= {"PipelineCancelled", "AttributeError", "KeyboardInterrupt", "pa.ArrowInvalid"}
    allowed |= {"RefusedError", "FailedStepError"}  # between a bundle's trial and its process
    allowed |= {"MismatchError"}  # what a description's reader tells its caller
    allowed |= {"KeyChangedError"}  # what a put on a condition tells its caller
    allowed |= {"OSError"}  # what `system_calls` raises where another system would
    wrong = []
    for path, tree in TREES.items():
        if room(path) == "demo":
            continue  # its numerals are a library of their own
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func)
                if name[0].isupper() and name not in allowed:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} raises {name}")
    assert not wrong


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        if node.end_lineno and node.end_lineno - node.lineno >= 60
    ]
    assert not long


def test_no_file_is_longer_than_a_few_screens() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in TREES}
    assert not {name: length for name, length in lengths.items() if length > 460}
