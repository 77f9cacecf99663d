"""The Hugging Face hub through its own client, with its cache and progress bars, and errors of one line.

The only module that imports huggingface_hub, which takes a while: import this one only when a hub id is asked for.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from plait.errors import ModelNotFoundError


class HuggingFaceHub:
    """`endpoint` and `cache` default to the client's own (HF_ENDPOINT, HF_HOME). See `plait.formats.hub.Hub`."""

    def __init__(self, endpoint: str | None = None, cache: Path | None = None) -> None:
        self._api = HfApi(endpoint=endpoint)
        self._endpoint = endpoint
        self._cache = cache

    def list_files(self, repo: str) -> list[str]:
        try:
            return self._api.list_repo_files(repo)
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise self._refused(repo, error) from None
        except Exception as error:  # whatever the client's HTTP library raises; it differs between versions
            return self._cached_files(repo, error)

    def download(self, repo: str, files: list[str]) -> Path:
        try:
            return Path(self._snapshot(repo, files, local_only=False))
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise self._refused(repo, error) from None
        except Exception as error:
            raise ModelNotFoundError(f"{repo}: download from the hub failed: {_first_line(error)}") from None

    def _cached_files(self, repo: str, cause: Exception) -> list[str]:
        try:
            directory = Path(self._snapshot(repo, None, local_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError):
            reason = f"the hub cannot be reached and the model is not in the local cache: {_first_line(cause)}"
            raise ModelNotFoundError(f"{repo}: {reason}") from None
        return [entry.relative_to(directory).as_posix() for entry in directory.rglob("*") if entry.is_file()]

    def _snapshot(self, repo: str, files: list[str] | None, *, local_only: bool) -> str:
        return str(
            snapshot_download(
                repo,
                allow_patterns=files,
                local_files_only=local_only,
                endpoint=self._endpoint,
                cache_dir=self._cache,
            )
        )

    @staticmethod
    def _refused(repo: str, error: Exception) -> ModelNotFoundError:
        if isinstance(error, GatedRepoError):
            return ModelNotFoundError(
                f"{repo}: the model is gated; accept its terms on the hub and run `hf auth login`"
            )
        return ModelNotFoundError(f"{repo}: no such path here and no such model on the hub (or it is private)")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
