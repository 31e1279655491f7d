"""How well a language model recommends by writing titles: beam search over the titles of the catalogue.

After BIGRec (arXiv:2308.08434) and D3 (arXiv:2406.14900): only titles that exist can be written, an item's score is the
log-probability of its title, and its length is not penalised.
"""

import time
from typing import Any

import numpy as np

from everyitem.data.splits import Holdout
from everyitem.data.text import prompt_row
from everyitem.evaluate.measures import interval, ndcg, ranks_of, recall
from everyitem.index.beam import BeamIndex
from everyitem.model.written import WrittenPrompts, filled_titles
from everyitem.types import Histories, TopK

K = 20
TIMED = 10


class TitleRanker:
    """A language model as a recommender.

    Args:
        model: a causal language model of the Hugging Face kind.
        titles: the tokens of every item's title.
        start: tokens that begin every row.
        length: tokens of a row, at most, the title that is written included.
        beam: titles that are written side by side.
    """

    def __init__(self, model: Any, titles: Histories, start: list[int], *, length: int, beam: int = K) -> None:
        self.model, self.titles, self.start = model, titles, start
        self.end, self.longest = int(titles[0][-1]), int(titles.lengths.max())
        if length <= self.longest + len(start):
            raise ValueError(
                f"length is {length}, but start and a title take {self.longest + len(start)} tokens; allow more"
            )
        self.length = length
        self.index = BeamIndex(filled_titles(titles, model.config.vocab_size), width=beam)

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k best items for every history; with `exclude_seen` none that the history holds."""
        room = self.length - self.longest
        rows = [prompt_row(self.titles, history, self.start, room) for history in histories]
        prompts = WrittenPrompts(self.model, rows, end=self.end, longest=self.longest)
        exclude = histories.padded("left") if exclude_seen else None
        return self.index.top_k(prompts, k, exclude=exclude)


def quality(ranker: TitleRanker, holdout: Holdout) -> dict[str, Any]:
    """HR@20 and NDCG@20 with 95 % intervals over users, and milliseconds per recommendation of one user at a time."""
    ranker.model.train(False)
    ranks_U = ranks_of(ranker.rank(holdout.histories, K).items, holdout.targets)
    times = []
    for user in range(min(TIMED, len(ranks_U))):
        started = time.perf_counter()
        ranker.rank(holdout.histories.select(np.array([user])), K)
        times.append(1e3 * (time.perf_counter() - started))
    return {
        f"hr@{K}": interval(recall(ranks_U, K))._asdict(),
        f"ndcg@{K}": interval(ndcg(ranks_U, K))._asdict(),
        "users": len(ranks_U),
        "recommend_ms": {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))},
    }
