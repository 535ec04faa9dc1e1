"""The hub's Python library and `mlx-embed` on one cache, with a hub on loopback: each finds what the other fetched, and
fetches nothing twice."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

COMMIT = "00112233445566778899aabbccddeeff00112233"
CHECKPOINT = pathlib.Path("tests/golden/st-mean")
FETCH = """
from huggingface_hub import scan_cache_dir, snapshot_download
print(snapshot_download("owner/name"))
cache = scan_cache_dir()
assert not cache.warnings, cache.warnings
assert [list(model.refs) for model in cache.repos] == [["main"]], cache.repos
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """What a hub's API says of one model."""

    protocol_version = "HTTP/1.1"
    files = {
        path.relative_to(CHECKPOINT).as_posix(): path.read_bytes()
        for path in CHECKPOINT.rglob("*")
        if path.is_file() and path.name != "golden.safetensors"
    }
    given = []

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if "/tree/" in path:
            hashes = {name: self.git_hash(body) for name, body in self.files.items()}
            entries = [{"type": "file", "path": name, "size": len(self.files[name]), "oid": hashes[name]} for name in hashes]
            return self.answer(200, json.dumps(entries).encode())
        if path.startswith("/api/models/owner/name"):
            about = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            return self.answer(200, json.dumps(about).encode())
        name = path.removeprefix(f"/owner/name/resolve/{COMMIT}/").removeprefix("/cdn/")
        body = self.files.get(name)
        if body is None:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        if path.startswith("/cdn/"):
            self.given.append(name)
            return self.answer(200, body)
        if name.endswith(".safetensors"):
            # Another host, as a CDN is.
            place = f"http://localhost:{self.server.server_port}/cdn/{name}"
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            return self.answer(
                302, Location=place, X_Linked_Etag=etag, X_Linked_Size=len(body), ETag=etag, X_Repo_Commit=COMMIT
            )
        if self.command == "GET":
            self.given.append(name)
        return self.answer(200, body, ETag=f'"{self.git_hash(body)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    @staticmethod
    def git_hash(body):
        return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def run(command, home, address, **more):
    known = {"HF_HOME": home, "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1,localhost"} | more
    done = subprocess.run(command, env=os.environ | known, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, (command, done.returncode)
    return done.stdout


def main():
    program = sys.argv[1]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    pull, fetch = [program, "pull", "owner/name"], [sys.executable, "-c", FETCH]
    embed = [program, "embed", "--model", "owner/name", "--device", "cpu", "a cat"]
    vectors = set()
    for first, second in [(pull, fetch), (fetch, pull)]:
        with tempfile.TemporaryDirectory() as home:
            Hub.given.clear()
            one = run(first, home, address)
            assert sorted(Hub.given) == sorted(Hub.files), Hub.given
            assert run(second, home, address) == one
            assert len(Hub.given) == len(Hub.files), Hub.given
            vectors.add(run(embed, home, address, HF_HUB_OFFLINE="1"))
    assert len(vectors) == 1
    print("mlx-embed and the hub's Python library share a cache")


main()
