"""ImageNet weights of encoders: from the local cache, else from the hub, else one sentence at once."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from command_line import UserError
from models.variant import Variant

# the hub's own client retries for up to 48 s before it gives up
PROBE_S = 3.0
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

    if variant.encoder.startswith("tu-"):
        name = variant.encoder.removeprefix("tu-")
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
