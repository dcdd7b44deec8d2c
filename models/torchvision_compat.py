"""Make `import torchvision` work beside a CPU build of torch. Import this before timm, smp, lightning or torchmetrics.

The registry's torchvision wheel is built for CUDA. Beside a CPU torch its compiled operators are not registered, and
its import stops with "operator torchvision::nms does not exist", taking down everything that imports it. None of
those operators is used here, so declaring the two that the import looks up is enough. On a healthy installation
this module does nothing.
"""

from __future__ import annotations

import importlib
import sys

import torch

# kept alive for the life of the process: dropping the library would drop the declarations with it
_declarations: list[torch.library.Library] = []


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declarations.append(library)
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        importlib.import_module("torchvision")


_import_torchvision()
