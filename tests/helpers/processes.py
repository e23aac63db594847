"""Python in new processes."""

import subprocess
import sys

from . import ROOT


def run_python(code, *arguments, **options):
    """Run code in a new interpreter in the folder of the checkout. Return the completed process."""
    options = {"cwd": ROOT, "capture_output": True, "text": True} | options
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], **options)
