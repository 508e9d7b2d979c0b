"""Installs what `peers.py` compares with, and never a CUDA build by accident.

Command    make .venv/peers
           (or python experiments/benchmarks/install_peers.py, into its own Python)
Time       2 minutes; 2 GB of disk
Expect     torch, tensorflow-cpu, keras and equinox, or a refusal that says why

On Linux a plain `pip install torch` brings 3 GB of CUDA. So pip first resolves without
installing; a plan that holds a part of CUDA is refused, and any other is installed
exactly as it was resolved, within constraints.txt.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import tyro

CONSTRAINTS = pathlib.Path(__file__).parents[2] / "constraints.txt"
CUDA = re.compile(r"(nvidia|cuda|(pytorch-)?triton|jax-cuda\d*)\b")


def main(
    *,
    packages: Sequence[str] = ("torch", "tensorflow-cpu", "keras", "equinox"),
    extra_index_url: str | None = None,
    allow_cuda: bool = False,
) -> None:
    """Resolves, judges and installs.

    Args:
      packages: pip requirements, such as torch==2.13.0+cpu.
      extra_index_url: for pip; the variable PIP_EXTRA_INDEX_URL does the same.
      allow_cuda: install what is resolved, CUDA or not.
    """
    index = () if extra_index_url is None else ("--extra-index-url", extra_index_url)
    plan = resolved(packages, index)
    reasons = [] if allow_cuda else refusals(plan)
    if reasons:
        sys.exit(refused(reasons))
    exact = [
        f"{i['metadata']['name']}=={i['metadata']['version']}" for i in plan["install"]
    ]
    if not exact:
        print("everything is installed already")
        return
    print("installing", *exact)
    pip("install", *index, "--no-deps", *exact)


def resolved(packages: Sequence[str], index: Sequence[str]) -> dict[str, Any]:
    """What pip would install, as its report says it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "plan.json"
        options = ("--dry-run", "--report", path, "--constraint", CONSTRAINTS)
        pip("install", *index, *options, *packages)
        return json.loads(path.read_text(encoding="utf-8"))


def pip(command: str, *arguments: Any) -> None:
    """Runs pip of this Python; what it says of an error is seen."""
    options = ("--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *options, *map(str, arguments)],
        check=False,
    )
    if done.returncode:
        sys.exit(f"pip {command} failed, see above; nothing else was done.")


def refusals(plan: dict[str, Any]) -> list[str]:
    """Why a plan would bring CUDA; empty if it would not.

    Args:
      plan: the report of `pip install --dry-run --report`.

    Returns:
      One line for every package that is a part of CUDA, or built for it.
    """
    on_linux = plan["environment"]["sys_platform"] == "linux"
    reasons = []
    for item in plan["install"]:
        metadata = item["metadata"]
        name = normal(metadata["name"])
        version = metadata["version"]
        needs = [n for n in metadata.get("requires_dist", ()) if "extra ==" not in n]
        needs = [normal(need) for need in needs]
        if CUDA.match(name):
            reasons.append(f"{name} {version} is a part of CUDA")
        elif name == "tensorflow" and on_linux:
            reasons.append(f"{name} {version} is built for CUDA; take tensorflow-cpu")
        elif "+cu" in version or (
            "+cpu" not in version and on_linux and any(map(CUDA.match, needs))
        ):
            reasons.append(f"{name} {version} is built for CUDA")
    return reasons


def normal(name: str) -> str:
    """A name as packaging compares it: nvidia_nccl and NVIDIA.nccl are nvidia-nccl."""
    return re.sub(r"[-_.]+", "-", name).lower()


def refused(reasons: Sequence[str]) -> str:
    """The rule, what was found, the way out."""
    lines = "".join(f"  {reason}\n" for reason in reasons)
    return (
        f"the peers must come without CUDA, found in pip's plan\n{lines}"
        "Nothing was installed. Take the index of CPU wheels that PyTorch's "
        "installation page names for pip and CPU, and pass it as --extra-index-url "
        "or in PIP_EXTRA_INDEX_URL; or say --allow-cuda."
    )


if __name__ == "__main__":
    tyro.cli(main)
