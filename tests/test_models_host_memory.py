"""Memory that a training process keeps is not cleared again, and changes no result."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

_STEPS = """
import models.torchvision_compat

import hashlib
import resource
import sys

import torch

from models.build import build
from models.host_memory import keep_freed
from models.variants import find_variant

kept = sys.argv[1] == 'keep' and keep_freed()
torch.manual_seed(3)
torch.set_num_threads(1)
network = build(find_variant("unet-mobilenetv3"), pretrained=False).train()
seen = hashlib.sha256()
for step in range(4):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    loss = network(torch.rand(3, 3, 96, 160)).square().mean()
    network.zero_grad()
    loss.backward()
    seen.update(b"".join(p.grad.numpy().tobytes() for p in network.parameters() if p.grad is not None))
    # larger than what glibc would keep of itself, taken and given back
    del loss
    for _ in range(5):
        torch.zeros(17_919_003)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, seen.hexdigest())
"""


def _run(how: str) -> tuple[bool, int, str]:
    root = Path(__file__).parent.parent
    seen = subprocess.run([sys.executable, "-c", _STEPS, how], cwd=root, capture_output=True, text=True, check=True)
    kept, faults, digest = seen.stdout.split()
    return kept == "True", int(faults), digest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told what to keep")
def test_kept_memory_is_not_cleared_again_and_changes_no_bit() -> None:
    kept, faults, ours = _run("keep")
    _, faults_without, theirs = _run("as it is")
    assert kept
    # ten tensors of 17,499 pages each are taken after the first steps
    assert faults_without > 150_000 and faults < 5_000
    assert ours == theirs
