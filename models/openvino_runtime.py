"""OpenVINO: the same networks on a CPU, up to twice as fast as in torch; optional (requirements-cpu.txt)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch

from command_line import UserError
from cores import thread_count
from models.networks.windowed_unet import WindowedUNet
from models.optional_library import fault_of, install_command
from models.precision import FLOAT32, Precision
from models.prediction import PredictingNetwork
from models.tta import Batch
from models.variant import Variant

# two threads that ask at once must not make one each
_ONE_AT_A_TIME = threading.Lock()


def is_installed() -> bool:
    """Whether there is an OpenVINO, without importing it."""
    try:
        return importlib.util.find_spec("openvino") is not None
    except (ImportError, ValueError):
        # a remnant of one in `sys.modules`
        return False


def fault() -> str:
    """Why OpenVINO cannot be used here, as the end of "OpenVINO ..."; empty where it can. Imports it."""
    # kept from reporting home: where its telemetry cannot be imported it does without
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return fault_of("openvino", ["Core", "convert_model"])


def require_openvino(instead: str = "predict with --backend torch") -> None:
    """Refuse to go on without an OpenVINO that can be used.

    Args:
        instead: what else can be done, as the end of "install it, or ...".

    Raises:
        UserError: it is missing or broken.
    """
    if found := fault():
        raise UserError(f"OpenVINO {found}: {install_command(found, 'requirements-cpu.txt')}, or {instead}.")


def _openvino() -> Any:
    require_openvino()
    return importlib.import_module("openvino")


@functools.cache
def _made_core() -> Any:
    return _openvino().Core()


def _core() -> Any:
    """The one `openvino.Core` of this process, never released.

    Its CPU plugin lends the thread that first compiles a stack for signal handlers, and takes it back when the core is
    released. Of two cores, the one released last puts back the stack of the other, which is freed by then: the next
    signal with a handler in Python (Ctrl-C; the end of a child process, once torch has loaded data) ends the process
    with a segmentation fault and no word.
    """
    with _ONE_AT_A_TIME:
        return _made_core()


class _Forward:
    """A compiled network; may be called from several threads, each of which gives the same bits alone."""

    def __init__(self, network: torch.nn.Module, variant: Variant, precision: Precision) -> None:
        openvino, core = _openvino(), _core()
        example = torch.zeros(1, variant.in_channels, *variant.size)
        with warnings.catch_warnings():
            # tracing warns of checks of the input's size, which every size that comes has passed
            warnings.simplefilter("ignore")
            model = openvino.convert_model(network, example_input=example)
        # the batch, and the size under augmentations that change it, are whatever comes
        model.reshape([-1, variant.in_channels, -1, -1])
        # a pass has one thread, as in torch; replicas are this object's callers
        threads = thread_count()
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads,
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._local = threading.local()

    def __call__(self, inputs: Batch) -> Batch:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        # the request writes its next result where this one lies
        found = self._local.request.infer([np.ascontiguousarray(inputs.numpy())])
        return torch.from_numpy(np.array(found[0], np.float32))


def openvino_network(
    network: torch.nn.Module, variant: Variant, device: torch.device, precision: Precision = FLOAT32
) -> PredictingNetwork:
    """A torch network compiled by OpenVINO, which predicts in a precision.

    Raises:
        UserError: it is not installed, or the device is no CPU.
    """
    if device.type != "cpu":
        raise UserError("OpenVINO predicts on CPUs here: use --backend torch on a GPU.")
    network = network.eval()
    if isinstance(network, WindowedUNet):
        # where the window lies is no part of a graph
        parts = _Forward(network.finder, variant, precision), _Forward(network.network, variant, precision)
        return PredictingNetwork(functools.partial(network.through, *parts), variant, device)
    return PredictingNetwork(_Forward(network, variant, precision), variant, device)
