"""Make a virtual environment, or bring it up to date.

``environment.py FOLDER [--python X.Y] [--install REQUIREMENT]…``

An environment is made anew when what it was made from has changed: the dependencies in ``pyproject.toml`` or
the interpreter. Otherwise only what was not installed yet is installed. What was done is kept in the
environment itself, so removing the folder forgets it. The project is installed in editable form. Runs on the
bare interpreter: standard library only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Do what the command line says; 0 also where an interpreter that was asked for does not exist."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", metavar="X.Y", help="version of the interpreter; without it, this one")
    parser.add_argument("--install", action="append", default=[], metavar="REQUIREMENT")
    options = parser.parse_args()

    python = find_python(options.python) if options.python else sys.executable
    if python is None:
        print(f"SKIPPED: {options.folder}: there is no Python {options.python} on this machine", flush=True)
        shutil.rmtree(options.folder, ignore_errors=True)
        options.folder.mkdir(parents=True)
        return 0
    bring_up_to_date(options.folder, python, options.install)
    return 0


def bring_up_to_date(folder: Path, python: str, requirements: list[str]) -> None:
    """Make the environment if it is missing or outdated, and install the requirements that it lacks.

    Raises:
        subprocess.CalledProcessError: ``venv`` or ``pip`` failed; they have said why.
    """
    record = folder / ".made-from.json"
    made = json.loads(record.read_text()) if record.exists() else {}
    origin = [str(ROOT), subprocess.run([python, "-VV"], check=True, capture_output=True, text=True).stdout]
    installed = made.get("installed", {})
    if made.get("origin") != origin or any(meaning(name) != then for name, then in installed.items()):
        installed = {}
        say(f"making {folder}")
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    for requirement in requirements:
        if requirement in installed:
            continue
        say(f"installing {requirement} into {folder}")
        what = ["--editable", requirement] if requirement.startswith(".") else [requirement]
        pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "install", "-qq", "--no-input"]
        subprocess.run([*pip, "--disable-pip-version-check", *what], check=True, cwd=ROOT)
        installed[requirement] = meaning(requirement)
    record.write_text(json.dumps({"origin": origin, "installed": installed}))


def meaning(requirement: str) -> list[object]:
    """Return what a requirement stands for now: for this project and its extras, what ``pyproject.toml`` says."""
    if not requirement.startswith("."):
        return []
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = about["project"]
    extras = [name for name in requirement.strip(".[]").split(",") if name]
    wanted = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    return [*wanted, project["requires-python"], project["scripts"], about["build-system"]]


def find_python(version: str) -> str | None:
    """Return an interpreter of this version that works, on the path or one of pyenv's; ``None`` for none."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")))
    for candidate in filter(None, candidates):
        # What is found may be a shim for a version that is not installed, so it has to prove itself.
        probe = subprocess.run([candidate, "-c", "import ensurepip"], check=False, capture_output=True)
        if probe.returncode == 0:
            return candidate
    return None


def say(what: str) -> None:
    """Print a line of progress."""
    print(f"venv: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
