import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ["bootstrap.py", "requirements.lock", "pyproject.toml", "CMakeLists.txt", "native/bind.cpp"]


def load_bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()


# Before anything is installed


@pytest.mark.parametrize("arguments", [[], ["install"], ["--help"]])
def test_an_unknown_command_is_answered_with_the_known_ones(arguments):
    result = subprocess.run([sys.executable, ROOT / "bootstrap.py", *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert "demo | test | shell" in result.stderr


class Version(NamedTuple):
    major: int
    minor: int


def test_an_old_python_is_told_which_one_to_run(monkeypatch):
    monkeypatch.setattr(bootstrap, "sys", SimpleNamespace(version_info=Version(3, 10)))
    assert "Python 3.10; everyitem needs 3.11 or newer" in bootstrap.missing_prerequisite()


def test_a_python_without_ensurepip_is_told_the_debian_package(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "UV", tmp_path / "uv")
    monkeypatch.setattr(bootstrap, "sys", SimpleNamespace(version_info=Version(3, 12)))
    monkeypatch.setattr(bootstrap, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    assert "apt install python3.12-venv" in bootstrap.missing_prerequisite()


def test_the_compiler_is_the_one_of_cxx(monkeypatch, tmp_path):
    compiler = tmp_path / "my-c++"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", f"{compiler} -march=native")
    assert bootstrap.find_compiler() == str(compiler)
    monkeypatch.setenv("CXX", str(tmp_path / "gone"))
    assert bootstrap.find_compiler() is None


# Where torch comes from


def test_without_a_gpu_a_cpu_wheel_at_hand_comes_before_any_index(tmp_path):
    cpu, gpu = "--torch-backend=cpu", "--torch-backend=auto"
    assert cpu in bootstrap.torch_sources(False, [str(tmp_path)])[0]
    (tmp_path / f"torch-{bootstrap.TORCH_VERSION}+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    local, *others = bootstrap.torch_sources(False, ["/nowhere", str(tmp_path)])
    assert local[-1] == f"torch=={bootstrap.TORCH_VERSION}+cpu"
    assert cpu in others[0]
    assert gpu in bootstrap.torch_sources(True, [str(tmp_path)])[0]


@pytest.mark.parametrize("gpu", [True, False])
def test_the_last_source_of_torch_is_plain_pip(gpu):
    last = bootstrap.torch_sources(gpu, [])[-1]
    assert last[1:] == ["-m", "pip", "install", "--no-compile", f"torch=={bootstrap.TORCH_VERSION}"]


def test_the_pinned_torch_is_one_that_the_package_allows():
    train = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    assert any(r.name == "torch" and bootstrap.TORCH_VERSION in r.specifier for r in map(Requirement, train))


# Doing nothing twice


@pytest.mark.parametrize("changed", INPUTS)
def test_every_input_of_the_set_up_counts_in_the_fingerprint(tmp_path, changed):
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = bootstrap.fingerprint(tmp_path)
    assert bootstrap.fingerprint(tmp_path) == before
    (tmp_path / changed).write_text("changed")
    assert bootstrap.fingerprint(tmp_path) != before


# The command's exit code is ours


def start_child(program: str) -> subprocess.Popen[str]:
    """`run_child` on a small Python program, alone in its process group, as under a terminal."""
    parent = "import sys, bootstrap; sys.exit(bootstrap.run_child([sys.executable, '-c', sys.argv[1]]))"
    return subprocess.Popen(
        [sys.executable, "-c", parent, program], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(0)", 0), ("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_an_exit_code_passes_through(program, code):
    with start_child(program) as process:
        assert process.wait(timeout=20) == code


@pytest.mark.parametrize(("answer", "code"), [("raise", 130), ("raise SystemExit(2)", 130), ("pass", 0)])
def test_ctrl_c_is_130_unless_the_command_lives_on(answer, code):
    program = f"import time\ntry:\n  print('up', flush=True); time.sleep(20)\nexcept KeyboardInterrupt: {answer}"
    with start_child(program) as process:
        assert process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=20) == code


# The lock


LOCK = "\n".join(
    line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.lstrip().startswith("#")
).replace("\\\n", "")


def pinned() -> dict[str, str]:
    """Name -> version of everything that the lock installs on this machine."""
    requirements = [Requirement(line.split("--hash")[0]) for line in LOCK.splitlines()]
    chosen = [r for r in requirements if r.marker is None or r.marker.evaluate()]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in chosen}


def test_the_lock_pins_every_package_by_version_and_hash():
    entry = re.compile(r"[a-z0-9.-]+==[\w.]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert [line for line in LOCK.splitlines() if not entry.fullmatch(line)] == []


def test_the_lock_leaves_torch_and_its_cuda_packages_to_the_machine():
    assert [name for name in pinned() if re.match(r"torch$|triton|nvidia-|cuda-", name)] == []


def test_the_lock_holds_all_that_it_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(line) for line in [*project["dependencies"], *extras["train"], *extras["dev"]]]
    pins, seen = pinned() | {"torch": bootstrap.TORCH_VERSION}, set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if str(requirement) in seen or re.match(r"triton|nvidia-|cuda-", name):
            continue
        seen.add(str(requirement))
        assert name in pins, f"{name} is missing in requirements.lock"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement} but {pins[name]} is pinned"
        wanted += [r for r in map(Requirement, requires(name) or []) if applies(r, requirement.extras)]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a dependency counts here, for one of these extras or for none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in [*extras, ""])
