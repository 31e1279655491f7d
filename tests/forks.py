"""Processes to be killed, forked from one that has imported everything: that takes longer than what is tested."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

SERVER = """
for line in sys.stdin:
    if child := os.fork():
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    arguments, os.environ["EVERYITEM_KILLPOINT"] = json.loads(line)
    run(*arguments)
    os._exit(0)
"""


class Forks:
    """A program that defines `run(*arguments)`; every start is a process of its own. One at a time.

    Where it says so itself (`print("at", os.getpid(), flush=True)`) it may be killed.
    """

    def __init__(self, program: str, *arguments: str | Path) -> None:
        command = [sys.executable, "-c", f"import json, os, sys\n{program}\n{SERVER}", *map(str, arguments)]
        pipe, environment = subprocess.PIPE, os.environ | {"POLARS_MAX_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, *arguments: str | Path, killpoint: str = "") -> int:
        """The exit code; `killpoint` is where `files.killpoint` shall end it."""
        word, number = self.start(*arguments, killpoint=killpoint)
        return number if word == "ended" else self._end()

    def start(self, *arguments: str | Path, killpoint: str = "") -> tuple[str, int]:
        """What it says first: ("at", its process id), or ("ended", its exit code)."""
        line = json.dumps([list(map(str, arguments)), killpoint])
        print(line, file=self._stream("stdin"), flush=True)
        return self._said()

    def kill(self, process: int) -> int:
        """End what said that it is there, wherever it is now; its exit code, 0 where it was faster."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return self._end()

    def _end(self) -> int:
        while (said := self._said())[0] != "ended":
            pass
        return said[1]

    def _said(self) -> tuple[str, int]:
        word, number = self._stream("stdout").readline().split()
        return word, int(number)

    def _stream(self, name: str) -> Any:
        return getattr(self._process, name)
