# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A small loopback stand-in for the Hugging Face Hub: models, data sets and Spaces for the unmodified clients.

    with MiniHub(root) as hub:
        ...  # clients: HF_ENDPOINT=hub.endpoint HF_TOKEN=... HF_HUB_DISABLE_XET=1, set before they are imported

Two listeners, both on 127.0.0.1 only: the Hub, and a "CDN" on another port (so another origin) that holds the LFS
objects behind secret URLs, as S3 does. The CDN refuses requests with an Authorization header, so a client that leaks
its token off the Hub is caught. Tokens: `invalid...` is refused (401), `readonly...` cannot write (403), `outsider...`
does not see private repos (404) or gated files (403), any other may write in the user's namespaces, or everywhere if
none are given.

Under the root: state.json (repos, refs, commits) and objects/ (contents by git sha1 or, if LFS, sha256). No Xet, pull
requests, search or Space runtime. It was written from the clients' source, not compared with the real Hub.
"""

import base64
import fnmatch
import hashlib
import http.server
import json
import os
import re
import socket
import struct
import threading
import time
import traceback
import uuid
from urllib.parse import parse_qs, quote, unquote, urlsplit

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
REPO_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9]([\w.-]{0,94}\w)?")
LFS_GLOBS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz "
    "*.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors *.tar *.tar.* *.tflite *.tgz "
    "*.wasm *.xz *.zip *.zst *tfevents*"
).split()
LFS_GLOBS_DATASET = "*.png *.jpg *.jpeg *.webp *.gif *.tiff *.bmp *.wav *.flac *.mp3 *.ogg *.mp4 *.webm".split()
REGULAR_LIMIT = 10 << 20  # bigger files are LFS whatever their name
# What faults match: a regular expression searched in "METHOD /path?query".
UPLOAD = {
    "lfs": r"^PUT /_lfs/",
    "commit": r"^POST .*/commit/",
    "preupload": r"^POST .*/preupload/",
    "batch": r"^POST .*/lfs/objects/batch",
    "any": r"^PUT /_lfs/|^POST .*/(commit|preupload|batch)",
}
DOWNLOAD = r"^GET (/_lfs/|.*/resolve/)"


class HubError(Exception):
    """An HTTP error answer, in the shape huggingface_hub turns into its error classes (X-Error-Code)."""

    def __init__(self, status, message, code=None, headers=None):
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


class DropError(Exception):
    """Raised to cut the connection (fault injection)."""


def git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(sha256, size):
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_info(sha256, size):
    return {"size": size, "pointerSize": len(lfs_pointer(sha256, size))}


def front_matter(text):
    """README metadata -> (simple top-level keys, errors, warnings). A shape check, not a YAML parser."""
    block = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.S | re.M)
    if not block or not block.group(1).strip():
        return {}, [], ["empty or missing yaml metadata in repo card"]
    data, errors, key = {}, [], None
    for n, line in enumerate(block.group(1).splitlines(), 2):
        item = re.match(r"\s*- +(.*)", line)
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if top := re.match(r"([A-Za-z_][\w.-]*):(?:\s+(.*))?$", line):
            key, value = top.group(1), re.sub(r"(^|\s+)#.*", "", top.group(2) or "").strip()
            if key in data:
                errors.append(f"line {n}: duplicated mapping key {key!r}")
            if ": " in value and value[0] not in "\"'[{|>":
                errors.append(f"line {n}: mapping values are not allowed here")
            data[key] = [] if not value else None if value[0] in "|>{[" else value.strip("\"'")
        elif item and isinstance(data.get(key), list) and not re.match(r"[\w-]+:(\s|$)", item.group(1)):
            data[key].append(item.group(1).strip("\"' "))
        elif item or line[0] in " ]}":
            data[key] = data[key] if isinstance(data.get(key), str) else None  # nested values are not kept
        else:
            errors.append(f"line {n}: can not read a block mapping entry")
    lic = data.get("license")
    if isinstance(lic, str) and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", lic):  # the real Hub has a list of ids
        errors.append(f'"license" must be a license id such as apache-2.0 or mit, got {lic!r}')
    return {k: v for k, v in data.items() if v}, errors, []


class MiniHub:
    def __init__(self, root, port=0, user="mini", orgs=("org",), namespaces=None):
        """namespaces: if given, repos elsewhere can be neither made nor written to (403)."""
        self.root, self.port, self.user, self.orgs, self.namespaces = root, port, user, list(orgs), namespaces
        self.lock, self.idle, self.busy = threading.RLock(), threading.Condition(), 0
        self.secret, self.faults, self.log, self.repos = uuid.uuid4().hex, [], [], {}  # repos: "type id" -> record
        os.makedirs(self.path("objects"), exist_ok=True)
        if os.path.exists(self.path("state.json")):
            with open(self.path("state.json")) as f:
                self.repos = json.load(f)

    def start(self):
        self.servers = [Server(self, "hub", self.port), Server(self, "cdn", 0)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{s.server_port}" for s in self.servers)
        for s in self.servers:
            threading.Thread(target=s.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        for s in self.servers:
            s.stopped = True  # for the connections that are kept alive
            s.shutdown()
            s.server_close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    # ---- fault injection --------------------------------------------------------------------------------
    def fault(self, match, action="status", times=1, **options):
        """Make the next `times` requests whose "METHOD /path?query" matches the regex `match` misbehave:
        status      answer `status` (503) with `headers`, without doing anything
        drop        cut the connection after `after_bytes` of the payload (None: before any answer; `reset`: RST)
        lose_reply  do the work, then cut the connection instead of answering
        delay       wait `seconds` (1), then go on"""
        if action not in ("status", "drop", "lose_reply", "delay"):
            raise ValueError(f"unknown fault action {action!r}")
        re.compile(match)
        with self.lock:
            self.faults.append({"match": match, "action": action, "times": times, **options})

    def fail_uploads(self, n, status=503, what="lfs"):
        self.fault(UPLOAD[what], "status", n, status=status)

    def drop_downloads(self, n, after_bytes=65536, reset=False, match=DOWNLOAD):
        self.fault(match, "drop", n, after_bytes=after_bytes, reset=reset)

    def rate_limit(self, n, retry_after=1, match=""):
        self.fault(match, "status", n, status=429, headers={"Retry-After": str(retry_after)})

    def take_fault(self, line):
        with self.lock:
            for f in self.faults:
                if f["times"] > 0 and re.search(f["match"], line):
                    f["times"] -= 1
                    return f
        return {}

    # ---- request log ------------------------------------------------------------------------------------
    def requests(self, match="", clear=False):
        """Requests so far whose "METHOD /path" matches, once those in progress are over (waits 2 s at most)."""
        with self.idle:
            self.idle.wait_for(lambda: self.busy == 0, 2)
            found = [r for r in self.log if re.search(match, f"{r['method']} {r['path']}")]
            if clear:
                self.log.clear()
            return found

    def record(self, entry):
        with self.idle:
            self.log.append(entry)
            self.busy -= 1
            self.idle.notify_all()

    # ---- storage ----------------------------------------------------------------------------------------
    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def write(self, data, *parts):
        tmp = self.path(uuid.uuid4().hex + ".tmp")
        with open(tmp, "wb") as f:
            f.write(data)
        os.replace(tmp, self.path(*parts))

    def read(self, oid):
        with open(self.path("objects", oid), "rb") as f:
            return f.read()

    def save(self):
        self.write(json.dumps(self.repos).encode(), "state.json")

    def add_file(self, data):
        oid = git_oid(data)
        self.write(data, "objects", oid)
        return [oid, len(data), None]  # a file entry: git oid, size, and sha256 if LFS

    def text(self, repo, sha, name):
        oid, _, sha256 = repo["commits"][sha]["files"].get(name, (None, 0, None))
        return self.read(oid).decode("utf-8", "replace") if oid and not sha256 else ""

    def add_commit(self, repo, parent, files, title, message=""):
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        commit = {"parent": parent, "title": title, "message": message, "date": date, "files": files}
        sha = hashlib.sha1(json.dumps([time.time_ns(), commit]).encode()).hexdigest()
        repo["commits"][sha] = commit
        return sha

    def create(self, rtype, rid, private, sdk):
        """A new repo; like the Hub's, it starts with a commit holding .gitattributes (and a Space's README)."""
        globs = LFS_GLOBS + (LFS_GLOBS_DATASET if rtype == "dataset" else [])
        attributes = "".join(f"{g} filter=lfs diff=lfs merge=lfs -text\n" for g in globs)
        files = {".gitattributes": self.add_file(attributes.encode())}
        if rtype == "space":
            card = f"---\ntitle: {rid.split('/')[1]}\nsdk: {sdk}\napp_file: app.py\npinned: false\n---\n"
            files["README.md"] = self.add_file(card.encode())
        repo = {
            "type": rtype,
            "id": rid,
            "private": private,
            "gated": False,
            "sdk": sdk,
            "branches": {},
            "tags": {},
            "commits": {},
        }
        repo["branches"]["main"] = self.add_commit(repo, None, files, "initial commit")
        self.repos[f"{rtype} {rid}"] = repo
        self.save()

    def resolve(self, repo, rev):
        """A branch, a tag or a (perhaps abbreviated) commit -> the commit's sha."""
        refs = {**repo["tags"], **repo["branches"]}
        hits = [refs[rev]] if rev in refs else [s for s in list(repo["commits"]) if len(rev) > 6 and s.startswith(rev)]
        if len(hits) != 1:
            raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return hits[0]

    def entry(self, files, path):
        """One row of /tree or /paths-info, or None if there is no such path."""
        if path in files:
            oid, size, sha256 = files[path]
            lfs = {"lfs": {"oid": sha256, **lfs_info(sha256, size)}} if sha256 else {}
            return {"type": "file", "oid": oid, "size": size, "path": path, **lfs}
        below = sorted((p, files[p][0]) for p in files if p.startswith(path + "/"))
        return {"type": "directory", "oid": git_oid(repr(below).encode()), "size": 0, "path": path} if below else None

    def info(self, repo, sha, blobs=False):
        """The body of /api/models/ID and the like."""
        files, siblings = repo["commits"][sha]["files"], []
        for path, (oid, size, sha256) in sorted(files.items()):
            lfs = {"lfs": {"sha256": sha256, **lfs_info(sha256, size)}} if sha256 else {}
            siblings.append({"rfilename": path, **({"size": size, "blobId": oid, **lfs} if blobs else {})})
        card = front_matter(self.text(repo, sha, "README.md"))[0]
        out = {
            "id": repo["id"],
            "author": repo["id"].split("/")[0],
            "sha": sha,
            "private": repo["private"],
            "gated": repo["gated"],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
            "cardData": card,
            "createdAt": min(c["date"] for c in repo["commits"].values()),
            "lastModified": repo["commits"][sha]["date"],
            "tags": card["tags"] if isinstance(card.get("tags"), list) else [],
        }
        if repo["type"] == "space":
            out["sdk"] = card.get("sdk", repo["sdk"])
        if repo["type"] == "model":
            out["pipeline_tag"] = card.get("pipeline_tag")
            out["library_name"] = card.get("library_name", "transformers" if "config.json" in files else None)
        return out


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size, stopped = True, False, 64, False

    def __init__(self, hub, role, port):
        self.hub, self.role = hub, role
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request, address):
        pass  # a client that went away; real bugs are reported by Handler.serve


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, server_version, disable_nagle_algorithm = "HTTP/1.1", "minihub", True

    # ---- one request ------------------------------------------------------------------------------------
    def serve(self):
        self.hub, start, url = self.server.hub, time.time(), urlsplit(self.path)
        self.query = {k: v[-1] for k, v in parse_qs(url.query).items()}
        self.segs = [unquote(s) for s in url.path.strip("/").split("/")]  # a %2F stays inside its segment
        self.base = "http://" + self.headers.get("Host", self.hub.endpoint[7:])
        self.got, self.sent, self.status, self.body, self.fault = 0, 0, 0, b"", {}
        if self.server.stopped:  # "down" means down
            self.close_connection = True
            return
        with self.hub.idle:
            self.hub.busy += 1
        self.fault = self.hub.take_fault(f"{self.command} {self.path}")
        try:
            self.act()
        except DropError:
            self.close_connection = True
            if self.fault.get("reset"):  # RST instead of FIN
                time.sleep(0.05)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
        except OSError:
            self.close_connection = True  # the client went away
        except Exception as e:
            traceback.print_exc()
            self.close_connection = True
            if not self.status:
                self.json({"error": f"minihub bug: {e!r}"}, 500)
        finally:
            self.hub.record(
                {
                    "time": round(start, 3),
                    "ms": round(1000 * (time.time() - start)),
                    "origin": self.server.role,
                    "method": self.command,
                    "path": self.path,
                    "status": self.status,
                    "bytes_in": self.got,
                    "bytes_out": self.sent,
                    "auth": "Authorization" in self.headers,
                    "range": self.headers.get("Range"),
                    "fault": self.fault.get("action"),
                }
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 the names are those of http.server

    def act(self):
        """Answer the request, with the fault that was picked for it, if any."""
        fault, action = self.fault, self.fault.get("action")
        cut = fault.get("after_bytes") if action == "drop" else None
        try:
            if action == "drop" and cut is None:
                raise DropError
            self.read_body(cut)
            if action == "delay":
                time.sleep(fault.get("seconds", 1))
            elif action == "status":
                status = fault.get("status", 503)
                raise HubError(status, f"injected fault {status}", headers=fault.get("headers"))
            self.route()
            if action == "drop":  # the payload was too small to be cut: keep the fault for the next one
                fault["times"], self.fault = fault["times"] + 1, {}
        except HubError as e:
            self.json({"error": e.message}, e.status, e.headers)

    def log_message(self, *args):
        pass

    def read_body(self, cut=None):
        """Read the request's body into self.body; cut the connection after `cut` bytes of it."""
        if "Transfer-Encoding" in self.headers:  # no client here sends chunks; S3 does not take them either
            self.close_connection = True
            raise HubError(411, "Length required")
        left, pieces = int(self.headers.get("Content-Length") or 0), []
        while left > 0:
            pieces.append(self.rfile.read(min(left, 65536)))
            left, self.got = left - len(pieces[-1]), self.got + len(pieces[-1])
            if not pieces[-1] or (cut is not None and self.got >= cut):
                raise DropError
        self.body = b"".join(pieces)

    def read_json(self):
        return json.loads(self.body or b"{}")

    def send(self, status, data=b"", headers=None, ctype="application/json; charset=utf-8"):
        if self.fault.get("action") == "lose_reply":
            raise DropError
        self.status = status
        self.send_response(status)
        for k, v in {
            "Content-Type": ctype,
            "Content-Length": len(data),
            "X-Request-Id": uuid.uuid4().hex,
            **(headers or {}),
        }.items():
            self.send_header(k, re.sub(r"[^\x20-\x7e]+", " ", str(v)))
        self.end_headers()
        if self.command != "HEAD":
            cut = self.fault.get("after_bytes", len(data)) if self.fault.get("action") == "drop" else len(data)
            self.wfile.write(data[:cut])
            self.sent = min(cut, len(data))
            if cut < len(data):
                raise DropError

    def json(self, obj, status=200, headers=None):
        self.send(status, json.dumps(obj).encode(), headers)

    def send_file(self, oid, headers):
        """An object, or the part of it that a Range header asks for."""
        data, status = self.hub.read(oid), 200
        if m := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            size, start, end = len(data), int(m[1]), min(len(data), int(m[2] or len(data)) + 1)
            if start >= end:
                raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
            data, status = data[start:end], 206
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
        self.send(status, data, {"Accept-Ranges": "bytes", **headers}, "application/octet-stream")

    # ---- who asks, and for which repo -------------------------------------------------------------------
    def role(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token.startswith("invalid"):
            raise HubError(401, "Invalid credentials in Authorization header")
        return next((r for r in ("readonly", "outsider") if token.startswith(r)), "full" if token else None)

    def need_write(self, namespace=None):
        role = self.role()
        if role is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        elsewhere = namespace is not None and self.hub.namespaces is not None and namespace not in self.hub.namespaces
        if role != "full" or elsewhere:
            raise HubError(403, "Forbidden: this token cannot write here")

    def repo(self, rtype, rid, write=False, content=False):
        """The repo's record, if the asker may see it (as on the Hub: 401 if anonymous, else 404)."""
        role, repo = self.role(), self.hub.repos.get(f"{rtype} {rid}")
        stranger = role in (None, "outsider")
        if repo is None or (repo["private"] and stranger):
            message = "Repository not found" if role else "Invalid username or password."
            raise HubError(404 if role else 401, message, "RepoNotFound")
        if content and repo["gated"] and stranger:
            raise HubError(403 if role else 401, f"Access to {rtype} {rid} is restricted.", "GatedRepo")
        if write:
            self.need_write(rid.split("/")[0])
        return repo

    # ---- routing ----------------------------------------------------------------------------------------
    def route(self):
        s, hub = self.segs, self.hub
        if self.server.role == "cdn":
            return self.lfs_object(*s)
        if s[0] == "api":
            with hub.lock:
                if len(s) > 2 and s[1] in TYPES:  # an id without a namespace is never found
                    return self.repo_api(TYPES[s[1]], "/".join(s[2:4]), s[4] if len(s) > 4 else "", s[5:])
                return self.global_api("/".join(s[1:]))
        rtype, s = TYPES.get(s[0], "model"), s[1:] if s[0] in TYPES else s
        if "resolve" in s[1:3]:
            at = s.index("resolve", 1)
            return self.resolve(rtype, "/".join(s[:at]), "".join(s[at + 1 : at + 2]), "/".join(s[at + 2 :]))
        if s[-4:] == ["info", "lfs", "objects", "batch"]:
            return self.lfs_batch(self.repo(rtype, "/".join(s[:-4]).removesuffix(".git"), write=True))
        self.unknown()

    def unknown(self):
        raise HubError(501 if self.segs[0] == "api" else 404, f"minihub does not serve {self.command} {self.path}")

    def global_api(self, what):
        hub, call = self.hub, f"{self.command} {what}"
        if call == "GET whoami-v2":
            if (role := self.role()) is None:
                raise HubError(401, "Invalid username or password.")
            orgs = [{"type": "org", "name": o, "fullname": o, "roleInOrg": "admin"} for o in hub.orgs]
            token = {"displayName": "mini", "role": "write" if role == "full" else "read"}
            return self.json(
                {
                    "type": "user",
                    "id": "0" * 24,
                    "name": hub.user,
                    "fullname": "Mini Hub",
                    "orgs": orgs,
                    "isPro": False,
                    "auth": {"type": "access_token", "accessToken": token},
                }
            )
        if call == "POST validate-yaml":
            _, errors, warnings = front_matter(self.read_json().get("content", ""))
            return self.json(
                {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]},
                400 if errors else 200,
            )
        if call in ("POST repos/create", "DELETE repos/delete"):
            self.need_write()
            req = self.read_json()
            rtype, rid = req.get("type") or "model", f"{req.get('organization') or hub.user}/{req.get('name') or ''}"
            return self.create(req, rtype, rid) if self.command == "POST" else self.delete(rtype, rid)
        if what.startswith("telemetry"):
            return self.json({})
        self.unknown()

    def create(self, req, rtype, rid):
        url, namespace = f"{self.base}/{PREFIX.get(rtype, '')}{rid}", rid.split("/")[0]
        if rtype not in PREFIX or not all(REPO_NAME.fullmatch(part) for part in rid.split("/")):
            raise HubError(400, f"Invalid repo type or name: {rtype} {rid}")
        if self.hub.namespaces is not None and namespace not in self.hub.namespaces:
            raise HubError(403, f"You don't have the rights to create a {rtype} under the namespace {namespace!r}")
        if rtype == "space" and req.get("sdk") not in ("gradio", "streamlit", "docker", "static"):
            raise HubError(400, '"sdk" must be one of gradio, streamlit, docker, static')
        if f"{rtype} {rid}" in self.hub.repos:
            return self.json({"error": f"You already created this {rtype} repo", "url": url, "name": rid}, 409)
        private = req.get("visibility") == "private" or bool(req.get("private"))
        self.hub.create(rtype, rid, private, req.get("sdk"))
        self.json({"url": url, "name": rid, "id": uuid.uuid4().hex[:24]})

    def delete(self, rtype, rid):
        self.repo(rtype, rid, write=True)
        del self.hub.repos[f"{rtype} {rid}"]
        self.hub.save()
        self.json({})

    # ---- /api/{type}s/{namespace}/{name}/{op}/{rest} ----------------------------------------------------
    def repo_api(self, rtype, rid, op, rest):
        hub, call, rev = self.hub, f"{self.command} {op}", rest[0] if rest else "main"
        repo = self.repo(rtype, rid, write=self.command != "GET" and op != "paths-info")
        if call in ("GET ", "GET revision"):
            return self.json(hub.info(repo, hub.resolve(repo, rev), "blobs" in self.query))
        if call == "GET refs":
            refs = {
                key: [{"name": n, "ref": ref + n, "targetCommit": sha} for n, sha in repo[key].items()]
                for key, ref in (("branches", "refs/heads/"), ("tags", "refs/tags/"))
            }
            return self.json({**refs, "converts": [], "pullRequests": []})
        if call == "GET commits":
            sha, out = hub.resolve(repo, rev), []
            while sha:
                commit = repo["commits"][sha]
                out.append(
                    {"id": sha, "authors": [{"user": hub.user}], **{k: commit[k] for k in ("title", "message", "date")}}
                )
                sha = commit["parent"]
            return self.json(out)
        if call == "GET tree":
            return self.tree(hub.resolve(repo, rev), repo, "/".join(rest[1:]).strip("/"))
        if call == "POST paths-info":  # form-encoded
            files = repo["commits"][hub.resolve(repo, rev)]["files"]
            rows = [hub.entry(files, p.strip("/")) for p in parse_qs(self.body.decode()).get("paths", [])]
            return self.json([r for r in rows if r])
        if call == "POST preupload":
            return self.preupload(repo, hub.resolve(repo, rev))
        if call == "POST commit":
            return self.commit(repo, rev)
        if op in ("branch", "tag") and self.command in ("POST", "DELETE"):
            return self.ref(repo, op, rev)
        if call == "PUT settings":
            req = self.read_json()
            repo["gated"] = req.get("gated", repo["gated"])
            if "visibility" in req or "private" in req:
                repo["private"] = req.get("visibility") == "private" or bool(req.get("private"))
            hub.save()
            return self.json({"private": repo["private"], "gated": repo["gated"]})
        if op in ("xet-read-token", "xet-write-token"):
            raise HubError(404, "minihub has no Xet storage: set HF_HUB_DISABLE_XET=1 in the client's environment")
        self.unknown()

    def tree(self, sha, repo, path):
        files, base, names = repo["commits"][sha]["files"], path + "/" if path else "", set()
        deep = self.query.get("recursive", "").lower() in ("1", "true")
        for p in files:
            if p.startswith(base):
                parts = p[len(base) :].split("/")
                names.update(base + "/".join(parts[: i + 1]) for i in range(len(parts) if deep else 1))
        if path and not names:
            raise HubError(404, f"{path} does not exist on {sha}", "EntryNotFound")
        self.json([self.hub.entry(files, n) for n in sorted(names)])

    def ref(self, repo, kind, name):
        """Create or delete a branch (POST branch/NAME {startingPoint}) or a tag (POST tag/REV {tag})."""
        refs = repo["branches" if kind == "branch" else "tags"]
        if self.command == "POST":
            req = self.read_json()
            rev, name = (req.get("startingPoint") or "main", name) if kind == "branch" else (name, req.get("tag"))
            if not name or name.startswith("refs/"):
                raise HubError(400, f"Invalid reference for a {kind}: {name!r}")
            if name in refs:
                raise HubError(409, f"Reference already exists: {name}")
            refs[name] = self.hub.resolve(repo, rev)
        elif name not in refs:
            raise HubError(404, f"Reference not found: {name}", "RevisionNotFound")
        elif (kind, name) == ("branch", "main"):
            raise HubError(403, "Cannot delete the default branch")
        else:
            del refs[name]
        self.hub.save()
        self.json({})

    def preupload(self, repo, sha):
        """For each file to come: regular or LFS (by .gitattributes, size or NUL bytes), and its present oid."""
        lines, out = self.hub.text(repo, sha, ".gitattributes").splitlines(), []
        globs = [line.split()[0] for line in lines if "filter=lfs" in line]
        for f in self.read_json().get("files", []):
            path, sample = f["path"], base64.b64decode(f.get("sample", ""))
            lfs = (
                f["size"] >= REGULAR_LIMIT
                or b"\0" in sample
                or any(fnmatch.fnmatchcase(path if "/" in g else path.split("/")[-1], g) for g in globs)
            )
            oid, _, sha256 = repo["commits"][sha]["files"].get(path, (None, 0, None))
            out.append(
                {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": sha256 or oid}
            )
        self.json({"files": out})

    def commit(self, repo, rev):
        """The NDJSON commit: a header, then one operation per line. All or nothing."""
        hub, header = self.hub, {}
        if rev not in repo["branches"]:  # tags and bare commits cannot move
            raise HubError(404, f"{rev} is not a branch", "RevisionNotFound")
        head = repo["branches"][rev]
        files = dict(repo["commits"][head]["files"])
        for line in self.body.splitlines():
            op = json.loads(line)
            key, value = op["key"], op["value"]
            path = value.get("path", "")
            if key == "header":
                header = value
                if not head.startswith(header.get("parentCommit") or ""):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif {"..", ".", ".git", ""} & set(path.removesuffix("/").split("/")):
                raise HubError(400, f"Invalid path in repo: {path!r}")
            elif key == "file":
                data = base64.b64decode(value["content"])
                if path == "README.md" and (bad := front_matter(data.decode("utf-8", "replace"))[1]):
                    raise HubError(400, "Invalid metadata in README.md: " + "; ".join(bad))
                files[path] = hub.add_file(data)
            elif key == "lfsFile":
                oid = value["oid"] if re.fullmatch("[0-9a-f]{64}", value["oid"]) else "-"
                if not os.path.exists(hub.path("objects", oid)):
                    raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
                size = os.path.getsize(hub.path("objects", oid))
                files[path] = [git_oid(lfs_pointer(oid, size)), size, oid]
            elif key in ("deletedFile", "deletedFolder"):
                folder = path.rstrip("/") + "/" if key == "deletedFolder" else "\0"
                gone = [p for p in files if p == path or p.startswith(folder)]
                if not gone:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for p in gone:
                    del files[p]
            else:
                raise HubError(400, f"Unknown commit operation {key!r}")
        sha = hub.add_commit(repo, head, files, header.get("summary", ""), header.get("description", ""))
        repo["branches"][rev] = sha
        hub.save()
        url = f"{self.base}/{PREFIX[repo['type']]}{repo['id']}/commit/{sha}"
        self.json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    # ---- files ------------------------------------------------------------------------------------------
    def resolve(self, rtype, rid, rev, path):
        """GET/HEAD resolve: regular files are served here, LFS ones by a redirect to the CDN, as on the Hub."""
        hub, repo = self.hub, self.repo(rtype, rid, content=True)
        sha = hub.resolve(repo, rev)
        entry, headers = repo["commits"][sha]["files"].get(path), {"X-Repo-Commit": sha}
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        oid, size, sha256 = entry
        headers["ETag"] = f'"{oid}"'
        if not sha256:
            return self.send_file(oid, headers)
        location = f"{hub.cdn}/_lfs/{sha256}/{hub.secret}/{quote(path.split('/')[-1])}"
        self.send(302, b"", {**headers, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": size, "Location": location})

    def lfs_batch(self, repo):
        """Git LFS batch (basic transfer): a PUT to the CDN for each object that is not here yet."""
        hub, out = self.hub, []
        for o in self.read_json().get("objects", []):
            out.append({"oid": o["oid"], "size": o["size"]})
            if not os.path.exists(hub.path("objects", o["oid"])):
                out[-1]["actions"] = {"upload": {"href": f"{hub.cdn}/_lfs/{o['oid']}/{hub.secret}"}}
        self.json({"transfer": "basic", "objects": out})

    def lfs_object(self, lfs="", oid="", secret="", *_):
        """The CDN: /_lfs/SHA256/SECRET. The secret stands for the signature of a real presigned URL."""
        if lfs != "_lfs" or secret != self.hub.secret or not re.fullmatch("[0-9a-f]{64}", oid):
            raise HubError(403, "SignatureDoesNotMatch")
        if "Authorization" in self.headers:
            raise HubError(400, "Only one auth mechanism allowed: a Hub token was sent to the CDN")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise HubError(400, "BadDigest: the content does not match its sha256")
            self.hub.write(self.body, "objects", oid)
            return self.send(200, b"", {"ETag": f'"{oid[:32]}"'})
        if not os.path.exists(self.hub.path("objects", oid)):
            raise HubError(404, "No such object")
        self.send_file(oid, {"ETag": f'"{oid}"'})
