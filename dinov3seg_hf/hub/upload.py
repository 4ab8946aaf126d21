# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A folder to a repository on the Hub: in one commit, or not at all and with a message that says what to do.

Knows files and the Hub's API, and nothing of models. What is there is compared first, so that doing it again sends what
is missing and commits only what differs. Neither tokens nor addresses (signed ones give access) are ever shown.
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

# What passes by itself; 412: somebody else's commit came between.
TRANSIENT_STATUS = frozenset({408, 412, 425, 429, 500, 502, 503, 504})

MAX_ATTEMPTS = 4

MAX_WAIT_SECONDS = 60.0

# Files of these kinds that are not in the folder (shards and code of an earlier version) leave the repository.
STALE_PATTERNS = ("*.py", "*.safetensors", "*.safetensors.index.json")

_LOGIN = (
    "Log in with `hf auth login`, or set HF_TOKEN, with a token that can write (made at "
    "https://huggingface.co/settings/tokens)."
)

_AGAIN = "Run the same command again: what has arrived is not sent twice."


class PublishingError(ValueError):
    """Why something was not published, and what to do about it."""


@dataclass(frozen=True)
class Upload:
    """What came of an upload.

    Attributes:
        repo_id, repo_type: Where.
        commit: The commit at the tip of `main`.
        changed: Whether it is new: `False` if all of it was there already.
        files: Size in bytes of each file of the folder, by its path.
    """

    repo_id: str
    repo_type: RepoType
    commit: str
    changed: bool
    files: dict[str, int]


def check_access(repo_id: str, api: HfApi | None = None) -> str:
    """Asks the Hub who we are, before any work is done.

    Returns:
        The name of the user.

    Raises:
        PublishingError: A bad name, no token, a token that is refused or that can only read, no connection.
    """
    api = HfApi() if api is None else api
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        raise PublishingError(
            f"{repo_id!r} is no name on the Hub ({error}). Expected owner/name, such as my-name/dinov3-seg."
        ) from error
    try:
        who = api.whoami()
    except (TransportError, OSError) as error:
        _explain(error, repo_id, api)
    token = who.get("auth", {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise PublishingError(f"The token of {who['name']} can only read. {_LOGIN}")
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
    """Makes the repository if need be and brings its `main` to hold the folder, by one commit.

    What passes by itself (429, 5xx, a cut connection) is waited for and tried again. A commit whose reply was lost is
    found to be there, and not made twice.

    Args:
        folder: All of its files go up.
        repo_id: "owner/name".
        repo_type: "model", "dataset" or "space" (of Gradio).
        private: Whether nobody else may see it. A repository that is there and public is refused then.
        message: Of the commit.
        api: Endpoint and token; those of the environment unless given.
        stale: Patterns of files that leave the repository where the folder has them no more.
        max_attempts: How often to try.

    Raises:
        PublishingError: It cannot be done; `main` is as it was.
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
            if not operations:  # or the reply to an earlier attempt was lost
                return Upload(repo_id, repo_type, info.sha, info.sha != base, sizes)
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                repo_type=repo_type,
                revision="main",
                parent_commit=info.sha,
            )
            return Upload(repo_id, repo_type, commit.oid, True, sizes)
        except PublishingError:
            raise
        except (TransportError, OSError, RuntimeError, ValueError) as error:
            cause = _root_of(error)
            wait = _seconds_to_wait(cause, num_attempts)
            if wait is None or num_attempts >= max_attempts:
                _explain(cause, repo_id, api)
            time.sleep(wait)


def _repository(repo_id: str, repo_type: RepoType, private: bool, api: HfApi):
    """What the Hub knows of the repository, made if it was not there."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type, revision="main")
    except RepositoryNotFoundError:
        space_sdk = "gradio" if repo_type == "space" else None
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=space_sdk)
        return api.repo_info(repo_id, repo_type=repo_type, revision="main")


def _check_visibility(info, private: bool) -> None:
    if private and not info.private:
        raise PublishingError(
            f"{info.id} is on the Hub already, and public. Make it private in its settings, choose another name, or "
            "leave --private out."
        )


def _paths(folder: str | os.PathLike) -> dict[str, Path]:
    """Path in the repository -> file, in the order of the names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishingError(f"There is no folder {str(folder)!r} to publish. Check the path.")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}


def _operations(
    paths: dict[str, Path], repo_id: str, repo_type: RepoType, commit: str, api: HfApi, stale: Sequence[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository, as it is at `commit`, hold the folder."""
    tree = api.list_repo_tree(repo_id, repo_type=repo_type, revision=commit, recursive=True)
    there = {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}  # files, not folders
    new = [name for name, path in paths.items() if name not in there or not _equal(path, there[name])]
    old = [name for name in there if name not in paths and any(fnmatch.fnmatchcase(name, pattern) for pattern in stale)]
    return [*(CommitOperationAdd(name, paths[name]) for name in new), *map(CommitOperationDelete, old)]


def _equal(path: Path, entry) -> bool:
    size = path.stat().st_size
    if size != entry.size:
        return False
    if entry.lfs is not None:
        return _digest(path, hashlib.sha256()) == entry.lfs.sha256
    return _digest(path, hashlib.sha1(b"blob %d\0" % size)) == entry.blob_id  # as git counts


def _digest(path: Path, digest) -> str:
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _root_of(error: BaseException) -> BaseException:
    """What went wrong in a thread of the client, which says only that it did."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status_of(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _retry_after(error: BaseException) -> str:
    """What the Hub asks for, in seconds or as a date; empty where it asks for nothing."""
    response = getattr(error, "response", None)
    return "" if response is None else response.headers.get("Retry-After", "")


def _is_connection_error(error: BaseException) -> bool:
    return _status_of(error) is None and isinstance(error, (TransportError, ConnectionError, TimeoutError))


def _seconds_to_wait(error: BaseException, num_attempts: int) -> float | None:
    """Before the next attempt; `None` if there is no use in one."""
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
    """Says in one sentence what happened and what to do; the cause keeps addresses, so it is not chained."""
    status = _status_of(error)
    untouched = f"Nothing was published to {repo_id}: its main is as it was."
    if isinstance(error, LocalTokenNotFoundError):
        reason = f"There is no token for the Hub. {_LOGIN}"
    elif isinstance(error, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set, so the Hub is out of reach. Unset it to publish."
    elif status == 401 and not isinstance(error, RepositoryNotFoundError):
        reason = f"The Hub does not accept the token: it is wrong or expired. {_LOGIN}"
    elif status in (401, 403, 404):
        reason = (
            f"The Hub does not let this token write to {repo_id}. Choose a name under an account or organization of "
            f"your own, or take a token that can write there. {untouched} {_LOGIN}"
        )
    elif status == 429:
        asked = _retry_after(error)
        when = f"in {asked} seconds" if asked.isdecimal() else "in some minutes"
        reason = f"The Hub refuses so many requests (429). {untouched} Run the same command again {when}."
    elif status == 412:
        reason = f"Somebody else commits to {repo_id} at the same time. {untouched} {_AGAIN}"
    elif status is not None and status >= 500:
        reason = f"The Hub has trouble (error {status}). {untouched} {_AGAIN}"
    elif status is not None:
        said = getattr(error, "server_message", None) or "no reason given"
        reason = f"The Hub refuses the files (error {status}: {_without_secrets(said, api)}). {untouched}"
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
