"""The arrows of ARCHITECTURE.md: which room may know which, read from the source without running it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "everyitem"
NATIVE = ROOT / "native"
TREES = {path.relative_to(SRC).as_posix(): ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}

ROOMS_KNOWN_TO = {
    "types": set(),
    "quantise": {"types"},
    "memory": {"types"},
    "data": {"types"},
    "model": {"types"},
    "index": {"types", "quantise", "_native"},
    "compress": {"types", "quantise", "model"},
    # The doors read logs and tables in the user's own ids, so they know data as well.
    "model_folder": {"types", "memory", "data", "index"},
    "session": {"types", "index", "model", "recommender"},
    "popularity": {"types", "index"},
    "explanation": {"types", "index"},
    "likeness": {"types", "index"},
    "recommender": {
        *("types", "memory", "popularity", "data", "model", "index"),
        *("model_folder", "explanation", "likeness"),
    },
    "evaluate": {"types", "data", "index", "recommender"},
    "bench": {"types", "index"},
    "serve": {"types", "data", "index", "model_folder", "recommender"},
}
FILES_THAT_KNOW = {
    "torch": ("model/", "compress/", "learn/"),
    "transformers": ("model/llm.py", "compress/"),
    "ray": ("serve/cluster.py",),
    "fastapi": ("serve/http.py", "serve/compatible.py", "serve/page"),
    "everyitem._native": ("index/",),
}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"}
NAMES_THAT_SAY_NOTHING = {
    "base",
    "common",
    "factory",
    "helper",
    "helpers",
    "manager",
    "misc",
    "registry",
    "util",
    "utils",
}
LONGEST_FILE = 399


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a file, `from a import b` as `a.b`, `import_module("a")` as `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
    for name, call in calls(tree):
        if name.endswith("import_module") and isinstance(call.args[0], ast.Constant):
            yield call.args[0].value


def room_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    return ((ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def public_functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its public classes, by name."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node


@pytest.mark.parametrize("room", ROOMS_KNOWN_TO)
def test_a_room_knows_only_the_rooms_below_it(room):
    known = ROOMS_KNOWN_TO[room] | {room, "", "__version__"}
    wrong = [
        f"{path} imports {module}"
        for path, tree in TREES.items()
        if room_of(path) == room
        for module in imports(tree)
        if inside(module, "everyitem") and f"{module}.".split(".")[1] not in known
    ]
    assert wrong == []


@pytest.mark.parametrize("package", FILES_THAT_KNOW)
def test_a_package_is_known_only_where_it_belongs(package):
    wrong = [
        path
        for path, tree in TREES.items()
        if not path.startswith(FILES_THAT_KNOW[package]) and any(inside(module, package) for module in imports(tree))
    ]
    assert wrong == []


def test_imports_are_written_in_full():
    assert [(path, m) for path, tree in TREES.items() for m in imports(tree) if m.startswith(".")] == []


def test_only_the_bindings_know_python():
    files = [path for path in NATIVE.rglob("*") if path.suffix in {".h", ".cpp", ".inl"}]
    sources = [path for path in files if not path.name.startswith("bind")]
    includes = {
        path.name: [line for line in path.read_text().splitlines() if line.startswith("#include")] for path in sources
    }
    assert sources
    assert [name for name, lines in includes.items() if any("Python.h" in x or "nanobind" in x for x in lines)] == []


def test_all_but_the_training_rooms_import_without_torch():
    modules = ["everyitem." + path.removesuffix(".py").replace("/", ".") for path in TREES if "__" not in path]
    learns = (
        *("everyitem.learn.run", "everyitem.learn.folder", "everyitem.learn.remember"),
        *("everyitem.learn.pruning", "everyitem.learn.semantic", "everyitem.learn.shrink", "everyitem.learn.titles"),
        "everyitem.learn.bigrec",
    )
    trains = ("everyitem.model.", "everyitem.compress.", *learns)
    torch_free = [m for m in modules if not m.startswith(trains)]
    assert "everyitem.learn.fit" in torch_free  # the command line reads its signature
    program = f"""
import importlib, sys
for name in ["everyitem", "everyitem.index", *{torch_free}]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name.startswith("everyitem"):
            raise  # any other is an extra that is not installed here
    if "torch" in sys.modules:
        sys.exit(f"{{name}} imports torch")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_file_can_run_code_from_data():
    unsafe = [(path, m) for path, tree in TREES.items() for m in imports(tree) if m.split(".")[0] in UNSAFE_MODULES]
    for path, tree in TREES.items():
        for name, call in calls(tree):
            loads_arrays = name in {"np.load", "numpy.load"}
            refuses_pickle = any(ast.unparse(keyword) == "allow_pickle=False" for keyword in call.keywords)
            if name in UNSAFE_CALLS or (loads_arrays and not refuses_pickle):
                unsafe.append((path, ast.unparse(call)))
    assert unsafe == []


def test_every_public_function_says_what_it_does_and_returns():
    silent = [
        f"{path}: {name}"
        for path, tree in TREES.items()
        for name, function in public_functions(tree.body)
        if ast.get_docstring(function) is None or function.returns is None
    ]
    assert silent == []


def test_every_module_says_what_it_knows():
    assert [path for path, tree in TREES.items() if ast.get_docstring(tree) is None] == []


def house_files() -> list[Path]:
    folders = [SRC, NATIVE, ROOT / "tests", ROOT / "benchmarks", ROOT / "runs"]
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".h", ".cpp", ".inl"}]
    return [*found, ROOT / "bootstrap.py"]


def test_files_are_short():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in house_files()}
    assert {path: n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_names_say_something():
    names = {part.removesuffix(path.suffix) for path in house_files() for part in path.relative_to(ROOT).parts}
    assert names & NAMES_THAT_SAY_NOTHING == set()
