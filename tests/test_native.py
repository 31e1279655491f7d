"""The C++ core by itself: no read outside an array, no undefined behaviour, no race; the same answers on Arm."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
SOURCES = [path for path in sorted(NATIVE.glob("*.cpp")) if path.name != "bind.cpp"]
CPU_FLAGS = {"kernels_avx2": ["-mavx2"], "kernels_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vbmi"]}
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-D_GLIBCXX_ASSERTIONS"]
COMPILER = shutil.which("c++")


CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")


def build(folder: Path, compiler: str, flags: list[str], *, x86: bool) -> Path:
    """The test program, built as CMakeLists.txt builds the core: CPU flags for the kernels alone."""
    jobs = []
    for source in [*SOURCES, ROOT / "tests" / "native" / "search_test.cpp"]:
        own = CPU_FLAGS.get(source.stem, []) if x86 else []
        out = folder / f"{source.stem}.o"
        command = [compiler, *FLAGS, *flags, f"-I{NATIVE}", *own, "-c", str(source), "-o", str(out)]
        jobs.append((out, subprocess.Popen(command)))
    assert all(job.wait() == 0 for _, job in jobs)
    program = folder / "search_test"
    link = [compiler, *FLAGS, *flags, *(str(out) for out, _ in jobs), "-pthread", "-o", str(program)]
    subprocess.run(link, check=True)
    return program


def passes(command: list[str], cases: int) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert f"{cases} cases" in result.stdout


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
@pytest.mark.parametrize(("sanitizer", "cases", "threads"), [("address,undefined", 60, 1), ("thread", 20, 3)])
def test_every_algorithm_on_every_kernel_under_the_sanitizers(
    tmp_path: Path, sanitizer: str, cases: int, threads: int
) -> None:
    assert COMPILER is not None
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    probe = [COMPILER, *FLAGS, *flags, "-x", "c++", "-", "-o", str(tmp_path / "probe")]
    if subprocess.run(probe, input="int main() {}", text=True, capture_output=True).returncode:
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")
    program = build(tmp_path, COMPILER, flags, x86=platform.machine() in ("x86_64", "AMD64"))
    passes([str(program), str(cases), str(threads)], cases)


@pytest.mark.skipif(
    CROSS is None or EMULATOR is None,
    reason="no emulated Arm here (Debian: apt install g++-aarch64-linux-gnu qemu-user)",
)
def test_every_algorithm_on_neon(tmp_path: Path) -> None:
    assert CROSS is not None
    assert EMULATOR is not None
    program = build(tmp_path, CROSS, ["-static"], x86=False)
    passes([EMULATOR, str(program), "60", "2"], 60)
