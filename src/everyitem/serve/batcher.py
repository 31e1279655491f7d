"""Natural batching: whatever waits is answered together by one thread, without timers. Knows no HTTP and no model."""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")

ALWAYS_WAITING = 4
"""So many may wait, however long an answer takes."""
MEMORY = 0.9
"""Weight of the past in the mean time of an answer."""


class Full(Exception):
    """More questions wait than can be answered in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the server has more questions waiting than it can answer in time; try again later")
        self.retry_after = seconds


class TooLate(Exception):
    """The deadline passed while the question waited."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the model was free; give it more time, or come back later")


class _Entry(NamedTuple, Generic[Question, Answer]):
    question: Question
    future: "asyncio.Future[Answer]"
    loop: asyncio.AbstractEventLoop
    deadline: float


class Batcher(Generic[Question, Answer]):
    """One thread that answers questions of many coroutines, as many together as wait when it is free.

    Args:
        answer: for a list of questions their answers; an exception among them is raised for its question alone.
        most_waiting: questions that may wait.
        most_together: questions answered together.
        most_seconds: what the last in the queue may expect to wait; beyond it questions are refused (`Full`).
    """

    def __init__(
        self,
        answer: Callable[[list[Question]], Sequence[Answer | Exception]],
        *,
        most_waiting: int = 256,
        most_together: int = 16,
        most_seconds: float = float("inf"),
    ) -> None:
        self._answer = answer
        self._most_waiting, self._most_together, self._most_seconds = most_waiting, most_together, most_seconds
        self._waiting: deque[_Entry[Question, Answer]] = deque()
        self._changed = threading.Condition()
        self._in_hand = 0
        self._seconds = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, question: Question, *, deadline: float = float("inf")) -> Answer:
        """The answer, when its turn has come. A coroutine that is cancelled takes its question back.

        Args:
            question: whatever `answer` takes.
            deadline: on the clock of `time.monotonic`; past it the question is no longer asked.

        Raises:
            Full: nothing was queued.
            TooLate: the deadline passed in the queue.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        with self._changed:
            if (seconds := self.overdue()) is not None:
                raise Full(seconds)
            self._waiting.append(_Entry(question, future, loop, deadline))
            self._changed.notify()
        return await future

    def overdue(self) -> float | None:
        """Seconds that a question would have to wait, where that is too long to be taken; else None."""
        waiting = len(self._waiting)
        seconds = (waiting + self._in_hand) * self._seconds
        too_long = waiting >= ALWAYS_WAITING and seconds > self._most_seconds
        return seconds if self._closed or waiting >= self._most_waiting or too_long else None

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._in_hand = 0
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                count = min(len(self._waiting), self._most_together)
                taken = [self._waiting.popleft() for _ in range(count)]
                self._in_hand = count
            self._settle(taken)

    def _settle(self, taken: list[_Entry[Question, Answer]]) -> None:
        start = time.monotonic()
        late = [entry for entry in taken if entry.deadline <= start]
        asked = [entry for entry in taken if entry.deadline > start and not entry.future.cancelled()]
        answers: Sequence[Answer | Exception] = []
        if asked:
            try:
                answers = self._answer([entry.question for entry in asked])
            except Exception as error:  # a defect, but not of the thread: whoever asked gets it
                answers = [error] * len(asked)
            self._seconds = MEMORY * self._seconds + (1 - MEMORY) * (time.monotonic() - start) / len(asked)
        pairs = [*zip(asked, answers, strict=True), *((entry, TooLate()) for entry in late)]
        for loop, group in itertools.groupby(pairs, key=lambda pair: pair[0].loop):
            if not loop.is_closed():
                loop.call_soon_threadsafe(_hand_over, list(group))


def _hand_over(pairs: list[tuple[_Entry[Question, Answer], Answer | Exception]]) -> None:
    for entry, answer in pairs:
        if entry.future.done():
            continue
        if isinstance(answer, Exception):
            entry.future.set_exception(answer)
        else:
            entry.future.set_result(answer)
