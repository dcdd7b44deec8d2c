"""The formats of an export: what a file of each holds, and how it is run. REGISTRY of formats."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from command_line import UserError
from ensemble.whole_network import WholeNetwork
from models.optional_library import fault_of, install_command

# from an image (H, W, 3) uint8 RGB to its mask (H, W) bool
Run = Callable[[np.ndarray], np.ndarray]

# of ONNX; every runtime since 2023 has it
OPSET = 18
# a size that nothing divides: whatever held for it alone would be found out
_EXAMPLE = (331, 467)
# of an image's side, in pixels; both JPEG and OpenCV stop below the larger one
_SIDES = (2, 65535)


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        file: name of the file.
        needs: libraries to write it.
        encode: from the network's graph to the file's bytes. A library that met a full disk itself might end the
            process (torch.export.save does) or leave a part behind.
        load: from such bytes to what runs them; None where the runtime is not installed.
    """

    file: str
    needs: Collection[str]
    encode: Callable[[ExportedProgram], bytes]
    load: Callable[[bytes], Run | None]


def require_libraries(kinds: Collection[str]) -> None:
    """Refuse, before anything is computed, formats whose libraries are missing or broken, by a UserError."""
    for library in dict.fromkeys(name for kind in kinds for name in FORMATS[kind].needs):
        if fault := fault_of(library):
            raise UserError(
                f"{library}, which ONNX needs, {fault}: {install_command(fault, 'requirements-export.txt')}, or use "
                "--format torch."
            )


def graph_of(network: WholeNetwork) -> ExportedProgram:
    """The network's graph for images of any size, from `image` (H, W, 3) uint8 to mask and logits."""
    example = (torch.zeros(*_EXAMPLE, 3, dtype=torch.uint8),)
    height, width = (Dim(name, min=_SIDES[0], max=_SIDES[1]) for name in ("height", "width"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network.eval(), example, dynamic_shapes={"image": {0: height, 1: width}})


def _torch_bytes(graph: ExportedProgram) -> bytes:
    """For `torch.export.load(path).module()(image)`, which gives (mask, logits)."""
    file = io.BytesIO()
    torch.export.save(graph, file)
    return file.getvalue()


def _onnx_bytes(graph: ExportedProgram) -> bytes:
    """A model with the input `image` (H, W, 3) uint8 RGB, and the outputs `mask` (H, W) uint8 and `logits` float32."""
    with warnings.catch_warnings(), torch.no_grad():
        # of the exporter's own making
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            input_names=["image"],
            output_names=["mask", "logits"],
            # their names alone: the graph has them
            dynamic_shapes={"image": {0: "height", 1: "width"}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _torch_run(content: bytes) -> Run:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            mask: np.ndarray = module(torch.from_numpy(image))[0].numpy() > 0
        return mask

    return run


def _onnx_run(content: bytes) -> Run | None:
    if fault_of("onnxruntime", ["InferenceSession"]):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        mask: np.ndarray = session.run(["mask"], {"image": image})[0] > 0
        return mask

    return run


FORMATS: dict[str, Format] = {
    "onnx": Format("blend.onnx", ("onnx", "onnxscript"), _onnx_bytes, _onnx_run),
    "torch": Format("blend.pt2", (), _torch_bytes, _torch_run),
}
