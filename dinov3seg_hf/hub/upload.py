# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Uploads a folder to a repository on the Hub in one commit, or raises an error with a remedy and commits nothing.

Handles files and the Hub API, not models. The folder is first compared with the repository: a repeated upload sends
only missing data and commits only differences. Error messages never contain tokens or request URLs, because signed URLs
give access.
"""

import fnmatch
import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..compat import TransportError

RepoType = Literal["model", "dataset", "space"]

# Temporary errors; 412: another commit was made in the meantime.
TRANSIENT_STATUS = frozenset({408, 412, 425, 429, 500, 502, 503, 504})

MAX_ATTEMPTS = 4

MAX_WAIT_SECONDS = 60.0

# Files that match, but are not in the folder (shards and code of an earlier version), are removed from the repository.
STALE_PATTERNS = ("*.py", "*.safetensors", "*.safetensors.index.json")

_LOGIN = (
    "Log in with `hf auth login`, or set HF_TOKEN, with a write token (create one at "
    "https://huggingface.co/settings/tokens)."
)

_AGAIN = "Run the same command again; data that has arrived is not sent again."


class PublishingError(ValueError):
    """Raised if something was not published; the message contains the reason and the remedy."""


@dataclass(frozen=True)
class Upload:
    """The result of an upload.

    Attributes:
        repo_id, repo_type: The target repository.
        commit: The latest commit of `main`.
        changed: Whether the upload made a new commit; `False` if the repository already had all files.
        files: Size in bytes of each file of the folder, by path.
        removed: The files of an earlier version that were removed from the repository.
    """

    repo_id: str
    repo_type: RepoType
    commit: str
    changed: bool
    files: dict[str, int]
    removed: tuple[str, ...] = ()


def check_access(repo_id: str, api: HfApi | None = None) -> str:
    """Checks the name of a repository and the token of the user. Does not check whether the repository exists.

    Returns:
        The name of the user.

    Raises:
        PublishingError: If the name is invalid, the token is missing, rejected or read-only, or the Hub is not
            reachable.
    """
    api = HfApi() if api is None else api
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("the owner is missing")
    except HFValidationError as error:
        raise PublishingError(
            f"{repo_id!r} is not a valid Hub repository name ({error}). Expected owner/name, such as "
            "my-name/dinov3-seg."
        ) from error
    try:
        who = api.whoami()
    except (TransportError, OSError) as error:
        _explain(error, repo_id, api)
    token = who.get("auth", {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise PublishingError(f"The token of {who['name']} is read-only; expected a write token. {_LOGIN}")
    return who["name"]


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    repo_type: RepoType = "model",
    private: bool = False,
    message: str = "Upload with dinov3seg_hf",
    api: HfApi | None = None,
    stale: Sequence[str] = STALE_PATTERNS,
    max_attempts: int = MAX_ATTEMPTS,
) -> Upload:
    """Uploads a folder to `main` of a repository in one commit; creates the repository if it does not exist.

    Temporary errors (429, 5xx, a lost connection) are retried after a wait. If the reply to a commit was lost, the
    commit is detected and not made twice.

    Args:
        folder: The folder; all of its files are uploaded.
        repo_id: The target repository, "owner/name".
        repo_type: "model", "dataset" or "space" (with Gradio).
        private: Whether the repository must be private. An existing public repository raises an error then.
        message: The commit message.
        api: The client with endpoint and token. Default: endpoint and token of the environment.
        stale: Patterns of files to remove from the repository if they are not in the folder. A folder of the repository
            into which no such file is uploaded keeps all of its files, because others have put them there.
        max_attempts: Maximum number of attempts.

    Raises:
        PublishingError: If the upload fails; `main` stays unchanged.
    """
    api = HfApi() if api is None else api
    paths = _paths(folder)
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    num_attempts, base = 0, None
    while True:
        num_attempts += 1
        try:
            info = _repository(repo_id, repo_type, private, api)
            _check_visibility(info, private)
            base = info.sha if base is None else base
            operations = _operations(paths, repo_id, repo_type, info.sha, api, stale)
            if not operations:  # everything is there; perhaps only the reply to an earlier attempt was lost
                return Upload(repo_id, repo_type, info.sha, info.sha != base, sizes)
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                repo_type=repo_type,
                revision="main",
                parent_commit=info.sha,
            )
            removed = [item.path_in_repo for item in operations if isinstance(item, CommitOperationDelete)]
            return Upload(repo_id, repo_type, commit.oid, True, sizes, tuple(removed))
        except PublishingError:
            raise
        except (TransportError, OSError, RuntimeError, ValueError) as error:
            cause = _root_of(error)
            wait = _seconds_to_wait(cause, num_attempts)
            if wait is None or num_attempts >= max_attempts:
                _explain(cause, repo_id, api)
            time.sleep(wait)


def _repository(repo_id: str, repo_type: RepoType, private: bool, api: HfApi):
    """The information of the Hub about the repository, which is created if it does not exist."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type, revision="main")
    except RepositoryNotFoundError:
        space_sdk = "gradio" if repo_type == "space" else None
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=space_sdk)
        return api.repo_info(repo_id, repo_type=repo_type, revision="main")


def _check_visibility(info, private: bool) -> None:
    if private and not info.private:
        raise PublishingError(
            f"{info.id} already exists on the Hub and is public; expected a private repository. Make the repository "
            "private in its settings, choose another name, or remove --private."
        )


def _paths(folder: str | os.PathLike) -> dict[str, Path]:
    """A mapping from path in the repository to file, sorted by name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishingError(f"Folder {str(folder)!r} was not found. Check the path.")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}


def _operations(
    paths: dict[str, Path], repo_id: str, repo_type: RepoType, commit: str, api: HfApi, stale: Sequence[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The operations that bring the files of the folder to the repository, relative to `commit`."""
    tree = api.list_repo_tree(repo_id, repo_type=repo_type, revision=commit, recursive=True)
    there = {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}  # files, not folders
    new = [name for name, path in paths.items() if name not in there or not _equal(path, there[name])]
    ours = {"", *(_top_folder(name) for name in paths if _matches(name, stale))}
    old = [name for name in there if name not in paths and _matches(name, stale) and _top_folder(name) in ours]
    return [*(CommitOperationAdd(name, paths[name]) for name in new), *map(CommitOperationDelete, old)]


def _top_folder(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _equal(path: Path, entry) -> bool:
    size = path.stat().st_size
    if size != entry.size:
        return False
    if entry.lfs is not None:
        return _digest(path, hashlib.sha256()) == entry.lfs.sha256
    return _digest(path, hashlib.sha1(b"blob %d\0" % size)) == entry.blob_id  # the hash of a git blob


def _digest(path: Path, digest) -> str:
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _root_of(error: BaseException) -> BaseException:
    """The original error in a thread of the client, which the client wraps in a `RuntimeError`."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status_of(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _retry_after(error: BaseException) -> str:
    """The `Retry-After` header of the response, in seconds or as a date; empty if the header is missing."""
    response = getattr(error, "response", None)
    return "" if response is None else response.headers.get("Retry-After", "")


def _is_connection_error(error: BaseException) -> bool:
    return _status_of(error) is None and isinstance(error, (TransportError, ConnectionError, TimeoutError))


def _seconds_to_wait(error: BaseException, num_attempts: int) -> float | None:
    """The number of seconds before the next attempt; `None` if a retry is useless or the wait is too long."""
    if isinstance(error, OfflineModeIsEnabled):
        return None
    status = _status_of(error)
    if status not in TRANSIENT_STATUS and not _is_connection_error(error):
        return None
    wait = 2.0 ** (num_attempts - 1)
    asked = _retry_after(error)
    if asked.isdecimal():
        wait = float(asked)
    return wait if wait <= MAX_WAIT_SECONDS else None


def _explain(error: BaseException, repo_id: str, api: HfApi) -> NoReturn:
    """Raises an error with the reason and the remedy; the cause may contain URLs, so it is not chained."""
    status = _status_of(error)
    untouched = f"Nothing was published to {repo_id}; its main is unchanged."
    if isinstance(error, LocalTokenNotFoundError):
        reason = f"A token for the Hub was not found. {_LOGIN}"
    elif isinstance(error, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set, so the Hub is not reachable. Unset HF_HUB_OFFLINE to publish."
    elif status == 401 and not isinstance(error, RepositoryNotFoundError):
        reason = f"The Hub rejected the token as invalid or expired. {_LOGIN}"
    elif status in (401, 403, 404):
        reason = (
            f"The token cannot write to {repo_id} on the Hub. Choose a name under your own account or organization, or "
            f"use a token with write access to this repository. {untouched} {_LOGIN}"
        )
    elif status == 429:
        asked = _retry_after(error)
        when = f"in {asked} seconds" if asked.isdecimal() else "in a few minutes"
        reason = f"The Hub received too many requests (429). {untouched} Run the same command again {when}."
    elif status == 412:
        reason = f"Another commit to {repo_id} was made at the same time. {untouched} {_AGAIN}"
    elif status is not None and status >= 500:
        reason = f"The Hub failed (error {status}). {untouched} {_AGAIN}"
    elif status is not None:
        said = getattr(error, "server_message", None) or "unknown reason"
        reason = f"The Hub rejected the files (error {status}: {_without_secrets(said, api)}). {untouched}"
    elif _is_connection_error(error):
        reason = f"The connection to the Hub was lost ({type(error).__name__}). {untouched} {_AGAIN}"
    elif isinstance(error, OSError) and error.strerror:
        file = f" ({error.filename})" if error.filename else ""
        reason = f"A file cannot be read or written{file}: {error.strerror}. {untouched} {_AGAIN}"
    else:
        reason = f"{_without_secrets(str(error), api)} {untouched}"
    raise PublishingError(reason) from None


def _without_secrets(text: str, api: HfApi) -> str:
    for token in (api.token, get_token()):
        if isinstance(token, str) and token:
            text = text.replace(token, "***")
    text = re.sub(r"\bhf_\w+", "***", text)
    return " ".join(re.sub(r"https?://\S+", "(address)", text).split())


__all__ = ["PublishingError", "Upload", "check_access", "upload_folder"]
