"""Tables and charts say what the evaluation says."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from everyitem.evaluate import report
from everyitem.evaluate.measures import Difference
from everyitem.evaluate.run import Evaluation, Latency, Timing


def text_of(table: Table) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.fixture
def results() -> dict[str, dict[str, object]]:
    good = Evaluation(
        targets_U=np.zeros(1000, np.int32),
        ranks_U=np.arange(1000) % 20,
        ks=(1, 10),
        num_items=1_234_567,
        exclude_seen=False,
        seen_targets=0.25,
        shown=10,
        coverage=0.5,
        head_share=0.125,
        timing=Timing(Latency(1.25, 2.5), Latency(0.5, 0.75), Latency(1.75, 3.25), 1000),
    )
    return {"good": good.to_json(), "bad": replace(good, ranks_U=good.ranks_U * 3, timing=None).to_json()}


def test_evaluation_table(results: dict[str, dict[str, object]]) -> None:
    text = text_of(report.evaluation_table(results["good"], title="good"))
    for expected in ("@1", "@10", "ndcg", "0.5000", "1,234,567 items", "25.0% of targets", "head_share@10 12.5%"):
        assert expected in text
    assert "total (mRT): median 1.75 ms, p95 3.25 ms" in text
    assert "mRT" not in text_of(report.evaluation_table(results["bad"], title="bad"))


def test_comparison_table() -> None:
    text = text_of(report.comparison_table({"ndcg@10": Difference(0.01, 0.005, 0.015, 0.0005)}, a="A", b="B"))
    assert "A - B" in text
    assert "+0.0100" in text
    assert "+0.0050 .. +0.0150" in text


def test_grid_marks_the_best_of_a_metric(results: dict[str, dict[str, object]]) -> None:
    rows = report.rows_of(results, ["ndcg@10", "recall@10"])
    assert [(row.model, row.metric) for row in rows][:2] == [("good", "ndcg@10"), ("good", "recall@10")]
    table = report.grid_table(rows[:-1], title="all")
    cells = list(table.columns[2].cells)
    assert str(cells[0]).startswith("[bold]0.5000 ± 0.03")
    assert cells[1] == "-"
    assert "bad" in text_of(table)


def test_chart_as_svg_and_png(results: dict[str, dict[str, object]], tmp_path: Path) -> None:
    rows = report.rows_of(results, ["ndcg@10", "recall@10"])
    for name in ("chart.svg", "chart.png"):
        report.write_bar_chart(rows, tmp_path / name, title="two models", highlight="good")
    words = "".join(ElementTree.parse(tmp_path / "chart.svg").getroot().itertext())
    for expected in ("two models", "good", "bad", "ndcg@10", "recall@10", "0.500"):
        assert expected in words
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got chart\.gif"):
        report.write_bar_chart([], tmp_path / "chart.gif", title="")
