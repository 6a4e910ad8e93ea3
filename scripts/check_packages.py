"""Install the built wheel where it is going to be used, and run it; see scripts/build.

python scripts/check_packages.py dist
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "Windows": ("win_amd64",),
    "macOS": tuple(f"macosx_{major}_0_arm64" for major in (14, 13, 12, 11)),
}
# The model's bundle is most of it.
MOST_BYTES = 6 << 20
ROWS = 30
_WHERE = "import engine.demo, sys; print(sys.prefix); print(engine.demo.BUNDLE)"


def main() -> None:
    """Check all, and say what was run and what was not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dist", type=Path)
    (wheel,) = parser.parse_args().dist.resolve().glob("*.whl")
    check_contents(wheel)
    interpreters = dict(found_interpreters())
    for version in VERSIONS:
        if version in interpreters:
            smoke(interpreters[version], wheel)
            print(f"Python {version}: installed and run")
        else:
            print(f"Python {version}: not found here, so not run")
        for system, platforms in PLATFORMS.items():
            print(f"Python {version}, {system}: {resolved(wheel, version, platforms)}")


def check_contents(wheel: Path) -> None:
    """The bundle is in the wheel, and the checkpoint and tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in ("engine/demo/bundle/weights.bin", "engine/demo/bundle/bundle.json"):
        assert name in names, f"{wheel.name}: {name} is missing"
    for part in ("demo/checkpoint", "tests/", "__pycache__"):
        assert not [name for name in names if part in name], f"{wheel.name} has {part}"
    size = wheel.stat().st_size
    assert size < MOST_BYTES, f"{wheel.name}: {size:,} bytes, {MOST_BYTES:,} at most"
    print(f"{wheel.name}: {size:,} bytes, {len(names)} files")


def found_interpreters() -> Iterator[tuple[str, Path]]:
    """Version and path of the interpreters that are here: on PATH, or made by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        built = sorted(pyenv.glob(f"{version}.*/bin/python"))
        for python in [*([Path(on_path)] if on_path else []), *built]:
            if version_of(python) == version:
                yield version, python
                break


def version_of(python: Path) -> str:
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def smoke(python: Path, wheel: Path) -> None:
    """Install the wheel into a fresh environment, outside of the tree, and run its commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([python, "-m", "venv", folder / "env"], check=True)
        own = folder / "env/bin/python"
        constraints = str(ROOT / "constraints.txt")
        pip = (own, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
        subprocess.run([*pip, "--constraint", constraints, f"{wheel}[cpu]"], check=True)
        prefix, bundle = run(folder, own, "-c", _WHERE).split()
        assert Path(bundle).is_relative_to(prefix), f"{bundle} is not of the environment"
        use(folder, own.with_name("engine"), bundle)


def use(folder: Path, engine: Path, bundle: str) -> None:
    """The commands that need nothing but what the package ships."""
    assert run(folder, engine, "--version").startswith("corpus-engine ")
    assert "onnxruntime" in run(folder, engine, "doctor")
    rows = [json.dumps({"id": row, "text": "veinte"}) for row in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    report = json.loads(run(folder, engine, "run", bundle, "rows.jsonl", "-o", "out", "--json"))
    assert report["rows_out"] == ROWS
    run(folder, engine, "verify", "out")
    run(folder, engine, "demo", "--rows", "40")
    refused = run(folder, engine, "demo", "--export", code=2)
    assert refused.count("error: ") == 1, refused
    assert "engine/demo/checkpoint" in refused, refused


def run(folder: Path, *command: object, code: int = 0) -> str:
    """What a command prints, in an environment that knows nothing of the tree."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != code:
        sys.exit(f"error: {' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout if not code else done.stderr


def environment() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def resolved(wheel: Path, version: str, platforms: tuple[str, ...]) -> str:
    """Whether there are wheels of all that it needs, in the versions of constraints.txt or any."""
    with tempfile.TemporaryDirectory() as target:
        base = [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"),
            *("--disable-pip-version-check", "--target", target, "--ignore-installed"),
            *("--only-binary", ":all:", "--python-version", version, "--implementation", "cp"),
            *(word for platform in platforms for word in ("--platform", platform)),
        ]
        pinned = ["--constraint", str(ROOT / "constraints.txt")]
        for words, verdict in ((pinned, "wheels of all that it needs"), ([], "in other versions")):
            done = subprocess.run(
                [*base, *words, f"{wheel}[cpu]"], capture_output=True, text=True, check=False
            )
            if not done.returncode:
                return verdict
    return f"NOT resolved: {(done.stderr.strip().splitlines() or [''])[-1]}"


if __name__ == "__main__":
    main()
