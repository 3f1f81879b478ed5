"""Make the Python modules of the edge protocol from the files beside this one.

    python proto/generate.py [target]

`target` is the root of a source tree (default: this repository); the modules go to
`gateway/cloud/pb/` in it. The same sources and the same `grpcio-tools` (pinned in the extra `dev`)
always give the same bytes.
"""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
PACKAGE = "gateway/cloud/pb"  # where protoc believes the sources are: it decides the imports in the modules


def generate(target: Path) -> None:
    """Write the modules below `target`.

    Raises:
        SystemExit: protoc found a fault; it has printed file and line.
    """
    target.mkdir(parents=True, exist_ok=True)
    names = [f"{PACKAGE}/{source.name}" for source in sorted(SOURCES.glob("*.proto"))]
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    common = ["protoc", f"-I{PACKAGE}={SOURCES}", f"-I{well_known}"]
    outputs = [f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main([*common, *outputs, *names]) or protoc.main(
        [*common, f"--grpc_python_out={target}", f"{PACKAGE}/edge.proto"]
    ):
        raise SystemExit(1)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES.parent)
