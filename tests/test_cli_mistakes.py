"""Whatever is typed: exit code 0, 1, 2 or 130, one line that says what was wrong, never a traceback."""

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MODEL, LOG, NOTHING, FILE, FOLDER, OUT = "MODEL", "LOG", "NOTHING", "FILE", "FOLDER", "OUT"
MISTAKES = [
    (["recommend", NOTHING, "--history", "a"], "no model here"),
    (["recommend", FILE, "--history", "a"], "no model here"),
    (["recommend", MODEL], "give either"),
    (["recommend", MODEL, "--history", "a", "--users", LOG], "give either"),
    (["recommend", MODEL, "--users", LOG], "--users needs --out"),
    (["recommend", MODEL, "--users", NOTHING, "--out", OUT], "no such file"),
    (["recommend", MODEL, "--users", FILE, "--out", OUT], "cannot read"),
    (["recommend", MODEL, "--users", LOG, "--out", FOLDER], "in a folder that exists"),
    (["recommend", MODEL, "--users", LOG, "--out", OUT, "--k", "0"], "k is 0"),
    (["recommend", MODEL, "--history", "a", "--k", "0"], "k is 0"),
    (["recommend", MODEL, "--history", "a", "--where", "price[0] ["], "where='price[0] ['"),
    (["recommend", MODEL, "--history", "a", "--where", "nope"], "Columns: item_id"),
    (["train", NOTHING, OUT], "no such file"),
    (["train", FOLDER, OUT], "no such file"),
    (["train", LOG, FILE], "FILE"),
    (["train", LOG, OUT, "--dim", "30"], "must divide"),
    (["train", LOG, OUT, "--epochs", "0"], "epochs is 0"),
    (["evaluate", MODEL, NOTHING], "no such file"),
    (["evaluate", NOTHING, LOG], "no model here"),
    (["evaluate", MODEL, LOG, "--against", NOTHING], "no model here"),
    (["evaluate", MODEL, LOG, "--max-users", "0"], "0 histories"),
    (["index", NOTHING, OUT], "is not a file"),
    (["index", FOLDER, OUT], "is not a file"),
    (["index", FILE, OUT], "FILE"),
    (["items", "add", MODEL, NOTHING], "no such file"),
    (["items", "add", MODEL, FOLDER], "no such file"),
    (["items", "add", MODEL, FILE], "damaged or not in the format"),
    (["items", "add", MODEL, "gone.csv"], "needs a column `like`, or `title` here and in the catalogue"),
    (["items", "remove", MODEL, "gone.csv"], "'nobody' is not in the catalogue"),
    (["items", "remove", MODEL, "empty.csv"], "empty.csv"),
    (["items", "remove", MODEL, "gap.csv"], "in every row"),
    (["export", MODEL, OUT, "--queries", "3"], "--queries needs --log"),
    (["export", MODEL, FILE], "FILE"),
    (["check", NOTHING], "no such folder"),
    (["check", FILE], "no such folder"),
    (["prepare", NOTHING, OUT], "unknown source"),
    (["prepare", "ml-1m", OUT, "--raw", NOTHING], "NOTHING"),
    (["prepare", LOG, FOLDER], "not a log folder"),
]


@pytest.fixture
def places(tiny_models, tiny_log, tmp_path, monkeypatch):
    """What the capital words of a mistake stand for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("[not] what you think")
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "thesis.txt").write_text("")
    (tmp_path / "gone.csv").write_text("item_id\nnobody\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "gap.csv").write_text("item_id,x\nitem-003,1\n,2\n")
    return {MODEL: tiny_models["pq"], LOG: tiny_log}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_line_and_exit_code_2(refused, places, arguments, message):
    assert message in refused(*(places.get(a, a) for a in arguments))


@pytest.mark.parametrize("part", ["recommender.json", "items.parquet", "encoder.onnx", "index/v000001/codes.npy"])
def test_a_damaged_model_is_a_mistake_not_a_traceback(refused, copied, part):
    folder = copied("pq")
    (folder / part).write_bytes(b"[bold]" + (folder / part).read_bytes()[6:])
    assert part.rsplit("/", 1)[-1] in refused("recommend", folder, "--history", "item-003")


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["--nope"], ["recommend"], ["recommend", "x", "--k", "many"], ["items", "nope"], ["train", "x"]],
)
def test_typers_own_errors_are_exit_code_2(run, arguments):
    code, _, err = run(*arguments)
    assert code == 2
    assert "Usage" in err
    assert "Traceback" not in err


def test_interruption_is_exit_code_130(run, monkeypatch, tiny_models):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("everyitem.recommender.load", interrupt)
    assert run("recommend", tiny_models["pq"], "--history", "a")[0] == 130


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 1),
        (RuntimeError("[/]"), 1),
        (OSError(28, "No space left on device"), 1),
        (IsADirectoryError(), 2),
    ],
)
def test_what_the_machine_did_is_exit_code_1(run, monkeypatch, tiny_models, error, code):
    def fail(folder):
        raise error

    monkeypatch.setattr("everyitem.recommender.load", fail)
    found, _, err = run("recommend", tiny_models["pq"], "--history", "a")
    assert found == code
    assert str(error) in err


def test_training_without_torch_says_what_is_missing(tiny_log, tmp_path):
    program = f"""
import sys
sys.modules["torch"] = None
from everyitem.cli import main
sys.argv = ["everyitem", "train", {str(tiny_log)!r}, {str(tmp_path / "model")!r}]
main()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 2
    assert (
        result.stderr == "error: this needs torch, which is not installed; `everyitem doctor` says how to mend that\n"
    )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("k", ["1", "400"])  # less and more than a pipe buffers
def test_a_reader_that_goes_away_gets_no_traceback(tiny_models, k):
    program = "from everyitem.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        program,
        "recommend",
        tiny_models["pq"],
        "--history",
        "item-003",
        "--json",
        "--k",
        k,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": ""}
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


OPTIONS = "--k --json --history --where --explain --users --out --help -h --against --queries --max-users --log --dense"
VALUES = "- -- 0 -1 3 1e3 a,b item-003 [/] [bold]x price<9 add remove MODEL LOG NOTHING FILE FOLDER gone.csv"
words = st.sampled_from([*OPTIONS.split(), *VALUES.split(), "", "\0", "\udcff"])
commands = st.sampled_from(["recommend", "evaluate", "index", "items", "export", "check", "prepare", "nope"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=commands, arguments=st.lists(words | st.text(max_size=6), max_size=6))
def test_no_arguments_end_in_a_traceback(run, places, command, arguments):
    code, _, err = run(command, *(places.get(a, a) if a != MODEL else a for a in arguments))
    assert code in (0, 1, 2, 130)
    assert "Traceback" not in err
