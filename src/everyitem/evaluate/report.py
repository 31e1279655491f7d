"""Shows evaluations to people: tables for the terminal, a bar chart for results pages.

Knows the plain JSON of an evaluation (`Evaluation.to_json`), so that results read back from files look the same as
fresh ones. Computes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from rich.markup import escape
from rich.table import Table

from everyitem.evaluate.measures import Difference

STAGES = {"encoder_ms": "encoder", "scoring_ms": "scoring (mST)", "total_ms": "total (mRT)"}


class Row(NamedTuple):
    """One bar, or one cell of a grid."""

    model: str
    metric: str
    value: float
    low: float
    high: float


def rows_of(results: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[Row]:
    """The wanted metrics of several evaluations: {model: its JSON} -> rows, models and metrics in the order given."""
    return [Row(model, metric, **result[metric]) for model, result in results.items() for metric in metrics]


def evaluation_table(result: Mapping[str, Any], *, title: str) -> Table:
    """One evaluation: measures down, cut-offs across, half the 95 % interval in the cells; below, how and how fast."""
    names = [name for name, value in result.items() if isinstance(value, Mapping) and "low" in value]
    measures = list(dict.fromkeys(name.split("@")[0] for name in names))
    cuts = list(dict.fromkeys(name.split("@")[1] for name in names))
    table = Table(title=escape(title), caption=_caption(result), caption_justify="left", min_width=76)
    table.add_column("")
    for k in cuts:
        table.add_column(f"@{k}", justify="right")
    for measure in measures:
        table.add_row(measure, *(_estimate(**result[f"{measure}@{k}"]) for k in cuts))
    return table


def comparison_table(differences: Mapping[str, Difference], *, a: str, b: str) -> Table:
    """What `compare` returned: where A is ahead of B, by how much, and whether chance explains it."""
    table = Table(title=escape(f"{a} - {b}"), caption="paired by user; 95 % bootstrap interval, randomisation test")
    for heading in ("metric", "difference", "interval", "p"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric, (value, low, high, p_value) in differences.items():
        style = "" if low <= 0 <= high else "green" if value > 0 else "red"
        table.add_row(metric, f"{value:+.4f}", f"{low:+.4f} .. {high:+.4f}", f"{p_value:.4f}", style=style)
    return table


def grid_table(rows: Iterable[Row], *, title: str) -> Table:
    """Models down, metrics across, each with half the width of its interval; the best of a column is bold."""
    rows = list(rows)
    metrics = list(dict.fromkeys(row.metric for row in rows))
    cells = {(row.model, row.metric): row for row in rows}
    best = {metric: max(row.value for row in rows if row.metric == metric) for metric in metrics}
    table = Table(title=escape(title), caption="± half the 95 % interval", caption_justify="left")
    table.add_column("model")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for model in dict.fromkeys(row.model for row in rows):
        found = (cells.get((model, metric)) for metric in metrics)
        table.add_row(escape(model), *("-" if row is None else _cell(row, best[row.metric]) for row in found))
    return table


def write_bar_chart(rows: Iterable[Row], path: Path, *, title: str, highlight: str | None = None) -> None:
    """Horizontal bars with 95 % intervals, one panel per metric, models in the order given.

    Args:
        rows: what `rows_of` returned.
        path: ends in .svg or .png.
        title: above the panels.
        highlight: the model to set off by colour.

    Raises:
        ValueError: another ending.

    Needs altair and vl-convert (extra "train").
    """
    import altair as alt

    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"got {path.name}; a chart is written as .svg or .png: change the ending")
    rows = list(rows)
    data = pl.DataFrame([row._asdict() | {"label": f"{row.value:.3f}"} for row in rows])
    models = list(dict.fromkeys(row.model for row in rows))
    y = alt.Y("model:N", sort=models, title=None, axis=alt.Axis(labelLimit=260, ticks=False, domain=False))
    colour = alt.condition(alt.datum.model == highlight, alt.value("#c8553d"), alt.value("#9aa7b4"))
    bars = (
        alt.Chart()
        .mark_bar(cornerRadiusEnd=2, height={"band": 0.72})
        .encode(alt.X("value:Q", title=None), y, color=colour)
    )
    whiskers = alt.Chart().mark_rule(color="#2b2f36", strokeWidth=1.4).encode(alt.X("low:Q"), y, alt.X2("high:Q"))
    labels = alt.Chart().mark_text(align="left", dx=7, color="#2b2f36").encode(alt.X("high:Q"), y, text="label:N")
    panel = alt.layer(bars, whiskers, labels, data=data).properties(width=240, height=alt.Step(26))
    chart = panel.facet(
        alt.Facet("metric:N", sort=list(dict.fromkeys(row.metric for row in rows)), title=None),
        columns=3,
        spacing=44,
        title=alt.Title(title, subtitle="lines: 95 % intervals over users"),
    )
    styled(chart.resolve_scale(x="independent")).save(str(path), scale_factor=2)


def styled(chart: Any) -> Any:
    """An altair chart in the project's looks."""
    return (
        chart.configure(font="DejaVu Sans", background="white", padding=16)
        .configure_view(stroke=None)
        .configure_title(fontSize=17, anchor="start", offset=14, subtitleFontSize=13, subtitleColor="#5c6470")
        .configure_header(labelFontSize=14, labelFontWeight="bold", labelAnchor="start")
        .configure_axis(labelFontSize=13, gridColor="#e6e9ed", tickCount=4, labelFlush=False)
        .configure_text(fontSize=12)
    )


def _estimate(value: float, low: float, high: float) -> str:
    return f"{value:.4f}\n[dim]± {(high - low) / 2:.4f}[/dim]"


def _cell(row: Row, best: float) -> str:
    text = f"{row.value:.4f} ± {(row.high - row.low) / 2:.4f}"
    return f"[bold]{text}[/bold]" if row.value == best else text


def _caption(result: Mapping[str, Any]) -> str:
    seen = "excluded" if result["exclude_seen"] else "allowed"
    lines = [
        f"{result['users']:,} users, {result['num_items']:,} items, all ranked",
        f"seen items {seen} ({result['seen_targets']:.1%} of targets were seen)",
    ]
    lines += [f"{name} {value:.1%}" for name, value in result.items() if name.startswith(("coverage@", "head_share@"))]
    lines += [
        f"{label}: median {result[stage]['median']:.2f} ms, p95 {result[stage]['p95']:.2f} ms"
        for stage, label in STAGES.items()
        if stage in result
    ]
    if "resident_mb" in result:
        model, process = result["resident_mb"]["model"], result["resident_mb"]["process"]
        lines.append(f"resident: {model:,.0f} MB of model in a process of {process:,.0f} MB, without torch")
    return "\n".join(lines)
