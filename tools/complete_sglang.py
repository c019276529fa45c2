"""Makes an SGLang on torch's CPU build startable, for tests of its adapter: what has no CPU build, in plain torch.

    .venv-sglang/bin/python tools/complete_sglang.py

No wheel of SGLang's kernels is for CPUs. Where a CPU has no AMX, SGLang has fallbacks in torch for all of them but one,
which is written here from its callers; every other kernel raises when it is called. torchvision's wheel wants CUDA's
libraries for its operators, which no model of text needs: it gets their schemas, without which it cannot be imported.
The scheduler, the server and the argument check are SGLang's own. Run with the environment's own interpreter.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

KERNELS = '''"""In place of the CPU build of sgl-kernel: see SCOOT's tools/complete_sglang.py."""

__version__ = "0.4.10+scoot"


def assign_req_to_token_pool_cpu(requests, table, starts, ends, slots, width):
    """Write the new cache slots of each request into its row of the table."""
    taken = 0
    for row, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist()):
        table[row, start:end] = slots[taken : taken + end - start]
        taken += end - start


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*args, **kwargs):
        raise NotImplementedError(f"there is no sgl_kernel.{name} for this CPU")

    return absent
'''

MODULES = ("mamba",)
"""Of the real package, imported by name on a CPU."""

MARK = "# SCOOT: schemas for a torch without CUDA"
SCHEMAS = f"""

{MARK}
if not _has_ops():
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    """Write both; again is as good as once."""
    kernels = Path(sysconfig.get_path("purelib")) / "sgl_kernel"
    kernels.mkdir(exist_ok=True)
    (kernels / "__init__.py").write_text(KERNELS, encoding="utf-8")
    for name in MODULES:
        (kernels / f"{name}.py").write_text("from sgl_kernel import __getattr__\n", encoding="utf-8")
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise SystemExit("there is no torchvision here")
    extension = Path(found.origin).with_name("extension.py")
    text = extension.read_text(encoding="utf-8")
    if MARK not in text:
        extension.write_text(text + SCHEMAS, encoding="utf-8")


if __name__ == "__main__":
    main()
