"""Where a checkpoint lies: in the models folder, fetched from the hub where it is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.engines import Weights, lookup
from common.errors import NightshiftError
from worker.engine import Host
from worker.weights import Tell


def folder_of(name: str, host: Host) -> Path:
    """The folder of a registered engine's weights, fetched where they are not there yet.

    Raises `device_missing`, `weights_missing`, `weights_refused`.
    """
    from worker import device

    spec = lookup(name)
    if spec.weights is None:
        raise NightshiftError("weights_missing", f"The engine {name} says nothing of its weights.")
    # Before gigabytes are fetched for a machine that may not use them.
    device.choose(host, name)
    return locate(spec.weights, host.models, host.token, tell=host.on_fetch)


def locate(
    weights: Weights,
    models: Path,
    token: str | None = None,
    endpoint: str | None = None,
    tell: Tell = lambda done, total: None,
) -> Path:
    """The folder of the weights below `models`, or at an absolute path; what is missing is fetched into it.

    token: of an account that accepted the licence.  endpoint: another hub than the public one.  tell: called with bytes
    of a file so far and in all; what it raises ends the fetching.
    Raises `weights_missing` where they cannot be had, `weights_refused` where the hub refuses them to this token.
    """
    folder = models / weights.folder
    if all((folder / name).is_file() for name in weights.files):
        return folder
    if weights.repository is None:
        raise NightshiftError(
            "weights_missing",
            f"{folder} lacks {', '.join(name for name in weights.files if not (folder / name).is_file())}.",
            hint=f"Put the weights there: {weights.licence_url}" if weights.licence_url else "",
        )
    return _fetch(weights, weights.repository, folder, token, endpoint, tell)


def _fetch(
    weights: Weights, repository: str, folder: Path, token: str | None, endpoint: str | None, tell: Tell
) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        for name in weights.files:
            hf_hub_download(
                repository,
                name,
                local_dir=folder,
                token=token or False,
                endpoint=endpoint,
                tqdm_class=_telling(tell),
            )
    except RemoteEntryNotFoundError as error:
        raise NightshiftError("weights_missing", f"The repository {repository} lacks {name}.") from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        status = error.response.status_code if error.response is not None else 0
        if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError) and status == 404:
            raise NightshiftError("weights_missing", f"The hub has no repository {repository}.") from error
        raise _refused(weights, repository, token) from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise _refused(weights, repository, token) from error
        raise _unreachable(repository, folder, error) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(repository, folder, error) from error
    return folder


def _telling(tell: Tell) -> Any:
    """What the hub's library takes for a progress bar."""
    from tqdm.std import tqdm

    class Telling(tqdm):
        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any) -> None:
            super().__init__(disable=True)
            self._done, self._total = int(initial), int(total) if total else None

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            tell(self._done, self._total)

    return Telling


def _refused(weights: Weights, repository: str, token: str | None) -> NightshiftError:
    page = weights.licence_url or f"https://huggingface.co/{repository}"
    what = "The token set as NIGHTSHIFT_HF_TOKEN may not read" if token else "A token is needed to read"
    return NightshiftError(
        "weights_refused",
        f"{what} {repository}: its weights are gated.",
        hint=f"Accept the licence at {page} and set NIGHTSHIFT_HF_TOKEN to a token of that account.",
    )


def _unreachable(repository: str, folder: Path, error: Exception) -> NightshiftError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return NightshiftError(
        "weights_missing",
        f"{repository} could not be fetched: {reason}",
        hint=f"Put the files into {folder} by hand where this machine cannot reach the hub.",
        retryable=True,
    )
