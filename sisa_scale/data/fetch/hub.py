"""The listing of files at the Hugging Face Hub."""

import os
from typing import NamedTuple

from sisa_scale.data.fetch.catalogue import HUB, HubFiles
from sisa_scale.errors import DataError


class RemoteFile(NamedTuple):
    """A file to download. sha256: None where the server does not tell; num_bytes likewise."""

    name: str
    url: str
    sha256: str | None
    num_bytes: int | None


def list_files(files: HubFiles) -> list[RemoteFile]:
    """Return the files in order of their names. HF_ENDPOINT names a mirror. Raises DataError without an answer."""
    from huggingface_hub import HfApi, RepoFile, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    hub = HfApi(endpoint=endpoint, token=False)
    try:
        entries = list(hub.list_repo_tree(files.repo, files.folder, repo_type="dataset"))
    except Exception as error:  # the library has errors of several kinds
        raise DataError.at(
            f"{endpoint}/datasets/{files.repo}",
            found=f"no listing ({str(error).partition(chr(10))[0]})",
            allowed="the hub lists the files of a public data set",
            remedy="Check the network; HF_ENDPOINT=https://... names a mirror.",
        ) from error
    found = [
        RemoteFile(
            entry.path.rpartition("/")[2],
            hf_hub_url(files.repo, entry.path, repo_type="dataset", endpoint=endpoint),
            entry.lfs.sha256 if entry.lfs else None,
            entry.size,
        )
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path.endswith(files.suffix)
    ]
    if not found:
        raise DataError.at(
            f"{endpoint}/datasets/{files.repo}",
            found=f"no file {files.suffix} in {files.folder}",
            allowed="the folder holds the corpus",
            remedy="The source has changed: look at the page and fetch by hand.",
        )
    return sorted(found)
