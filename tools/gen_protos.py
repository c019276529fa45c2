"""Regenerate the committed gRPC code under proto/scoot/v1. `--check` fails when what is committed is stale."""

from __future__ import annotations

import argparse
import filecmp
import pathlib
import shutil
import sys
import tempfile

from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PACKAGE = PROTO / "scoot" / "v1"
BIN = pathlib.Path(sys.executable).parent


def generate(out: pathlib.Path) -> None:
    """Write *_pb2.py, *_pb2.pyi, *_pb2_grpc.py and *_pb2_grpc.pyi for every .proto below `out`."""
    names = sorted(str(path.relative_to(PROTO)) for path in PACKAGE.glob("*.proto"))
    args = [
        "protoc",
        f"-I{PROTO}",
        # By path: the environment need not be activated.
        f"--plugin=protoc-gen-mypy={BIN / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={BIN / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet,only_async:{out}",
        *names,
    ]
    if protoc.main(args) != 0:
        sys.exit("protoc failed; its message is above")
    for path in (out / "scoot" / "v1").glob("*_grpc.py*"):
        if "class " not in path.read_text():
            path.unlink()  # a file of messages only has no service


def main() -> None:
    """Generate in place, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        generate(out)
        fresh = {path.name: path for path in (out / "scoot" / "v1").iterdir()}
        committed = {path.name: path for path in PACKAGE.glob("*_pb2*")}
        if check:
            stale = sorted(
                name
                for name in fresh.keys() | committed.keys()
                if name not in fresh
                or name not in committed
                or not filecmp.cmp(fresh[name], committed[name], shallow=False)
            )
            if stale:
                sys.exit(f"stale generated code: {', '.join(stale)}; run `make proto` and commit the result")
            return
        for path in committed.values():
            path.unlink()
        for path in fresh.values():
            shutil.copy(path, PACKAGE / path.name)


if __name__ == "__main__":
    main()
