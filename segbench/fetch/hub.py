"""Ask the Hugging Face Hub for the hash of weights, and fetch them: no run does either.

huggingface_hub knows mirrors ($HF_ENDPOINT), tokens of gated files and $HF_HUB_OFFLINE.
"""

from pathlib import Path
from typing import Any

from segbench.errors import DataError

_FILE = "model.safetensors"
_MEND = "check the network, the name and, for gated weights, `hf auth login`"


def hub_weights(repository: str, *, licence: str, endpoint: str | None = None) -> dict[str, Any]:
    """Return `url`, `sha256`, `trained_on` and `licence` of a repository's safetensors file.

    Raises:
        DataError: the hub cannot be asked, or has no such file with a sha256.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        why = str(error).strip().splitlines() or [repr(error)]
        raise DataError(f"{repository}: the hub cannot be asked ({why[0]}); {_MEND}") from error
    for sibling in info.siblings or ():
        if sibling.rfilename == _FILE and sibling.lfs is not None:
            return {
                "url": f"hf://{repository}@{info.sha}/{_FILE}",
                "sha256": sibling.lfs.sha256,
                "trained_on": f"see https://huggingface.co/{repository}",
                "licence": licence,
            }
    raise DataError(f"{repository}: has no {_FILE} with a sha256 on the hub")


def fetch_from_hub(
    repository: str, revision: str, file: str, path: Path, *, endpoint: str | None = None
) -> None:
    """Fetch a file of one revision of a repository to `path`; it is not verified here.

    Raises:
        DataError: it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    folder = path.parent / ".hub" / path.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        got = hf_hub_download(
            repository, file, revision=revision, local_dir=folder, endpoint=endpoint
        )
        Path(got).replace(path)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        why = str(error).strip().splitlines() or [repr(error)]
        raise DataError(
            f"{repository}@{revision}/{file}: cannot be fetched ({why[0]}); {_MEND}, or fetch it "
            f"on another machine and put it at {path}"
        ) from error
