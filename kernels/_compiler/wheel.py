"""Platform wheels: a pure wheel with the compiled libraries of one platform."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import prebuilt
from .compiler import CompileError, Source
from .prebuilt import Target


def add_libraries(sources: Sequence[Source], target: Target, into: Path, pure: Path | None = None) -> Path:
    """Write a wheel with the libraries of these sources for a target.

    Parameters
    ----------
    sources : sequence of Source
    target : Target
    into : Path
        The folder of the new wheel.
    pure : Path, optional
        A pure wheel of gpunn; by default a new one of the project in the current folder.

    Returns
    -------
    Path
        The new wheel.

    Raises
    ------
    CompileError
        If a tool is missing, or a source does not compile.
    """
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if pure is None:
            _run("build", "--wheel", "--outdir", str(folder), ".")
            (pure,) = folder.glob("*.whl")
        _run("wheel", "unpack", str(pure), "--dest", str(folder / "unpacked"))
        (unpacked,) = (folder / "unpacked").iterdir()
        prebuilt.build(sources, unpacked / "gpunn" / "kernels" / prebuilt.PACKAGED.name, target)
        (description,) = unpacked.glob("*.dist-info/WHEEL")
        text = description.read_text(encoding="utf-8")
        description.write_text(text.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false"), encoding="utf-8")
        (folder / "packed").mkdir()
        _run("wheel", "pack", str(unpacked), "--dest-dir", str(folder / "packed"))
        (packed,) = (folder / "packed").iterdir()
        _run("wheel", "tags", "--remove", "--platform-tag", target.wheel_tag, str(packed))
        (tagged,) = (folder / "packed").iterdir()
        made = into / tagged.name
        made.write_bytes(tagged.read_bytes())
    return made


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(f"python -m {arguments[0]}: {(done.stderr or done.stdout).strip()}")
