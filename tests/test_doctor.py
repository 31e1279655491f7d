import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from everyitem import doctor

REPORT = doctor.report()
GIB = 2**20  # in the kB of /proc/meminfo


def test_a_report_survives_json():
    assert json.loads(json.dumps(REPORT)) == REPORT


def test_whatever_is_not_in_order_has_a_remedy():
    assert [name for name, check in REPORT.items() if not check["ok"] and not check["remedy"]] == []


def test_looking_does_not_import_torch():
    program = "import sys; from everyitem import doctor; doctor.report(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def core_in_a_process_with(cpu: str) -> doctor.Check:
    """The finding about the core where EVERYITEM_CPU is set: the core reads it once per process."""
    program = "import json; from everyitem import doctor; print(json.dumps(doctor.report()['c++ core']))"
    environment = os.environ | {"EVERYITEM_CPU": cpu}
    return json.loads(subprocess.check_output([sys.executable, "-c", program], env=environment))


@pytest.mark.skipif(
    "built" not in REPORT["c++ core"]["found"].split(";")[0].split(), reason="the C++ core is not built"
)
def test_the_kernel_in_use_is_named():
    core = core_in_a_process_with("scalar")
    assert core["ok"]
    assert "scalar kernels" in core["found"]
    core = core_in_a_process_with("abacus")
    assert not core["ok"]
    assert "'abacus'" in core["remedy"]


@pytest.mark.parametrize(
    ("cpuinfo", "ok", "found"),
    [
        ({"model name": "Zen 5", "flags": "fpu avx2 avx512vbmi"}, True, "Zen 5: avx2 avx512vbmi"),
        ({"Features": "fp asimd sve"}, True, ": asimd sve"),
        ({"model name": "Old", "flags": "fpu sse2"}, False, "Old: no vector unit that we use"),
    ],
)
def test_the_processor_is_told_by_its_vector_units(cpuinfo, ok, found):
    check = doctor._processor(cpuinfo)
    assert check["ok"] == ok
    assert check["found"].endswith(found)


@pytest.mark.parametrize(("free", "ok"), [(8, True), (2, True), (1, False)])
def test_little_memory_is_a_warning(free, ok):
    check = doctor._memory({"MemTotal": f"{16 * GIB} kB", "MemAvailable": f"{free * GIB} kB"})
    assert check["ok"] == ok
    assert check["found"] == f"{free}.0 GiB free of 16.0 GiB"


@pytest.mark.parametrize(
    ("version", "ok"), [("2.13.0+cpu", True), ("2.10.0", True), ("2.9.1", False), ("3.0", True), (None, True)]
)
def test_torch_is_optional_but_not_an_unsafe_one(version, ok):
    assert doctor._torch(version)["ok"] == ok


def test_the_table_shows_every_finding_and_remedy():
    console = Console(width=200, record=True, file=io.StringIO())
    doctor.show({"disk": doctor._disk(10**9), "polars": doctor._disk(10**11)}, console)
    first, second = console.export_text().splitlines()[1:]
    assert first.split()[:3] == ["warn", "disk", "0.9"]
    assert "keep 2.0 GiB free" in first
    assert second.split()[:3] == ["ok", "polars", "93.1"]
