import io

from rich.console import Console

from everyitem import demo
from everyitem.recommender import load


def test_the_demo_shows_every_step(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAINING", {"epochs": 1, "dim": 32, "num_splits": 16})
    monkeypatch.setattr(demo, "MAX_TEST_USERS", 200)
    out = io.StringIO()
    demo.run(tmp_path, num_items=2000, console=Console(file=out, width=100))
    shown = out.getvalue()
    for title in ("A log", "Train", "Evaluate", "Recommend", "Explain", "Add an item", "Speed", "Yours now"):
        assert title in shown
    assert "now at rank" in shown
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert load(tmp_path / "model").index.num_items == 20_000  # the item added live was not saved
