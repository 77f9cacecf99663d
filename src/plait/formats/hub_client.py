"""The Hugging Face hub through its own client, with its cache and progress bars, and errors of one line.

The only module that imports huggingface_hub, which takes a while: import this one only when a hub id is asked for.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from plait.errors import ModelNotFoundError

_TIMEOUT_S = 20.0
_REFUSALS = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)


class HuggingFaceHub:
    """`endpoint` and `cache` default to the client's own (HF_ENDPOINT, HF_HOME); `revision` is a branch, a tag or a
    commit. See `plait.formats.hub.Hub`."""

    def __init__(self, endpoint: str | None = None, cache: Path | None = None, revision: str = "main") -> None:
        self._revision = revision
        self._api = HfApi(endpoint=endpoint)
        self._endpoint = endpoint
        self._cache = cache

    def list_files(self, repo: str) -> list[str]:
        try:
            # One request; the listing proper is paged, and retries for half a minute when there is no network.
            return [file.rfilename for file in self._info(repo).siblings or []]
        except _REFUSALS as error:
            raise self._refused(repo, error) from None
        except Exception as error:  # whatever the client's HTTP library raises; it differs between versions
            return self._cached_files(repo, error)

    def download(self, repo: str, files: list[str]) -> Path:
        try:
            directory = Path(
                snapshot_download(
                    repo,
                    revision=self._revision,
                    allow_patterns=files,
                    endpoint=self._endpoint,
                    cache_dir=self._cache,
                )
            )
        except _REFUSALS as error:
            raise self._refused(repo, error) from None
        except Exception as error:
            raise ModelNotFoundError(f"{repo}: download from the hub failed: {_first_line(error)}") from None
        # When the hub cannot be reached, the client returns what it has, complete or not.
        missing = [file for file in files if not (directory / file).exists()]
        if missing:
            raise ModelNotFoundError(f"{repo}: the hub cannot be reached and the local cache lacks {missing[0]}")
        return directory

    def _info(self, repo: str) -> ModelInfo:
        return self._api.model_info(repo, revision=self._revision, timeout=_TIMEOUT_S)

    def _cached_files(self, repo: str, cause: Exception) -> list[str]:
        try:
            cached = scan_cache_dir(self._cache).repos
        except (CacheNotFound, OSError, ValueError):
            cached = frozenset()
        for entry in cached:
            for revision in entry.revisions:
                if (entry.repo_id, entry.repo_type) == (repo, "model") and (
                    self._revision in (*revision.refs, revision.commit_hash)
                ):
                    return [f.file_path.relative_to(revision.snapshot_path).as_posix() for f in revision.files]
        reason = f"the hub cannot be reached and the model is not in the local cache: {_first_line(cause)}"
        raise ModelNotFoundError(f"{repo}: {reason}")

    def _refused(self, repo: str, error: Exception) -> ModelNotFoundError:
        if isinstance(error, RevisionNotFoundError):
            return ModelNotFoundError(f"{repo}: the hub has no revision '{self._revision}' of it")
        if isinstance(error, GatedRepoError):
            return ModelNotFoundError(
                f"{repo}: the model is gated; accept its terms on the hub and run `hf auth login`"
            )
        return ModelNotFoundError(f"{repo}: no such path here and no such model on the hub (or it is private)")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
