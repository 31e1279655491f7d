"""Is this machine ready? Knows versions, the processor, memory and disk; knows no log, model or index.

Nothing here imports torch: what is installed is read from the packages' metadata.
"""

import os
import platform
import shutil
import warnings
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table

import everyitem
from everyitem.index.core import load_core

TORCH_FLOOR = (2, 10)
"""Older ones have CVE-2026-24747."""
CPU_FEATURES = ("avx2", "avx512bw", "avx512vl", "avx512vbmi", "avx512_bf16", "amx_bf16", "asimd", "sve")
MEMORY_FLOOR = DISK_FLOOR = 2 * 2**30


class Check(TypedDict):
    """One thing that was looked at."""

    ok: bool
    found: str
    remedy: str | None


def report() -> dict[str, Check]:
    """Everything that decides how well everyitem runs here, name -> finding; JSON-ready.

    `ok` is False where something is missing or will be slow, and then `remedy` says what to do about it. An optional
    package that is absent is in order; its `remedy` says what it would be good for.

    Cost: under a second, nearly all of it the import of onnxruntime.
    """
    return {
        "python": _ok(f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        "everyitem": _ok(everyitem.__version__),
        "c++ core": _core(),
        "processor": _processor(_proc("cpuinfo")),
        "cores": _ok(f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"),
        "memory": _memory(_proc("meminfo")),
        "disk": _disk(shutil.disk_usage(Path.cwd()).free),
        "torch": _torch(_version("torch")),
        "onnxruntime": _onnxruntime(),
        "polars": _ok(metadata.version("polars")),
    }


def show(checks: dict[str, Check], console: Console) -> None:
    """Print a report as a table: a mark, what was found, what to do."""
    table = Table(box=None, pad_edge=False)
    for header in ("", "", "found", "remedy"):
        table.add_column(header, style="bold" if header == "" else None, overflow="fold")
    for name, check in checks.items():
        mark = "[green]ok[/]" if check["ok"] else "[yellow]warn[/]"
        table.add_row(mark, name, check["found"], check["remedy"] or "")
    console.print(table)


def _ok(found: str, remedy: str | None = None) -> Check:
    return Check(ok=True, found=found, remedy=remedy)


def _warn(found: str, remedy: str) -> Check:
    return Check(ok=False, found=found, remedy=remedy)


def _core() -> Check:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the remedy below says it better
            core = load_core()
        if core.__name__ == "everyitem._native":
            return _ok(f"built; {core.cpu()} kernels, of {' '.join(core.cpus())}")
    except (ImportError, ValueError) as error:  # a missing library, or an EVERYITEM_CPU that this machine cannot run
        return _warn("does not start", str(error))
    return _warn(
        "not built: searches run on NumPy, with the same results but 10 to 100 times slower",
        "install a C++20 compiler (Debian: apt install g++ cmake) and reinstall everyitem",
    )


def _processor(cpuinfo: dict[str, str]) -> Check:
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    found = [name for name in CPU_FEATURES if name in flags]
    model = cpuinfo.get("model name", platform.machine())
    if found:
        return _ok(f"{model}: {' '.join(found)}")
    return _warn(f"{model}: no vector unit that we use", "searches run on the scalar kernels; use a newer processor")


def _memory(meminfo: dict[str, str]) -> Check:
    total, free = (int(meminfo[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    found = f"{_gib(free)} free of {_gib(total)}"
    if free >= MEMORY_FLOOR:
        return _ok(found)
    return _warn(found, f"training wants {_gib(MEMORY_FLOOR)} free; serving needs the index's size and about 0.4 GiB")


def _disk(free: int) -> Check:
    found = f"{_gib(free)} free here"
    if free >= DISK_FLOOR:
        return _ok(found)
    return _warn(found, f"a new index version is written beside the old one; keep {_gib(DISK_FLOOR)} free")


def _torch(version: str | None) -> Check:
    if version is None:
        return _ok("not installed", "only training needs it: pip install 'everyitem[train]'")
    if tuple(int(part) for part in version.split(".")[:2]) >= TORCH_FLOOR:
        return _ok(version)
    return _warn(version, "versions below 2.10 are unsafe (CVE-2026-24747): pip install -U torch")


def _onnxruntime() -> Check:
    import onnxruntime  # takes a quarter of a second, so not at the top

    return _ok(f"{onnxruntime.__version__}, {' '.join(onnxruntime.get_available_providers())}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _proc(name: str) -> dict[str, str]:
    """The `key : value` lines of a file in /proc; of repeated keys (one per core) the last."""
    lines = (Path("/proc") / name).read_text().splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
