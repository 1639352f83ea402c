"""A fake W&B server on loopback, with as much of the protocol as the client needs to stay online.

    python tests/wandb_server.py BEHAVIOUR     prints its port, then one JSON line per request

BEHAVIOUR: well; refusing (401 to every request); failing (500 to every request); silent (accepts connections, never
answers); falling silent and dying (well until the first rows of the run have arrived, then silent, or closing every
connection).
"""

import gzip
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = {"id": "entity", "name": "someone"}
PROJECT = {"id": "project", "name": "regnet", "entity": ENTITY}
VIEWER = {"id": "viewer", "entity": "someone", "username": "someone", "email": "", "flags": "{}", "admin": False}


def answer(query: str, variables: dict, url: str) -> dict:
    """Answers the GraphQL queries that a run sends."""
    if "upsertBucket" in query:
        name = variables.get("name") or "run"
        bucket = {"id": "bucket", "name": name, "displayName": name, "description": "", "config": "{}"}
        bucket |= {"sweepName": None, "historyLineCount": 0, "project": PROJECT}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{url}/upload/{name}"} for name in variables.get("files", [])]
        return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}
    about = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None, "features": []}
    if "mutation CreateArtifact" in query:  # committed: the client need not upload its content
        sequence = {"id": "sequence", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": "artifact", "state": "COMMITTED", "artifactSequence": sequence}}}
    if "query ArtifactType" in query:
        return {"project": None}
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
    rows_seen = threading.Event()

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.behaviour == "silent" or (self.behaviour == "falling silent" and self.rows_seen.is_set()):
            threading.Event().wait()
        if self.behaviour == "dying" and self.rows_seen.is_set():
            self.close_connection = True
            self.connection.close()
            return
        status = {"refusing": 401, "failing": 500}.get(self.behaviour, 200)
        reply: dict = {}
        if "file_stream" in self.path:
            record = json.loads(body)
            print_line({"stream": record, "authorization": "Authorization" in self.headers})
            if re.search(r'\\"loss\\"|"loss"', body.decode()):
                self.rows_seen.set()
        elif self.path.startswith("/graphql"):
            request = json.loads(body)
            print_line({"query": re.sub(r"\s+", " ", request["query"])[:80], "variables": request.get("variables")})
            url = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
            reply = {"data": answer(request["query"], request.get("variables") or {}, url)}
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
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
