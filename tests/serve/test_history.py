"""The same tests for both stores; Redis is a real server of this machine, started here."""

import shutil
import socket
import subprocess
import sys
import time
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everyitem.serve.history import KEPT, RedisHistory, SqliteHistory, Unavailable, open_history

USERS = st.sampled_from(["u", "v", "ü\x00 '; --", "u:v"])
ITEMS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=4), st.just("7"), st.just(7))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(USERS, ITEMS), max_size=7)),
        st.tuples(st.just("last"), st.tuples(USERS, st.integers(1, 9))),
        st.tuples(st.just("erase"), USERS),
    ),
    max_size=12,
)


def started_redis(folder):
    """A server of this machine and its URL."""
    pytest.importorskip("redis", reason="the extra `serve` is not installed")
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no redis-server or valkey-server on this machine: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while True:
        try:
            RedisHistory(f"redis://127.0.0.1:{port}").close()
            return server, f"redis://127.0.0.1:{port}/0"
        except Unavailable:
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    server, url = started_redis(tmp_path_factory.mktemp("redis"))
    yield url
    server.kill()
    server.wait()


@pytest.fixture(params=["sqlite", "redis"])
def address(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "history.sqlite")
    import redis

    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushall()
    return url


@pytest.fixture
def store(address):
    store = open_history(address)
    yield store
    store.close()


@given(STEPS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_store_is_a_list_per_user(store, steps):
    example = uuid.uuid4().hex  # users of this example alone
    naive: dict[str, list] = {}
    for what, told in steps:
        if what == "append":
            store.append([(example + user, item) for user, item in told])
            for user, item in told:
                naive.setdefault(user, []).append(item)
        elif what == "last":
            user, count = told
            found, expected = store.last(example + user, count), naive.get(user, [])[-count:]
            assert [(type(item), item) for item in found] == [(type(item), item) for item in expected]
        else:
            assert store.erase(example + told) == len(naive.pop(told, []))


def test_only_the_newest_events_are_kept(store):
    store.append([("u", number) for number in range(KEPT + 5)])
    store.append([("u", "newest"), ("v", 1)])
    assert store.last("u", 2 * KEPT) == [*range(6, KEPT + 5), "newest"]
    assert store.last("v", 5) == [1]
    assert store.erase("u") == KEPT


def test_events_expire(address):
    store, reader = open_history(address, ttl=0.3), open_history(address)
    store.append([("u", "old"), ("v", "old")])
    assert store.last("u", 5) == ["old"]
    time.sleep(0.35)
    assert store.last("u", 5) == []
    store.append([("u", "new")])
    assert store.last("u", 5) == ["new"]
    assert reader.last("v", 5) == []  # gone, and not only hidden
    store.close()
    reader.close()


def test_several_processes_share_a_store(store, address):
    program = (
        "import sys; from everyitem.serve.history import open_history\n"
        "store = open_history(sys.argv[1])\n"
        "for number in range(20): store.append([('u', f'{sys.argv[2]}-{number}')])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, address, name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = store.last("u", 100)
    assert sorted(found) == sorted(f"{name}-{number}" for name in "ab" for number in range(20))
    for name in "ab":
        assert [item for item in found if item[0] == name] == [f"{name}-{number}" for number in range(20)]


def test_acknowledged_events_survive_sigkill(address):
    program = (
        "import sys; from everyitem.serve.history import open_history\n"
        "store, number = open_history(sys.argv[1]), 0\n"
        "while True:\n"
        "    store.append([('u', number)]); print(number, flush=True); number += 1"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, address], stdout=subprocess.PIPE, text=True)
    for _ in range(50):
        writer.stdout.readline()
    writer.kill()
    acknowledged = 49 + len(writer.stdout.read().splitlines())
    writer.wait()
    store = open_history(address)
    found = store.last("u", KEPT)
    store.close()
    assert found[-1] - acknowledged in (0, 1)  # one more may have been written, but not said
    assert found == list(range(found[0], found[-1] + 1))


def test_what_was_erased_is_in_no_file(tmp_path):
    store = SqliteHistory(tmp_path / "history.sqlite")
    store.append([("somebody-1234", "secret-item-5678"), ("other", "kept")])
    assert any(b"secret-item-5678" in path.read_bytes() for path in tmp_path.iterdir())
    assert store.erase("somebody-1234") == 1
    for path in tmp_path.iterdir():
        assert b"secret-item-5678" not in path.read_bytes(), path
        assert b"somebody-1234" not in path.read_bytes(), path
    assert store.last("other", 5) == ["kept"]
    store.close()


@pytest.mark.parametrize("where", ["missing/folder/h.sqlite", "redis://127.0.0.1:1/0"])
def test_a_store_that_cannot_be_opened_says_so(tmp_path, where):
    with pytest.raises(Unavailable, match=r"cannot be used as history|does not answer"):
        open_history(where if "://" in where else str(tmp_path / where))


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="path of a SQLite file or a redis:// URL"):
        open_history("postgres://localhost")


def test_a_store_that_is_gone_is_unavailable(tmp_path):
    server, url = started_redis(tmp_path)
    store = RedisHistory(url)
    store.append([("u", 1)])
    server.kill()
    server.wait()
    for ask in (lambda: store.append([("u", 1)]), lambda: store.last("u", 1), lambda: store.erase("u")):
        with pytest.raises(Unavailable, match="does not answer"):
            ask()
