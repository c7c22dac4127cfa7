"""A stand-in for the Hugging Face Hub: the part of its HTTP API that `huggingface_hub` uses for models and collections.

It keeps everything in memory. Of Xet it has what the client asks the Hub itself; where `xet` sends it after that is the
test's matter. `faults` answers chosen requests with an error first, as the real Hub does now and then;
`requests` is a log of what came.
"""

import base64
import fnmatch
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".onnx", ".wasm", ".png", ".bin", ".pkl")


@dataclass
class Repo:
    """A repository: its commits, each a listing of path to content hash, oldest first."""

    private: bool
    gated: bool = False
    commits: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)  # other branches and tags, to the names of commits
    is_listed: bool = True
    downloads: int = 0
    updated: str = ""

    def files(self, revision):
        """Commit and listing of a revision; None where there is none."""
        if revision == "main":
            return self.commits[-1]
        return next((c for c in self.commits if c[0] == self.refs.get(revision, revision)), None)


@dataclass
class Collection:
    """A collection: names of models, in the order in which they came."""

    title: str
    owner: str
    private: bool
    description: str = ""
    items: list[str] = field(default_factory=list)


class Refusal(Exception):  # noqa: N818 - an answer, not a mistake
    """An answer that is not a success."""

    def __init__(self, status, message, code=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class Hub:
    """The server; use it as a context manager, its address is `url`."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, Collection] = {}  # by slug
        self.blobs: dict[str, bytes] = {}
        self.users = {"hf_owner": ("owner", "write"), "hf_reader": ("reader", "read"), "hf_other": ("other", "write")}
        self.faults: list[tuple[str, str, int, dict[str, str]]] = []  # method, pattern of the path, status, headers
        self.cut_after: dict[str, int] = {}  # hash to bytes after which its download breaks off, once
        self.lfs_error = ""  # what is said of each large file of the next push
        self.parts: dict[tuple[str, int], tuple[str, bytes]] = {}  # hash and number to receipt and content
        self.part_bytes = 0  # of large files that are sent in parts; 0 is never
        self.moved: dict[str, str] = {}  # former names of repositories to those that they have now
        self.index_lags = False  # what is made or changed now is not in listings yet
        # Address of the hosts of large files; empty where the Hub has none, None where nobody may go there.
        self.xet: str | None = ""
        self.before_commit = None
        self.lose_answer = False  # of the next commit, which is made all the same
        self.requests: list[tuple[str, str, int]] = []  # method, path, bytes sent
        self.lock = threading.RLock()

    def clear(self):
        """Forget everything, as it is in the beginning."""
        with self.lock:
            for held in (self.repos, self.collections, self.blobs, self.faults, self.cut_after, self.parts, self.moved):
                held.clear()
            self.requests.clear()
            self.part_bytes, self.index_lags, self.xet, self.lfs_error = 0, False, "", ""
            self.before_commit, self.lose_answer = None, False

    def __enter__(self):
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}/storage"  # another host, as the real one's is
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def put(self, content):
        """Keep some bytes; their hash."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def commit(self, repo_id, files):
        """Commit files (path to bytes, None to delete) directly, as another client would; the commit's name."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(private=False, commits=[_first(repo_id)]))
            listing = dict(repo.commits[-1][1])
            for path, content in files.items():
                if content is None:
                    listing.pop(path)
                else:
                    listing[path] = self.put(content)
            name = hashlib.sha1(json.dumps([repo.commits[-1][0], listing, len(repo.commits)]).encode()).hexdigest()
            repo.commits.append((name, listing))
            repo.is_listed = not self.index_lags
            repo.updated = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            return name

    def file(self, repo_id, path):
        """What a file holds now."""
        return self.blobs[self.repos[repo_id].commits[-1][1][path]]

    def rename(self, repo_id, new):
        """Give a repository another name; who asks for the former one is sent there."""
        with self.lock:
            self.repos[new] = self.repos.pop(repo_id)
            self.moved[repo_id] = new

    def sent(self, pattern):
        """Bytes sent in answer to GET requests for paths that match."""
        return sum(n for method, path, n in self.requests if method == "GET" and re.search(pattern, path))


def _first(repo_id):
    return hashlib.sha1(repo_id.encode()).hexdigest(), {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - named by http.server

    def _answer(self):
        hub, url = self.server_hub, urlsplit(self.path)
        # A Space is a repository of its own under the same rules: "spaces/owner/name".
        path = re.sub("^/api/spaces/", "/api/models/spaces/", unquote(url.path))
        self.path_only, self.query = path, {k: v[0] for k, v in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with hub.lock:
            for fault in hub.faults:
                if fault[0] == self.command and re.search(fault[1], self.path_only):
                    hub.faults.remove(fault)
                    self._send(fault[2], b'{"error": "made by the test"}', fault[3])
                    return
        for before, now in hub.moved.items():
            if re.search(f"/{re.escape(before)}(?=/|[.]git/|$)", self.path_only):
                self._send(307, b"", {"Location": self.path.replace(f"/{before}", f"/{now}", 1)})
                return
        for method, pattern, handler in ROUTES:
            match = re.fullmatch(pattern, self.path_only)
            if match and self.command in method:
                try:
                    handler(self, **match.groupdict())
                except Refusal as refusal:
                    headers = {"X-Error-Message": refusal.message, **refusal.headers}
                    if refusal.code:
                        headers["X-Error-Code"] = refusal.code
                    self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)
                return
        self._send(404, b'{"error": "no such route"}')

    # --- who asks, and for what --------------------

    def _user(self):
        given = self.headers.get("Authorization")
        if given is None:
            return None, None
        token = given.removeprefix("Bearer ")
        if token not in self.server_hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.server_hub.users[token]

    def _repo(self, repo_id, write=False, files=False):
        user, role = self._user()
        owner = repo_id.split("/")[-2]
        repo = self.server_hub.repos.get(repo_id)
        if repo is None or (repo.private and user != owner):
            status = 401 if user is None else 404
            raise Refusal(status, "Repository not found", "RepoNotFound")
        if files and repo.gated and user != owner:  # what is known about it everybody may see
            status = 401 if user is None else 403
            raise Refusal(status, f"Access to model {repo_id} is restricted and you are not in the list", "GatedRepo")
        if write and (user != owner or role != "write"):
            raise Refusal(403, "You don't have the rights to write there")
        return repo

    def _listing(self, repo_id, revision):
        found = self._repo(repo_id).files(revision)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    # --- answers --------------------

    def whoami(self):
        user, role = self._user()
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        named = {"type": "user", "name": user, "fullname": user.title(), "avatarUrl": "/avatar.png", "orgs": []}
        self._json(named | {"auth": {"accessToken": {"role": role}}})

    def create(self):
        user, role = self._user()
        asked = json.loads(self.body)
        owner = asked.get("organization") or user
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if user != owner or role != "write":
            raise Refusal(403, "You don't have the rights to create a model under this namespace")
        repo_id = f"{'spaces/' if asked.get('type') == 'space' else ''}{owner}/{asked['name']}"
        with self.server_hub.lock:
            self.server_hub.moved.pop(repo_id, None)  # the way to the new name ends here
            if repo_id in self.server_hub.repos:
                said = {"error": "You already created this model repo", "url": f"{self.server_hub.url}/{repo_id}"}
                self._send(409, json.dumps(said).encode())
                return
            private = asked.get("visibility") == "private"
            self.server_hub.repos[repo_id] = Repo(private, commits=[_first(repo_id)])
        self._json({"url": f"{self.server_hub.url}/{repo_id}", "name": repo_id})

    def delete(self):
        asked = json.loads(self.body)
        self._repo(repo_id := f"{asked['organization']}/{asked['name']}", write=True)
        with self.server_hub.lock:
            del self.server_hub.repos[repo_id]
        self._send(200, b"")

    def create_collection(self):
        user, role = self._user()
        asked = json.loads(self.body)
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if user != asked["namespace"] or role != "write":
            raise Refusal(403, "You don't have the rights to create a collection under this namespace")
        if not 1 <= len(asked["title"]) < 60:
            raise Refusal(400, "title must have 1 to 59 characters")
        words = re.sub("[^a-z0-9]+", "-", asked["title"].lower()).strip("-")
        slug = f"{user}/{words}-{hashlib.md5(asked['title'].encode()).hexdigest()[:24]}"
        with self.server_hub.lock:
            if slug in self.server_hub.collections:
                self._send(409, json.dumps({"error": "This collection exists already", "slug": slug}).encode())
                return
            made = Collection(asked["title"], user, asked["private"], asked.get("description", ""))
            self.server_hub.collections[slug] = made
        self.collection(slug)

    def _collection(self, slug):
        user, _ = self._user()
        found = self.server_hub.collections.get(slug)
        if found is None or (found.private and user != found.owner):
            raise Refusal(404, "Collection not found")
        return found

    def collection(self, slug):
        found = self._collection(slug)
        items = [
            {"_id": hashlib.md5(name.encode()).hexdigest()[:24], "id": name, "type": "model", "position": i}
            for i, name in enumerate(found.items)
        ]
        named = {"slug": slug, "title": found.title, "description": found.description, "private": found.private}
        owner = {"owner": {"name": found.owner, "type": "user"}}
        looks = {"lastUpdated": "2026-01-01T00:00:00.000Z", "position": 0, "theme": "green", "upvotes": 0}
        self._json(named | owner | looks | {"items": items})

    def add_item(self, slug):
        user, role = self._user()
        found, item = self._collection(slug), json.loads(self.body)["item"]
        if user != found.owner or role != "write":
            raise Refusal(403, "You don't have the rights to change this collection")
        assert item["type"] == "model"
        self._repo(item["id"])
        if item["id"] in found.items:
            raise Refusal(409, "This item is in the collection already")
        found.items.append(item["id"])
        self.collection(slug)

    def validate_yaml(self):
        import yaml

        text = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            data = yaml.safe_load(match.group(1)) if match else None
        except yaml.YAMLError as error:
            self._send(400, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode())
            return
        errors = []
        if not isinstance(data, dict):
            errors.append({"message": "empty or missing yaml metadata"})
        elif not isinstance(data.get("tags", []), list):
            errors.append({"message": "tags must be a list"})
        self._send(400 if errors else 200, json.dumps({"errors": errors, "warnings": []}).encode())

    def info(self, repo_id, revision="main"):
        repo = self._repo(repo_id)
        name, listing = self._listing(repo_id, revision)
        self._json(self._described(repo_id, repo, name, listing, sizes="blobs" in self.query))

    def models(self):
        user, _ = self._user()
        found = []
        for repo_id, repo in self.server_hub.repos.items():
            if repo_id.startswith("spaces/") or not repo.is_listed:
                continue
            owner = repo_id.split("/")[0]
            if repo.private and user != owner:
                continue
            row = self._described(repo_id, repo, *repo.commits[-1])
            wanted = self.query.get("filter")
            if (
                (wanted and wanted not in row["tags"])
                or (self.query.get("author") not in (None, owner))
                or (self.query.get("search", "").lower() not in repo_id.lower())
            ):
                continue
            found.append(row)
        found.sort(key=lambda row: -row["downloads"])
        limit, start = int(self.query.get("limit", 100)), int(self.query.get("cursor", 0))
        size = min(limit, 2)  # small pages, so that the client has to follow them
        more = {}
        if start + size < len(found):
            more = {"Link": f'<{self.server_hub.url}/api/models?{self._next(start + size)}>; rel="next"'}
        self._json(found[start : start + size], more)

    def _next(self, cursor):
        return "&".join(f"{k}={v}" for k, v in (self.query | {"cursor": cursor}).items())

    def _described(self, repo_id, repo, name, listing, sizes=False):
        import yaml

        card = self.server_hub.blobs[listing["README.md"]].decode() if "README.md" in listing else ""
        match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        data = yaml.safe_load(match.group(1)) if match else {}
        siblings = [
            {
                "rfilename": path,
                **({"size": len(self.server_hub.blobs[digest]), "blobId": digest[:40]} if sizes else {}),
            }
            for path, digest in listing.items()
        ]
        tags = [*data.get("tags", []), *([f"license:{data['license']}"] if "license" in data else [])]
        return {
            "_id": hashlib.md5(repo_id.encode()).hexdigest()[:24],
            "id": repo_id.removeprefix("spaces/"),
            "modelId": repo_id.removeprefix("spaces/"),
            "sha": name,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "downloads": repo.downloads,
            "likes": 0,
            "tags": tags,
            "lastModified": repo.updated or "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "cardData": data,
            "siblings": siblings,
        }

    def tree(self, repo_id, revision):
        _, listing = self._listing(repo_id, revision)
        rows = []
        for path, digest in listing.items():
            row = {"type": "file", "path": path, "size": len(self.server_hub.blobs[digest]), "oid": digest[:40]}
            if path.endswith(LFS_SUFFIXES):
                row["lfs"] = {"oid": digest, "size": row["size"], "pointerSize": 134}
            rows.append(row)
        self._json(rows)

    def preupload(self, repo_id, revision):
        listing, asked = self._repo(repo_id, write=True).commits[-1][1], json.loads(self.body)
        ignore = asked.get("gitIgnore")
        if ignore is None and ".gitignore" in listing:
            ignore = self.server_hub.blobs[listing[".gitignore"]].decode()
        patterns = [line for line in (ignore or "").splitlines() if line and not line.startswith("#")]
        files = []
        for f in asked["files"]:
            path, is_large = f["path"], f["path"].endswith(LFS_SUFFIXES)
            row = {
                "path": path,
                "uploadMode": "lfs" if is_large else "regular",
                "shouldIgnore": any(fnmatch.fnmatch(path, pattern) for pattern in patterns),
            }
            if path in listing:  # by which the client knows what has not changed
                content = self.server_hub.blobs[listing[path]]
                in_git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                row["oid"] = listing[path] if is_large else in_git
            files.append(row)
        self._json({"files": files})

    def xet_token(self, repo_id, kind):
        self._repo(repo_id, write=kind == "write", files=True)
        if self.server_hub.xet is None:
            raise Refusal(403, "This token may not use Xet storage")
        if not self.server_hub.xet:
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        until = int(time.time()) + 3600
        told = {"X-Xet-Cas-Url": self.server_hub.xet, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(until)}
        self._json({"casUrl": self.server_hub.xet, "accessToken": "xet", "exp": until}, told)

    def lfs_batch(self, repo_id):
        self._repo(repo_id, write=True)
        objects = []
        said, self.server_hub.lfs_error = self.server_hub.lfs_error, ""
        for item in json.loads(self.body)["objects"]:
            row = {"oid": item["oid"], "size": item["size"]}
            if said:
                row["error"] = {"code": 422, "message": said}
            elif item["oid"] not in self.server_hub.blobs:
                row["actions"] = {"upload": self._upload(repo_id, **item)}
            objects.append(row)
        self._json({"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def _upload(self, repo_id, oid, size):
        """How a large file is to be sent: in one, or in numbered parts whose receipts the Hub is shown in the end."""
        hub = self.server_hub
        if not 0 < hub.part_bytes < size:
            return {"href": f"{hub.storage}/{oid}"}
        n_parts = -(-size // hub.part_bytes)
        parts = {f"{i:05}": f"{hub.storage}/{oid}/{i}" for i in range(1, n_parts + 1)}
        return {
            "href": f"{hub.url}/{repo_id}/complete_multipart",
            "header": {"chunk_size": str(hub.part_bytes)} | parts,
        }

    def store_part(self, digest, number):
        receipt = hashlib.md5(self.body).hexdigest()
        self.server_hub.parts[digest, int(number)] = receipt, self.body
        self._send(200, b"", {"ETag": f'"{receipt}"'})

    def complete(self, repo_id):  # its address is a secret of who may write
        asked, parts = json.loads(self.body), self.server_hub.parts
        content = b""
        for i, part in enumerate(asked["parts"], 1):
            receipt, more = parts.pop((asked["oid"], i))
            if (part["partNumber"], part["etag"]) != (i, f'"{receipt}"'):
                raise Refusal(400, "these are not the parts that came")
            content += more
        if hashlib.sha256(content).hexdigest() != asked["oid"]:
            raise Refusal(400, "the content does not have this hash")
        self.server_hub.put(content)
        self._json({"success": True})

    def store(self, digest):
        if hashlib.sha256(self.body).hexdigest() != digest:
            raise Refusal(400, "the content does not have this hash")
        self.server_hub.put(self.body)
        self._send(200, b"")

    def make_commit(self, repo_id, revision):
        repo = self._repo(repo_id, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if self.server_hub.before_commit is not None:
            act, self.server_hub.before_commit = self.server_hub.before_commit, None
            act()
        with self.server_hub.lock:
            parent = header.get("parentCommit")
            if parent and not repo.commits[-1][0].startswith(parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = {}
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server_hub.blobs[value["oid"]]
                elif line["key"] == "deletedFile":
                    files[value["path"]] = None
            name = self.server_hub.commit(repo_id, files)
        if self.server_hub.lose_answer:
            self.server_hub.lose_answer = False
            raise Refusal(503, "made by the test")
        self._json({"success": True, "commitOid": name, "commitUrl": f"{self.server_hub.url}/{repo_id}/commit/{name}"})

    def resolve(self, repo_id, revision, path):
        repo = self._repo(repo_id, files=True)
        name, listing = self._listing(repo_id, revision)
        if path not in listing:
            raise Refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": name})
        digest, hub = listing[path], self.server_hub
        if path == "config.json" and self.command == "GET":
            repo.downloads += 1
        headers = {"X-Repo-Commit": name, "ETag": f'"{digest[:40]}"'}
        if path.endswith(LFS_SUFFIXES):
            size = str(len(hub.blobs[digest]))
            linked = {"X-Linked-Size": size, "X-Linked-ETag": f'"{digest}"', "Location": f"{hub.storage}/{digest}"}
            self._send(302, b"", headers | linked)
        else:
            self._send(200, hub.blobs[digest], headers)

    def fetch(self, digest):
        content, status, headers = self.server_hub.blobs[digest], 200, {"Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            first = int(wanted.group(1))
            last = int(wanted.group(2) or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        cut = self.server_hub.cut_after.pop(digest, None) if self.command == "GET" else None
        self._send(status, content, headers, cut)

    def _json(self, content, headers=None):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status, content, headers=None, cut=None):
        sent = b"" if self.command == "HEAD" else content[:cut]
        # Noted before it is sent: whoever has the answer may look at once.
        self.server_hub.requests.append((self.command, self.path_only, len(sent)))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(sent)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)


REPO = r"(?P<repo_id>(?:spaces/)?[\w.-]+/[\w.-]+)"
SLUG = r"(?P<slug>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>.+?)"  # branches may have slashes
ROUTES = (
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("POST",), "/api/repos/create", _Handler.create),
    (("DELETE",), "/api/repos/delete", _Handler.delete),
    (("POST",), "/api/collections", _Handler.create_collection),
    (("GET",), f"/api/collections/{SLUG}", _Handler.collection),
    (("POST",), f"/api/collections/{SLUG}/items", _Handler.add_item),
    (("POST",), "/api/validate-yaml", _Handler.validate_yaml),
    (("GET",), "/api/models", _Handler.models),
    (("GET",), f"/api/models/{REPO}/revision/{REVISION}", _Handler.info),
    (("GET",), f"/api/models/{REPO}/tree/{REVISION}", _Handler.tree),
    (("POST",), f"/api/models/{REPO}/preupload/{REVISION}", _Handler.preupload),
    (("POST",), f"/api/models/{REPO}/commit/{REVISION}", _Handler.make_commit),
    (("GET",), f"/api/models/{REPO}", _Handler.info),
    (("POST",), f"/{REPO}\\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("POST",), f"/{REPO}/complete_multipart", _Handler.complete),
    (("GET",), f"/api/models/{REPO}/xet-(?P<kind>read|write)-token/.+", _Handler.xet_token),
    (("PUT",), r"/storage/(?P<digest>[0-9a-f]{64})", _Handler.store),
    (("PUT",), r"/storage/(?P<digest>[0-9a-f]{64})/(?P<number>\d+)", _Handler.store_part),
    (("GET", "HEAD"), r"/storage/(?P<digest>[0-9a-f]{64})", _Handler.fetch),
    (("GET", "HEAD"), f"/{REPO}/resolve/{REVISION}/(?P<path>.+)", _Handler.resolve),
)
