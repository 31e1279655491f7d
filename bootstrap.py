"""From a fresh checkout to a running everyitem: `python3 bootstrap.py demo | test | shell`.

Makes `.venv` beside this file: the hash-pinned packages of a lock, a torch that suits the machine, and the C++ core
built in place. `test` also installs what only developers need. Re-runnable: what is already there is left alone.
Needs Python >= 3.11 and nothing else. It knows nothing about recommenders.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / "bootstrap.stamp"
UV_PIN = "uv==0.13.9"
TORCH_VERSION = "2.13.0"
USER_LOCK, DEV_LOCK = "requirements.lock", "requirements-dev.lock"
BUILD_TOOLS = {"cmake": "cmake==4.4.4", "ninja": "ninja==1.13.2"}

COMMANDS: dict[str, list[str]] = {
    "demo": [str(VENV / "bin" / "everyitem"), "demo"],
    "test": [str(PYTHON), "-m", "pytest"],
    "shell": [str(PYTHON), "-i", "-c", "import everyitem as ei; print(f'everyitem {ei.__version__}, imported as ei')"],
}


def main(arguments: list[str]) -> int:
    """Set up what is missing, then run the command with the rest of the arguments; returns its exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python3 bootstrap.py {' | '.join(COMMANDS)} [arguments for it]", file=sys.stderr)
        return 2
    try:
        set_up(DEV_LOCK if arguments[0] == "test" else USER_LOCK)
    except KeyboardInterrupt:
        return 130
    except subprocess.CalledProcessError as error:
        print(f"bootstrap: this failed, its output is above: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    return run_child([*COMMANDS[arguments[0]], *arguments[1:]])


def set_up(lock: str) -> None:
    """Every step that brings `.venv` up to date, or nothing at all when its stamp is current.

    Where the packages of the developers have been installed, they are kept up to date whatever is asked for.
    """
    if complaint := missing_prerequisite():
        sys.exit(f"bootstrap: {complaint}")
    current = STAMP.read_text() if STAMP.exists() else ""
    if current.startswith(DEV_LOCK):
        lock = DEV_LOCK
    stamp = f"{lock} {fingerprint(ROOT, lock)}"
    if current == stamp:
        return
    STAMP.unlink(missing_ok=True)
    start = time.perf_counter()
    for title, step in (
        (f"making {VENV.name} with {UV_PIN}", make_venv),
        (f"installing the packages of {lock}", partial(install_lock, lock)),
        (f"installing torch {TORCH_VERSION}", install_torch),
        ("building everyitem", build_package),
    ):
        timed(title, step)
    STAMP.write_text(stamp)
    print(f"bootstrap: ready in {time.perf_counter() - start:.1f} s", flush=True)


def missing_prerequisite() -> str | None:
    """What only the user can put right, as got / allowed / remedy; None when all is there."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.version_info < (3, 11):  # noqa: UP036 -- an older Python runs into this line
        return f"this is Python {version}; everyitem needs 3.11 or newer: run me with it, `python3.11 bootstrap.py ...`"
    if not UV.exists() and not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        return f"Python {version} came without venv; on Debian or Ubuntu: `apt install python{version}-venv`"
    return None


def fingerprint(root: Path, lock: str) -> str:
    """A digest of all that decides what `.venv` must hold; a compiler that appears later counts, so it is then used."""
    sources = [root / name for name in ("bootstrap.py", lock, "pyproject.toml", "CMakeLists.txt")]
    sources += sorted(path for path in (root / "native").rglob("*") if path.is_file())
    digest = hashlib.sha256(repr((str(VENV), sys.version_info[:2], find_compiler())).encode())
    for path in sources:
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def timed(title: str, step: Callable[[], None]) -> None:
    """Run one step between two halves of a line: what it is, and how long it took."""
    start = time.perf_counter()
    print(f"bootstrap: {title} ...", end=" ", flush=True)
    step()
    print(f"{time.perf_counter() - start:.1f} s", flush=True)


def make_venv() -> None:
    """The virtual environment, and uv inside it: pip alone would need four times as long for the rest."""
    if UV.exists():
        return
    run([sys.executable, "-m", "venv", str(VENV)])
    run([str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV_PIN])


def install_lock(lock: str) -> None:
    """All packages but torch, every file checked against its hash. A lock is complete, so nothing is resolved."""
    uv_install("--no-deps", "--require-hashes", "-r", str(ROOT / lock))


def install_torch() -> None:
    """The first source of torch that works here; on a machine without a GPU the small CPU build comes first."""
    if any(VENV.glob(f"lib/python*/site-packages/torch-{TORCH_VERSION}*.dist-info")):
        return
    *attempts, last = torch_sources(has_gpu(), wheel_folders(os.environ))
    for command in attempts:
        if subprocess.run(command, env=uv_environment(), capture_output=True).returncode == 0:
            return
        print(f"not by {' '.join(command[-2:])} ...", end=" ", flush=True)
    run(last)


def torch_sources(gpu: bool, folders: list[str]) -> list[list[str]]:
    """Commands that install torch, best first; the last is plain pip, which also reads pip's configuration files."""
    torch = f"torch=={TORCH_VERSION}"
    pip = [str(PYTHON), "-m", "pip", "install", "--no-compile", torch]
    if gpu:
        return [uv_command("--torch-backend=auto", torch), pip]
    has_wheel = any(any(Path(folder).glob(f"torch-{TORCH_VERSION}+cpu-*.whl")) for folder in folders)
    local = [uv_command(f"{torch}+cpu")] if has_wheel else []
    return [*local, uv_command("--torch-backend=cpu", torch), pip]


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers on this machine."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def wheel_folders(environ: Mapping[str, str]) -> list[str]:
    """Where pip was told to look for wheels."""
    return environ.get("PIP_FIND_LINKS", "").split()


def build_package() -> None:
    """everyitem itself, in place: edits in src/ count at once, edits in native/ at the next bootstrap."""
    compiler = find_compiler()
    if compiler and (missing := [pin for tool, pin in BUILD_TOOLS.items() if shutil.which(tool) is None]):
        uv_install(*missing)
    uv_install("--no-build-isolation", "--no-deps", "--reinstall-package", "everyitem", "--editable", str(ROOT))
    if any(VENV.glob("lib/python*/site-packages/everyitem/_native*")):
        return
    cause = "its build failed" if compiler else "no C++ compiler found (Debian: `apt install g++`)"
    print(f"\nbootstrap: going on without the C++ core, {cause}. Results are the same, on NumPy, but slower.")
    if compiler:
        print(f"bootstrap: to see why: {' '.join(uv_command('-v', '--no-build-isolation', '--no-deps', '-e', '.'))}")


def find_compiler() -> str | None:
    """The C++ compiler that CMake will pick, or None."""
    names = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


def uv_install(*arguments: str) -> None:
    """`uv pip install` into `.venv`; its output is shown only when it fails."""
    run(uv_command(*arguments), env=uv_environment())


def uv_command(*arguments: str) -> list[str]:
    """The full command line of `uv pip install` into `.venv`."""
    return [str(UV), "pip", "install", "--python", str(PYTHON), *arguments]


def uv_environment() -> dict[str, str]:
    """uv does not read pip's settings: hand it the wheel folders, and let it find cmake and ninja in `.venv`."""
    environment = {**os.environ, "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    if folders := wheel_folders(os.environ):
        environment.setdefault("UV_FIND_LINKS", ",".join(folders))
    return environment


def run(command: list[str], env: Mapping[str, str] | None = None) -> None:
    """Run quietly; show what it printed and raise when it fails."""
    result = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        print(f"\n{result.stdout}", file=sys.stderr)
        result.check_returncode()


def run_child(command: list[str]) -> int:
    """Run in the project's folder and pass the exit code through; 130 when Ctrl-C ended it, 128 + n for signal n."""
    interrupts: list[int] = []
    # The terminal sends Ctrl-C to the child as well: it decides what that means, we only wait for it.
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    code = subprocess.call(command, cwd=ROOT)
    if interrupts and code:
        return 130
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
