"""Compile the core: `python -m ttcsim.compile`. Takes about a minute.

Needs a C compiler and mypy, which `pip install 'ttcsim[compiled]'` brings. See `compiled.py`.
"""

import shutil
import subprocess
import sys
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from ttcsim.compiled import DIGEST, FOLDER, LIBRARY, MODULES, PACKAGE, digest, is_current

SETUP = """
from setuptools import setup
from mypyc.build import mypycify

setup(
    name="ttcsim-core",
    packages=[],
    ext_modules=mypycify({arguments!r}, opt_level="3", group_name={group!r}),
)
"""

CONFIGURATION = """
[mypy]
plugins = pydantic.mypy
ignore_missing_imports = True
"""


def main() -> int:
    """Compile the core, unless that has been done; 1 with the reason in a line if it fails."""
    if is_current():
        return 0
    sources = digest()
    with tempfile.TemporaryDirectory(prefix="ttcsim-") as folder:
        work = Path(folder)
        skipped = shutil.ignore_patterns("_compiled", "__pycache__")
        shutil.copytree(PACKAGE, work / "ttcsim", ignore=skipped)
        (work / "mypy.ini").write_text(CONFIGURATION, encoding="ascii")
        files = [f"{module.replace('.', '/')}.py" for module in MODULES]
        arguments = ["--config-file=mypy.ini", *files]
        group = LIBRARY.removesuffix("__mypyc")
        setup = SETUP.format(arguments=arguments, group=group)
        (work / "setup.py").write_text(setup, encoding="ascii")
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            return _failed(done.stdout + done.stderr)
        try:
            _install(work, sources)
        except OSError as error:
            return _failed(f"error: {error}")
    return 0


def _install(work: Path, sources: str) -> None:
    """Put the libraries in place; the digest comes last and makes them valid."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for module in (LIBRARY, *MODULES):
        name = Path(*module.split(".")).with_suffix(EXTENSION_SUFFIXES[0])
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work / name, FOLDER / name)
    (FOLDER / DIGEST).write_text(sources, encoding="ascii")


def _failed(output: str) -> int:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    reason = (errors or lines or ["no reason given"])[-1]
    print(f"ttcsim runs uncompiled, as the core could not be compiled: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
