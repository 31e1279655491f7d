"""Real processes: a supervisor and two workers on one socket."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from everyitem.recommender import load
from everyitem.serve import worker
from everyitem.serve.supervisor import is_loopback

HISTORY = ["item-003", "item-017", "item-250"]


class Server:
    """`everyitem serve` as a user starts it."""

    def __init__(self, folder, tmp_path, *options):
        self.log = tmp_path / "log"
        command = [sys.executable, "-c", "from everyitem.cli import main; main()", "serve", str(folder), "--port", "0"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        assert " at http://127.0.0.1:" in line, line + self.log.read_text()
        self.url = re.search(r"http://\S+", line)[0]
        self.port = int(self.url.rsplit(":", 1)[1])

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def post(self, path, body):
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def workers(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(child) for child in children}

    def serving(self):
        return [line for line in self.get("/metrics").splitlines() if re.match(r"everyitem_serving\{.* [1-9]", line)]

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tiny_models, tmp_path_factory):
    import shutil

    root = tmp_path_factory.mktemp("server")
    shutil.copytree(tiny_models["pq"], root / "model", ignore=shutil.ignore_patterns("training"))
    server = Server(root / "model", root, "--workers", "2")
    server.folder = root / "model"
    yield server
    server.process.kill()
    server.process.wait()


def test_a_change_reaches_every_worker(server):
    wait_for(lambda: server.serving() and server.serving()[0].endswith(" 2.0"))
    best = server.post("/v1/recommend", {"history": HISTORY, "k": 1})["items"][0]["item_id"]
    changed = server.post("/v1/items", {"delete": [best]})
    wait_for(lambda: server.serving() == [f'everyitem_serving{{model_version="{changed["model_version"]}"}} 2.0'])
    for _ in range(20):  # new connections, so both workers
        answer = server.post("/v1/recommend", {"history": HISTORY, "k": 20})
        assert answer["model_version"] == changed["model_version"]
        assert best not in [item["item_id"] for item in answer["items"]]


def test_a_signal_makes_every_worker_look(server):
    recommender = load(server.folder)
    recommender.remove_items([recommender.recommend([HISTORY], k=1)["item_id"][0]])
    before = server.serving()
    recommender.save(server.folder)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.serving() != before and server.serving()[-1].endswith(" 2.0"))


def test_a_killed_worker_is_replaced_and_the_other_serves_on(server):
    before = server.workers()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    wait_for(lambda: victim not in server.workers())
    for _ in range(10):
        server.post("/v1/recommend", {"history": HISTORY, "k": 1})
    wait_for(lambda: len(server.workers()) == 2 and server.serving() and server.serving()[0].endswith(" 2.0"))
    assert len(server.workers() - before) == 1
    died = [line for line in server.lines() if line.get("event") == "worker_died"]
    assert [(line["pid"], line["code"]) for line in died] == [(victim, -9)]
    assert time.monotonic() - start < 20


def test_events_of_one_worker_are_known_to_the_other(server):
    server.post("/v1/events", {"events": [{"user_id": "u", "item_id": item} for item in HISTORY]})
    for _ in range(10):
        assert json.loads(server.get("/v1/users/u"))["history"] == HISTORY


def test_sigterm_loses_no_request_that_was_accepted(server):
    """Whatever the log says was answered has arrived, and nothing was answered with an error."""
    arrived, errors, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                arrived.append(server.post("/v1/recommend", {"history": HISTORY, "k": 5})["request_id"])
            except urllib.error.HTTPError as error:
                errors.append(error.code)
            except OSError:
                return  # no longer listening

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    wait_for(lambda: len(arrived) > 40)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    stop.set()
    for asker in askers:
        asker.join()
    said = [line for line in server.lines() if line.get("route") == "/v1/recommend"]
    assert {line["request_id"] for line in said if line["status"] == 200} >= set(arrived)
    assert {line["status"] for line in said} == {200}
    assert {line["request_id"] for line in said[-len(arrived) :]} == set(arrived)
    assert errors == []
    assert not Path(f"/proc/{server.process.pid}").exists()


def test_without_its_supervisor_a_worker_ends(tiny_models, tmp_path):
    server = Server(tiny_models["pq"], tmp_path, "--history", str(tmp_path / "h.sqlite"))
    (child,) = server.workers()
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "give --api-key-file, or --insecure"),
        (["--host", "0.0.0.0", "--api-key-file", "short"], "must have 32 or more"),
        (["--api-key-file", "nope"], "No such file"),
        (["--workers", "0"], "at least 1"),
        (["--max-wait-ms", "nan"], "at least 1"),
        (["--port", "1"], "cannot listen at 127.0.0.1, port 1"),
    ],
)
def test_mistakes_end_in_one_line(refused, tiny_models, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("x" * 31)
    if "--port" in options and os.geteuid() == 0:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            options = ["--port", str(taken.getsockname()[1])]
            assert "cannot listen at 127.0.0.1" in refused("serve", tiny_models["pq"], *options)
        return
    assert said in refused("serve", tiny_models["pq"], *options)


def test_a_folder_without_a_model_is_refused(refused, tmp_path):
    assert "no model here" in refused("serve", tmp_path)


def test_a_damaged_model_is_not_served(run, copied):
    folder = copied("pq")
    path = folder / "index" / "v000001" / "codes.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    code, _, err = run("serve", folder, "--port", "0")
    assert code == 2
    assert "section codes" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_known(host):
    assert is_loopback(host)
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("localhost.example")


@pytest.fixture
def bounded(monkeypatch):
    """A socket to a server that answers everything with 204, behind the protocol of the workers."""
    import uvicorn

    monkeypatch.setattr(worker, "HEADER_SECONDS", 0.3)

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, http=worker.BoundedProtocol, lifespan="off", log_config=None, timeout_keep_alive=30)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    with socket.create_connection(address, timeout=10) as client:
        yield client
    server.should_exit = True
    thread.join()


def told(client):
    """All that the server says until it hangs up."""
    said = b""
    while chunk := client.recv(65536):
        said += chunk
    return said


def test_headers_without_end_are_cut_off(bounded):
    bounded.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * (17 << 10))
    assert told(bounded).startswith(b"HTTP/1.1 400")


def test_headers_that_trickle_in_are_cut_off(bounded):
    bounded.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
    assert told(bounded) == b""


def test_a_connection_that_says_nothing_is_cut_off(bounded):
    assert told(bounded) == b""


def test_bodies_and_later_requests_are_not_counted_as_headers(bounded):
    body = b"x" * (100 << 10)
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    for _ in range(3):
        bounded.sendall(request)
        time.sleep(0.15)
        bounded.sendall(body)
        assert bounded.recv(65536).startswith(b"HTTP/1.1 204")
    bounded.sendall(b"GET / HTTP/1.1\r\nlong: ")
    for _ in range(20):
        bounded.sendall(b"x" * 1000)
    assert told(bounded).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "lie",
    [
        b"GET / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_what_is_not_http_ends_the_connection(bounded, lie):
    bounded.sendall(lie)
    assert told(bounded)[:12] in (b"HTTP/1.1 400", b"")
