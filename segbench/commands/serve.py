"""The page of a run, live: an HTTP server that reads the run's files anew when they change.

On loopback unless asked otherwise. It answers three things: the page, how far the trials are, and
the few small files of a trial that the page links to. Nothing is written.
"""

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segbench.errors import ResultError, SegbenchError
from segbench.files import digest
from segbench.launch.launchers import jobs_of
from segbench.report.page import TRIAL_FILES
from segbench.report.write import page_of, read_run
from segbench.runs import status, trial_files
from segbench.runs.record import load_run

LOOPBACK = "127.0.0.1"
_FILE = re.compile(rf"/trials/([0-9a-f]{{12}})/({'|'.join(map(re.escape, TRIAL_FILES))})")
_TAIL_LINES = 12
_TAIL_BYTES = 16_384
_SHOWN = 50  # trials in the live table
_STATES = ("failed", "silent", "running", "queued")


class RunServer(ThreadingHTTPServer):
    """Serves one run. The page is rendered once for each state of the files."""

    daemon_threads = True

    def __init__(self, run_folder: Path, host: str, port: int) -> None:
        self.run_folder = run_folder
        self._rendering = threading.Lock()
        self._page: tuple[str, bytes] = ("", b"")
        super().__init__((host, port), _Answers)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    @property
    def host_names(self) -> frozenset[str] | None:
        """The names that a request may call this server by; None where any will do.

        Without this a page of a stranger's could read the run through a name that it points here.
        """
        host = str(self.server_address[0])
        if not ip_address(host).is_loopback:
            return None
        port = self.server_address[1]
        return frozenset(f"{name}:{port}" for name in (host, "localhost", LOOPBACK))

    def page(self) -> bytes:
        """Return the page for the files as they are."""
        version = version_of(self.run_folder)
        with self._rendering:
            if self._page[0] != version:
                text = page_of(self.run_folder, read_run(self.run_folder), live=version)
                self._page = version, text.encode()
            return self._page[1]


def new_server(run_folder: Path, *, host: str = LOOPBACK, port: int = 0) -> RunServer:
    """Return a server that is bound and not yet answering; port 0 takes a free one.

    Raises:
        ResultError: the folder holds no run, or the address cannot be had.
    """
    load_run(run_folder)
    try:
        return RunServer(run_folder, host, port)
    except OSError as error:
        raise ResultError(
            f"--host {host} --port {port}: cannot be had ({error.strerror or error}); name another "
            "port, or 0 for a free one"
        ) from error


def version_of(run_folder: Path) -> str:
    """Return digits that change when the page would: when a result, figure or picture does."""
    patterns = (
        "run.json",
        "trials/*/result.json",
        "trials/*/evaluations/*",
        "panels/*/panels.json",
    )
    found = []
    for path in sorted(path for pattern in patterns for path in run_folder.glob(pattern)):
        try:
            stat = path.stat()
        except FileNotFoundError:  # replaced in this moment; the next look sees it
            continue
        found.append([str(path.relative_to(run_folder)), stat.st_mtime_ns, stat.st_size])
    return digest(found, length=16)


def live_status(run_folder: Path) -> dict[str, Any]:
    """Return how far the run is: a sentence, the share that has ended, and what needs a look."""
    found = status.statuses(run_folder, load_run(run_folder), jobs_of(run_folder))
    counts = Counter(each.state for each in found)
    ended = sum(counts[state] for state in ("done", "failed", "skipped"))
    left = [each.eta_seconds for each in found if each.eta_seconds is not None]
    line = ", ".join(f"{counts[state]} {state}" for state in sorted(counts)) or "no trials"
    if left:
        line += f"; the slowest of those that run needs {_minutes(max(left))} more for its phase"
    order = {state: place for place, state in enumerate(_STATES)}
    shown = sorted((s for s in found if s.state in order), key=lambda each: order[each.state])
    return {
        "version": version_of(run_folder),
        "line": line,
        "share": ended / max(len(found), 1),
        "trials": [_live_row(each) for each in shown[:_SHOWN]],
    }


def _live_row(each: status.TrialStatus) -> dict[str, str]:
    progress = f"{each.phase} {each.step} of {each.steps}" if each.steps else each.phase
    return {
        "label": each.label,
        "state": f"{each.state}: {each.kind}" if each.kind else each.state,
        "progress": progress,
        "eta": "" if each.eta_seconds is None else _minutes(each.eta_seconds),
        "message": each.message,
        "tail": _tail(each) if each.state == "failed" else "",
    }


def _tail(each: status.TrialStatus) -> str:
    """Return the last lines of the failed trial's traceback, or of what its worker printed."""
    log = Path(each.log_path)
    for path in (log.with_name("traceback.txt"), log):
        if path.is_file():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES), os.SEEK_SET)
                lines = file.read().decode(errors="replace").splitlines()
            return "\n".join(lines[-_TAIL_LINES:])
    return ""


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


class _Answers(BaseHTTPRequestHandler):
    """One request: GET and HEAD alone."""

    server: RunServer  # pyright: ignore[reportIncompatibleVariableOverride] - the only one it has
    server_version, sys_version = "segbench", ""

    def do_GET(self) -> None:
        """Answer with the page, the status or a trial's file."""
        allowed = self.server.host_names
        if allowed is not None and self.headers.get("Host") not in allowed:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"unknown host name\n")
            return
        path = urlsplit(self.path).path
        try:
            if path == "/":
                self._send(HTTPStatus.OK, "text/html", self.server.page())
            elif path == "/status.json":
                body = json.dumps(live_status(self.server.run_folder)).encode()
                self._send(HTTPStatus.OK, "application/json", body)
            else:
                self._send_file(path)
        except SegbenchError as error:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}\n".encode())

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _send_file(self, path: str) -> None:
        match = _FILE.fullmatch(path)
        if match is not None:
            file = trial_files.trial_folder(self.server.run_folder, match[1]) / match[2]
            if file.is_file():
                self._send(HTTPStatus.OK, "text/plain", file.read_bytes())
                return
        self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such file here\n")

    def _send(self, code: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(code)
        for name, value in _headers(kind, len(body)):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal shows the address alone."""


def _headers(kind: str, length: int) -> Iterator[tuple[str, str]]:
    yield "Content-Type", f"{kind}; charset=utf-8"
    yield "Content-Length", str(length)
    yield "Cache-Control", "no-store"
    yield "X-Content-Type-Options", "nosniff"
    yield "X-Frame-Options", "DENY"
    yield "Referrer-Policy", "no-referrer"
