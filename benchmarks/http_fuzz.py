"""Does the server keep to its own OpenAPI, whatever it is sent? Cases are drawn by schemathesis, valid ones and others.

    python benchmarks/http_fuzz.py MODEL --cases 20000

Every answer must have a status, a type and a body that the schema says, and none may be 500. Works on a copy of the
model, in this process; ids that exist are drawn as often as others. A failure prints the case and how to repeat it.
"""

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from everyitem.serve.history import SqliteHistory
from everyitem.serve.http import create_app
from everyitem.serve.live import LiveModel
from everyitem.serve.service import Service

CHECKED = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(args.model, Path(scratch) / "model", ignore=shutil.ignore_patterns("training"))
        statuses = fuzz(Path(scratch) / "model", args.cases, args.seed)
    table = Table("route", "cases", "statuses")
    for route in sorted({route for route, _ in statuses}):
        found = {status: number for (name, status), number in sorted(statuses.items()) if name == route}
        table.add_row(route, f"{sum(found.values()):,}", ", ".join(f"{status}: {n:,}" for status, n in found.items()))
    Console().print(table, f"{sum(statuses.values()):,} cases, no failure (seed {args.seed})")


def fuzz(folder: Path, cases: int, seed_: int) -> Counter[tuple[str, int]]:
    """How often every route answered with every status; raises at the first answer that the schema does not allow."""
    service = Service(LiveModel(folder), SqliteHistory(folder.with_name("history.sqlite")), most_seconds=60.0)
    app = create_app(service, hosts=None)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    taking = [operation for operation in operations if operation.body or operation.query or operation.path_parameters]
    statuses: Counter[tuple[str, int]] = Counter()
    some = service.version.recommender.items["item_id"].head(50).to_list()
    try:
        for operation in operations:
            each = max(1, cases // (2 * len(taking))) if operation in taking else 1
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if operation in taking else (None,):
                _ask(operation, mode, each, seed_, some, statuses)
    finally:
        service.close()
    return statuses


def _ask(
    operation: Any, mode: Any, cases: int, seed_: int, some: list[Any], statuses: Counter[tuple[str, int]]
) -> None:
    checks = [check for check in CHECKS.get_all() if check.__name__ in CHECKED]
    drawn = operation.as_strategy(generation_mode=mode) if mode else operation.as_strategy()
    quiet = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @seed(seed_)
    @quiet
    @given(drawn, st.booleans(), st.randoms(use_true_random=False))
    def ask(case: Any, known: bool, random: Any) -> None:
        if known:
            case.body = _with_known_ids(case.body, some, random)
        answer = case.call()
        statuses[operation.label, answer.status_code] += 1
        assert answer.status_code != 500, case.as_curl_command()
        case.validate_response(answer, checks=checks)

    ask()


def _with_known_ids(body: Any, some: list[Any], random: Any) -> Any:
    """The body with items of the catalogue wherever it names items."""
    if isinstance(body, list):
        return [_with_known_ids(part, some, random) for part in body]
    if not isinstance(body, dict):
        return body
    replaced = {}
    for name, value in body.items():
        if name in ("item_id", "itemId", "ItemId"):
            replaced[name] = random.choice(some)
        elif name in ("history", "include", "exclude", "like", "delete", "inputList"):
            replaced[name] = [random.choice(some) for _ in value] if isinstance(value, list) else value
        else:
            replaced[name] = _with_known_ids(value, some, random)
    return replaced


if __name__ == "__main__":
    main()
