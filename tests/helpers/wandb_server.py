"""A fake W&B server on loopback, with as much of the protocol as wandb needs to log, resume, sync and sweep.

    python tests/helpers/wandb_server.py BEHAVIOUR [RUNS]     prints its port, then one JSON line per request

BEHAVIOUR: well; refusing (401 to every request); failing (500 to every request); silent (accepts connections, never
answers); falling silent and dying (well until the run has reported something, then silent, or closing every
connection); stopping (asks a run to stop after its first report).
RUNS: the parameters that `wandb agent` gets for the sweep that `wandb sweep` has created, a JSON list of mappings.

GET /runs answers with what the server holds, as {id: run}.
"""

import gzip
import json
import re
import sys
import threading
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENTITY = {"id": "entity", "name": "someone"}
VIEWER = {"id": "viewer", "entity": "someone", "username": "someone", "email": "", "flags": "{}", "admin": False}


@dataclass
class StoredRun:
    """What the server holds of a run.

    Attributes:
        history: rows, as their line numbers place them; a gap is an empty row.
        lines: the number of history lines that were received.
        exit_code: None while the run is not complete.
    """

    name: str
    project: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    sweep: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    preempting: bool = False
    exit_code: int | None = None

    def receive(self, record: dict[str, Any]) -> None:
        """Applies a file-stream request: lines of named files from an offset on, and how the run ended."""
        for name, part in record.get("files", {}).items():
            rows = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                missing = part["offset"] + len(rows) - len(self.history)
                self.history += [{} for _ in range(missing)]
                self.history[part["offset"] : part["offset"] + len(rows)] = rows
                self.lines += len(rows)
            elif name == "wandb-summary.json":
                self.summary = rows[-1]
        self.preempting = record.get("preempting", self.preempting)
        if record.get("complete"):
            self.exit_code = record["exitcode"]


class Store:
    """The runs and the sweep of the server."""

    def __init__(self, sweep: list[dict[str, Any]]) -> None:
        self.sweep_file = ""
        self.lock = threading.Lock()
        self.runs: dict[str, StoredRun] = {}
        self.to_start = [(f"sweep-run-{number}", parameters) for number, parameters in enumerate(sweep)]

    def upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables.get("name") or "run"
        inserted = run_id not in self.runs
        run = self.runs.setdefault(run_id, StoredRun(run_id))
        if run.exit_code is not None:
            run.exit_code, run.preempting = None, False
        run.name = variables.get("displayName") or run.name
        run.project = variables.get("project") or run.project
        run.group = variables.get("groupName") or run.group
        run.job_type = variables.get("jobType") or run.job_type
        run.notes = variables.get("notes") or run.notes
        run.tags = variables.get("tags") or run.tags
        run.sweep = variables.get("sweep") or run.sweep
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        return {"bucket": {**self.bucket(run_id), "sweepName": run.sweep or None}, "inserted": inserted}

    def bucket(self, run_id: str) -> dict[str, Any]:
        """A run as GraphQL shows it, with what a resumed run needs to know."""
        run = self.runs[run_id]
        return {
            "id": run_id,
            "name": run_id,
            "displayName": run.name,
            "description": "",
            "config": json.dumps(run.config),
            "wandbConfig": json.dumps({"t": 1}),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "tags": run.tags,
            "notes": run.notes,
            "project": {"id": "project", "name": run.project or "regnet", "entity": ENTITY},
        }

    def commands(self, running: list[str]) -> list[dict[str, Any]]:
        """What an agent has to do next: one run after another, then exit."""
        if running:
            return []
        if not self.to_start:
            return [{"type": "exit"}]
        run_id, parameters = self.to_start.pop(0)
        args = {name: {"value": value} for name, value in parameters.items()}
        program = str(Path(__file__).parents[2] / "train_ddp.py")
        return [{"type": "run", "run_id": run_id, "program": program, "args": args}]


def answer(query: str, variables: dict[str, Any], url: str, store: Store) -> dict[str, Any]:
    """Answers the GraphQL queries of a run, of `wandb sync` and of `wandb agent`."""
    if "upsertBucket" in query:
        return {"upsertBucket": store.upsert(variables)}
    if "query RunResumeStatus" in query:
        bucket = store.bucket(variables["name"]) if variables["name"] in store.runs else None
        return {"model": {"id": "project", "name": "project", "entity": ENTITY, "bucket": bucket}}
    if "mutation UpsertSweep" in query:
        store.sweep_file = variables["config"]
        return {"upsertSweep": {"sweep": {"name": "s1", "project": {"name": "regnet", "entity": ENTITY}}}}
    if "query SweepWithRuns" in query:
        sweep = {"id": "sweep", "name": "sweep", "config": store.sweep_file, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}
    if "mutation CreateAgent" in query:
        return {"createAgent": {"agent": {"id": "agent"}}}
    if "mutation Heartbeat" in query:
        running = json.loads(variables["runState"])
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(store.commands(running))}}
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{url}/upload/{name}"} for name in variables.get("files", [])]
        return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}
    if "mutation CreateArtifact" in query:  # committed: the client need not upload its content
        sequence = {"id": "sequence", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": "artifact", "state": "COMMITTED", "artifactSequence": sequence}}}
    if "query ArtifactType" in query:
        return {"project": None}
    about = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None, "features": []}
    return {
        "viewer": {**VIEWER, "teams": {"edges": []}},
        "serverInfo": about,
        "model": {"bucket": None},
        "project": None,
    }


def print_line(entry: dict) -> None:
    """Prints in a single write, so that lines from concurrent request threads do not mix."""
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour = "well"
    reported = threading.Event()
    store = Store([])

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.behaviour == "silent" or (self.behaviour == "falling silent" and self.reported.is_set()):
            threading.Event().wait()
        if self.behaviour == "dying" and self.reported.is_set():
            self.close_connection = True
            self.connection.close()
            return
        status = {"refusing": 401, "failing": 500}.get(self.behaviour, 200)
        reply: dict = {}
        with self.store.lock:
            if self.path == "/runs":
                reply = {run_id: asdict(run) for run_id, run in self.store.runs.items()}
            elif "file_stream" in self.path:
                record = json.loads(body)
                print_line({"stream": record, "authorization": "Authorization" in self.headers})
                if status == 200:
                    self.store.runs[self.path.split("/")[-2]].receive(record)
                self.reported.set()
                reply = {"stopped": self.behaviour == "stopping"}
            elif self.path.startswith("/graphql"):
                request = json.loads(body)
                query, variables = request["query"], request.get("variables") or {}
                print_line({"query": re.sub(r"\s+", " ", query)[:80], "variables": variables})
                url = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
                reply = {"data": answer(query, variables, url, self.store)}
        text = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = handle_one

    def log_message(self, *ignored: object) -> None: ...


if __name__ == "__main__":
    Handler.behaviour = sys.argv[1]
    if len(sys.argv) > 2:
        Handler.store = Store(json.loads(sys.argv[2]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
