"""The C++ core by itself, under the sanitizers: no read outside an array, no undefined behaviour, no race."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
SOURCES = [path for path in sorted(NATIVE.glob("*.cpp")) if path.name != "bind.cpp"]
CPU_FLAGS = {"kernels_avx2": ["-mavx2"], "kernels_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vbmi"]}
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-D_GLIBCXX_ASSERTIONS", "-fno-sanitize-recover=all"]
COMPILER = shutil.which("c++")


def build(folder: Path, sanitizer: str) -> Path:
    """The test program, built as CMakeLists.txt builds the core: CPU flags for the kernels alone."""
    flags = [*FLAGS, f"-fsanitize={sanitizer}", f"-I{NATIVE}"]
    probe = [str(COMPILER), *flags, "-x", "c++", "-", "-o", str(folder / "probe")]
    if subprocess.run(probe, input="int main() {}", text=True, capture_output=True).returncode:
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")
    x86 = platform.machine() in ("x86_64", "AMD64")
    jobs = []
    for source in [*SOURCES, ROOT / "tests" / "native" / "search_test.cpp"]:
        own = CPU_FLAGS.get(source.stem, []) if x86 else []
        out = folder / f"{source.stem}.o"
        jobs.append((out, subprocess.Popen([str(COMPILER), *flags, *own, "-c", str(source), "-o", str(out)])))
    assert all(job.wait() == 0 for _, job in jobs)
    program = folder / "search_test"
    link = [str(COMPILER), *flags, *(str(out) for out, _ in jobs), "-pthread", "-o", str(program)]
    subprocess.run(link, check=True)
    return program


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
@pytest.mark.parametrize(("sanitizer", "cases", "threads"), [("address,undefined", 60, 1), ("thread", 20, 3)])
def test_every_algorithm_on_every_kernel_under_the_sanitizers(
    tmp_path: Path, sanitizer: str, cases: int, threads: int
) -> None:
    program = build(tmp_path, sanitizer)
    result = subprocess.run([str(program), str(cases), str(threads)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert f"{cases} cases" in result.stdout
