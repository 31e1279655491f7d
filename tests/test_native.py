"""The C++ core by itself: the answers of an oracle, on every kernel; no read outside an array, no race; on Arm too."""

import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
CORE = [path for path in sorted(NATIVE.glob("*.cpp")) if path.name != "bind.cpp"]
LAWS, FUZZ = (ROOT / "tests" / "native" / name for name in ("laws_test.cpp", "search_fuzz.cpp"))
CPU_FLAGS = {"kernels_avx2": ["-mavx2"], "kernels_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vbmi", "-mavx512vbmi2"]}
FLAGS = ["-std=c++20", "-g", "-ffp-contract=off", "-D_GLIBCXX_ASSERTIONS", f"-I{NATIVE}"]
MODES = ("random", "ulp", "bytes", "two-level")

COMPILER, CLANG = shutil.which("c++"), shutil.which("clang++")
CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")

# Objects for a fuzzer run in any other program too, so that one compilation does for both.
FUZZED = ["-O1", "-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=all"]
FUZZER = ["-fsanitize=fuzzer,address,undefined"]

Build = Callable[[str, list[str], list[Path], list[str]], Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds as CMakeLists.txt does, CPU flags for the kernels alone; a file is compiled once per set of flags."""
    folders: dict[tuple[str, ...], Path] = {}

    def program(compiler: str, flags: list[str], tests: list[Path], link: list[str]) -> Path:
        key = (compiler, *flags)
        folder = folders.setdefault(key, tmp_path_factory.mktemp("native", numbered=True))
        objects = {source: folder / f"{source.stem}.o" for source in [*tests, *CORE]}  # the longest job first
        x86 = compiler != CROSS and platform.machine() in ("x86_64", "AMD64")
        jobs = []
        for source, out in objects.items():
            own = CPU_FLAGS.get(source.stem, []) if x86 else []
            if not out.exists():
                jobs.append(subprocess.Popen([compiler, *FLAGS, *flags, *own, "-c", source, "-o", out]))
        assert [job.wait() for job in jobs] == [0] * len(jobs)
        made = folder / "_".join(test.stem for test in tests)
        subprocess.run([compiler, *flags, *link, *objects.values(), "-pthread", "-o", made], check=True)
        return made

    return program


def passes(*commands: list[str | Path]) -> None:
    """All of them, at once: none uses more than one core."""
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for one in commands]
    outputs = [process.communicate()[0] for process in running]
    for command, process, output in zip(commands, running, outputs, strict=True):
        assert process.returncode == 0, f"{' '.join(map(str, command))}\n{output[-4000:]}"


def links(compiler: str | None, flags: list[str], source: str) -> bool:
    """Whether a compiler is there and has what the flags ask for."""
    command = [compiler or "false", *flags, "-x", "c++", "-", "-o", "/dev/null"]
    return subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0


def fuzzes() -> bool:
    source = '#include <cstdint>\nextern "C" int LLVMFuzzerTestOneInput(const uint8_t*, unsigned long) { return 0; }'
    return links(CLANG, FUZZER, source)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
def test_every_algorithm_on_every_kernel_answers_as_the_oracle_does(build: Build) -> None:
    assert COMPILER is not None
    program = build(COMPILER, ["-O2"], [LAWS, FUZZ], [])
    passes(
        [program, "10000", "0", "1", "random"],
        [program, "50000", "0", "1", "ulp"],
        [program, "50000", "50000", "1", "ulp"],
        [program, "10000", "0", "1", "bytes"],
        [program, "3000", "0", "1", "two-level"],
    )


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
@pytest.mark.parametrize(("sanitizer", "cases", "threads"), [("address,undefined", 400, 1), ("thread", 60, 3)])
def test_the_same_under_the_sanitizers(build: Build, sanitizer: str, cases: int, threads: int) -> None:
    assert COMPILER is not None
    compiler, flags = COMPILER, ["-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    if "address" in sanitizer and CLANG and fuzzes():
        compiler, flags = CLANG, FUZZED
    if not links(compiler, flags, "int main() {}"):
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")
    program = build(compiler, flags, [LAWS, FUZZ], [])
    passes(*([program, str(cases), "0", str(threads), mode] for mode in MODES))


def test_no_bytes_lead_a_search_astray(build: Build, tmp_path: Path) -> None:
    if CLANG is None or not fuzzes():
        pytest.skip("no clang++ with libFuzzer here (Debian: apt install clang)")
    program = build(CLANG, FUZZED, [FUZZ], FUZZER)
    # what it counts as its memory begins at pytest's, which started it (Linux keeps ru_maxrss across exec)
    limits = ["-rss_limit_mb=0", "-malloc_limit_mb=512"]
    passes([program, "-max_total_time=10", "-max_len=4096", "-len_control=0", *limits, f"-artifact_prefix={tmp_path}/"])


@pytest.mark.skipif(
    CROSS is None or EMULATOR is None,
    reason="no emulated Arm here (Debian: apt install g++-aarch64-linux-gnu qemu-user)",
)
def test_the_same_on_neon(build: Build) -> None:
    assert CROSS is not None
    assert EMULATOR is not None
    program = build(CROSS, ["-O2", "-static"], [LAWS, FUZZ], [])
    passes(*([EMULATOR, program, "300", "0", "2", mode] for mode in MODES))
