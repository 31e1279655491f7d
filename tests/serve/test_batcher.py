import asyncio
import threading
import time

import pytest

from everyitem.serve.batcher import ALWAYS_WAITING, Batcher, Full, TooLate


class Held:
    """Answers with twice the number, once it is let go; remembers what it was asked together."""

    def __init__(self):
        self.batches, self.go, self.busy = [], threading.Event(), threading.Event()

    def __call__(self, questions):
        self.batches.append(questions)
        self.busy.set()
        assert self.go.wait(10)
        return [ValueError("odd") if question % 2 else 2 * question for question in questions]


@pytest.fixture
def held():
    return Held()


async def queued(batcher, held, questions, **options):
    """Tasks for questions that wait behind question 0, which is in hand."""
    first = asyncio.ensure_future(batcher.ask(0))
    while not held.busy.is_set():
        await asyncio.sleep(0.001)
    tasks = [asyncio.ensure_future(batcher.ask(question, **options)) for question in questions]
    await asyncio.sleep(0)
    return first, tasks


def test_what_waits_is_answered_together_in_order_and_an_error_is_its_own(held):
    async def run():
        batcher = Batcher(held, most_together=4)
        first, tasks = await queued(batcher, held, [2, 3, 4, 6, 8])
        assert len(batcher) == 5
        held.go.set()
        assert await first == 0
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(answer) for answer in answers] == ["4", "odd", "8", "12", "16"]
        batcher.close()

    asyncio.run(run())
    assert held.batches == [[0], [2, 3, 4, 6], [8]]


def test_a_full_queue_refuses_at_once(held):
    async def run():
        batcher = Batcher(held, most_waiting=6)
        _, tasks = await queued(batcher, held, [2] * 6)
        start = time.perf_counter()
        with pytest.raises(Full):
            await batcher.ask(2)
        assert time.perf_counter() - start < 0.05
        held.go.set()
        assert await asyncio.gather(*tasks) == [4] * 6
        assert await batcher.ask(10) == 20
        batcher.close()

    asyncio.run(run())


def test_who_would_wait_too_long_is_refused_and_told_how_long(held):
    async def run():
        batcher = Batcher(held, most_seconds=0.5)
        first, _ = await queued(batcher, held, [])
        await asyncio.sleep(0.1)
        held.go.set()
        await first  # one answer took 0.1 s or more: the mean moved by a tenth of that
        held.go.clear()
        held.busy.clear()
        _, tasks = await queued(batcher, held, [2] * 200)
        answered = [task for task in tasks if not task.done()]
        assert ALWAYS_WAITING < len(answered) < 200
        with pytest.raises(Full) as full:
            await batcher.ask(2)
        assert full.value.retry_after > 0.5
        held.go.set()
        assert await asyncio.gather(*answered) == [4] * len(answered)
        batcher.close()

    asyncio.run(run())


def test_a_question_past_its_deadline_or_without_an_asker_is_not_asked(held):
    async def run():
        batcher = Batcher(held)
        first, late = await queued(batcher, held, [2], deadline=time.monotonic() + 0.01)
        left = asyncio.ensure_future(batcher.ask(4))
        stays = asyncio.ensure_future(batcher.ask(6))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.sleep(0)
        held.go.set()
        await first
        with pytest.raises(TooLate, match="give it more time"):
            await late[0]
        assert await stays == 12
        batcher.close()

    asyncio.run(run())
    assert held.batches == [[0], [6]]


def test_a_defect_reaches_whoever_asked_and_the_thread_goes_on():
    def answer(questions):
        if questions == [1]:
            raise ZeroDivisionError
        return questions

    async def run():
        batcher = Batcher(answer)
        with pytest.raises(ZeroDivisionError):
            await batcher.ask(1)
        assert await batcher.ask(2) == 2
        batcher.close()

    asyncio.run(run())


def test_closing_answers_what_waits_and_takes_no_more(held):
    async def run():
        batcher = Batcher(held)
        first, tasks = await queued(batcher, held, [2, 4])
        closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        with pytest.raises(Full):
            await batcher.ask(6)
        held.go.set()
        assert await asyncio.gather(first, *tasks) == [0, 4, 8]
        await closing

    asyncio.run(run())
