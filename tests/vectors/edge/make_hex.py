"""Encode every `.txtpb` here with protoc (never with our own encoder) into the `.hex` beside it.

python tests/vectors/edge/make_hex.py
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[2] / "proto"


def encode(text: str) -> str:
    """protoc's bytes of one vector, as hex in lines of 64 bytes. The first line names the message."""
    message = text.split("\n", 1)[0].removeprefix("# type: ")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-Igateway/cloud/pb={PROTO}"]
    command += [f"--encode=edge.{message}", "gateway/cloud/pb/edge.proto"]
    digits = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout.hex()
    return "".join(digits[i : i + 128] + "\n" for i in range(0, len(digits), 128))


if __name__ == "__main__":
    for source in sorted(HERE.glob("*.txtpb")):
        source.with_suffix(".hex").write_text(encode(source.read_text(encoding="utf-8")), encoding="ascii")
