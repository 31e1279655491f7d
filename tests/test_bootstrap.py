import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ["bootstrap.py", "pyproject.toml", "CMakeLists.txt", "native/bind.cpp"]
LOCKS = ["requirements.lock", "requirements-dev.lock"]


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


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A checkout of small files with nothing to install; the locks that a set-up would have installed."""
    for name in (*INPUTS, *LOCKS, ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    installed = []
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / "stamp")
    monkeypatch.setattr(bootstrap, "install_lock", installed.append)
    monkeypatch.setattr(bootstrap, "run_child", lambda command: 0)
    for step in ("make_venv", "install_torch", "build_package"):
        monkeypatch.setattr(bootstrap, step, lambda: None)
    return SimpleNamespace(root=tmp_path, installed=installed)


@pytest.mark.parametrize(
    ("commands", "locks"),
    [
        (["demo", "shell", "demo"], ["requirements.lock"]),
        (["test", "shell", "demo", "test"], ["requirements-dev.lock"]),
        (["demo", "test", "shell"], ["requirements.lock", "requirements-dev.lock"]),
    ],
)
def test_every_package_is_installed_once_and_a_developers_only_for_tests(checkout, commands, locks):
    assert [bootstrap.main([command]) for command in commands] == [0] * len(commands)
    assert checkout.installed == locks


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("changed", [*INPUTS, None])
def test_a_change_of_any_input_is_installed_from_the_same_lock(checkout, changed, lock):
    command = "test" if lock == "requirements-dev.lock" else "shell"
    bootstrap.main([command])
    (checkout.root / (changed or lock)).write_text("changed")
    bootstrap.main(["shell"])
    assert checkout.installed == [lock, lock]


def test_a_set_up_that_failed_is_done_again(checkout, monkeypatch):
    def fails(lock):
        raise subprocess.CalledProcessError(1, ["uv"])

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install_lock", fails)
        assert bootstrap.main(["demo"]) == 1
    assert bootstrap.main(["demo"]) == 0
    assert checkout.installed == ["requirements.lock"]


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


# The locks


@cache
def lines_of(lock: str) -> list[str]:
    text = (ROOT / lock).read_text()
    return "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", "").splitlines()


def pinned(lock: str) -> dict[str, str]:
    """Name -> version of everything that a lock installs on this machine."""
    requirements = [Requirement(line.split("--hash")[0]) for line in lines_of(lock)]
    chosen = [r for r in requirements if r.marker is None or r.marker.evaluate()]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in chosen}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_by_version_and_hash(lock):
    entry = re.compile(r"[a-z0-9.-]+==[\w.]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert [line for line in lines_of(lock) if not entry.fullmatch(line)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_leaves_torch_and_its_cuda_packages_to_the_machine(lock):
    assert [name for name in pinned(lock) if re.match(r"torch$|triton|nvidia-|cuda-", name)] == []


def test_developers_get_what_users_get_and_users_get_no_tools():
    user, dev = map(pinned, LOCKS)
    assert user.items() < dev.items()
    assert user.keys().isdisjoint({"pytest", "ruff", "mypy", "playwright", "schemathesis"})


@pytest.mark.parametrize(("lock", "extras"), [(LOCKS[0], ["llm", "serve"]), (LOCKS[1], ["llm", "serve", "dev"])])
def test_a_lock_holds_all_that_it_needs(lock, extras):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [Requirement(f"everyitem[{','.join(extras)}]"), *map(Requirement, settings["build-system"]["requires"])]
    pins, seen = pinned(lock) | {"torch": bootstrap.TORCH_VERSION, "everyitem": settings["project"]["version"]}, set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if str(requirement) in seen or re.match(r"triton|nvidia-|cuda-", name):
            continue
        seen.add(str(requirement))
        assert name in pins, f"{name} is missing in {lock}"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement} but {pins[name]} is pinned"
        wanted += [r for r in map(Requirement, requires(name) or []) if applies(r, requirement.extras)]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a dependency counts here, for one of these extras or for none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in [*extras, ""])
