# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Asks the Hub once whether it can be reached, because libraries ask for each file, and for each again and again.

Without a connection, huggingface_hub tries for 23 seconds per file, also for files of an earlier download.
"""

from huggingface_hub import HfApi, is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from .model.checks import first_line

# Seconds to wait for the first answer of the Hub.
TIMEOUT = 10
OFFLINE = "HF_HUB_OFFLINE forbids to ask the Hub"


def ask_hub(name: str) -> str | None:
    """Asks the Hub once for a repository.

    Returns:
        Why the Hub cannot be asked; `None` if the repository exists, or its mirror (HF_ENDPOINT) knows only files.

    Raises:
        HfHubHTTPError: If the Hub answers that there is no such repository, or that it is not for this user.
        HFValidationError: If the name cannot be that of a repository.
    """
    try:
        HfApi().model_info(name, timeout=TIMEOUT)
    except (HfHubHTTPError, HFValidationError):
        raise
    except OfflineModeIsEnabled:
        return OFFLINE
    except Exception as error:  # the errors of the HTTP library have no common base in all versions
        if isinstance(error, (KeyError, TypeError, ValueError)) and not isinstance(error, OSError):
            return None  # an answer, though not one of the Hub: a mirror's. Errors of TLS are both
        return f"there is no connection to the Hub ({first_line(error)})"
    return None


def at_hand(name: str, revision: str | None = None) -> str:
    """Returns the name of a repository or, if there is no connection, the folder of an earlier download.

    What cannot be the name of a repository comes back as it is: the library's message says more.

    Raises:
        ValueError: If there is neither; the message has the reason and the remedy, and not the name.
    """
    try:
        problem = OFFLINE if is_offline_mode() else ask_hub(name)
        folder = None if problem is None else _earlier_download(name, revision)
    except (HfHubHTTPError, HFValidationError):
        return name  # the library asks, too, and its message says more
    if problem is None:
        return name
    if folder is not None:
        return name if problem == OFFLINE else folder  # with HF_HUB_OFFLINE, the libraries do not ask
    remedy = "or unset HF_HUB_OFFLINE" if problem == OFFLINE else "and run this again with a connection"
    raise ValueError(f"it is no folder and no earlier download, and {problem}. Check the name, {remedy}")


def _earlier_download(name: str, revision: str | None) -> str | None:
    """Returns the folder of an earlier download, also of some files of the repository; `None` if there is none."""
    try:
        return snapshot_download(name, revision=revision, local_files_only=True)
    except HFValidationError:
        raise
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        # huggingface_hub 2 refuses a folder without files that nobody needs, such as logs, and says where it is
        return getattr(error, "snapshot_path", None)
