"""Scripts of tasks/, run as a user runs them, and what they saved compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
# One thread, so that sums are added in one order; a closed port, so that nothing is downloaded.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "PYTHONPATH": str(ROOT),
}
RUN_ALL = """
import contextlib, importlib, io, json, sys

sys.path.insert(0, sys.argv[1])
script = importlib.import_module(sys.argv[2])
results = []
for words in json.loads(sys.argv[3]):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            code = script.main(words)
        except SystemExit as end:
            code = end.code
    results.append((code, output.getvalue(), errors.getvalue()))
print(json.dumps(results))
"""


class Scripts:
    """The scripts of one task.

    Args:
        task: Its folder in tasks/.
    """

    def __init__(self, task: str) -> None:
        self.folder = ROOT / "tasks" / task

    def run(self, folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a script with `folder` as working directory."""
        return self.python(folder, str(self.folder / script), *words)

    def run_all(
        self, folder: Path, script: str, cases: list[list[str]]
    ) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of a script for several command lines, in one process."""
        name = script.removesuffix(".py")
        done = self.python(folder, "-c", RUN_ALL, str(self.folder), name, json.dumps(cases))
        assert done.returncode == 0, done.stderr
        return [(code, output, errors) for code, output, errors in json.loads(done.stdout)]

    def python(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python with `folder` as working directory."""
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )

    def interrupt(self, folder: Path, script: str, *words: str) -> dict[str, Any]:
        """Send Ctrl-C to a script when it has saved; it has to say how to go on.

        Returns:
            What it had saved, as ``run.pt``; there is no other file of it.
        """
        process = subprocess.Popen(
            [sys.executable, str(self.folder / script), *words, "--save", "run.pt"],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + 120
            while not (folder / "run.pt").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, errors
        assert "--resume run.pt" in errors
        assert "Traceback" not in errors
        assert not list(folder.glob("*.tmp"))
        state: dict[str, Any] = torch.load(folder / "run.pt", weights_only=True)
        return state


def assert_equal(a: Any, b: Any, where: str = "state") -> None:
    """Assert that two nested states are equal to the last bit, times apart."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            if key != "seconds":
                assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where
