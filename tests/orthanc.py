"""A real Orthanc with its DICOMweb plug-in for tests: started on a free port of this machine, filled, and ended.

Runs the program that `tests/orthanc.sh` unpacked, or says why there is none.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PASSWORD", "USER", "Orthanc", "orthanc_root"]

ROOT = Path(__file__).resolve().parents[1] / "target" / "orthanc"
USER, PASSWORD = "reader", "zq-orthanc-password"


def orthanc_root() -> Path:
    """Return the folder that Orthanc is in; the test is skipped where there is none, and fails where it must be."""
    root = ROOT / "root"
    if (root / "usr/sbin/Orthanc").exists():
        return root
    reason = ROOT / "reason"
    why = reason.read_text().strip() if reason.exists() else "run `make target/orthanc/root` first"
    if os.environ.get("OSLER_TEST_ORTHANC") == "required":
        pytest.fail(f"there is no Orthanc: {why}")
    pytest.skip(f"there is no Orthanc: {why}")


class Orthanc:
    """A server with a storage of its own in a folder.

    Attributes
    ----------
    address : str
        Of its DICOMweb service.
    """

    def __init__(self, folder: Path) -> None:
        self._root = orthanc_root()
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/dicom-web"
        self._configuration = folder / "orthanc.json"
        self._configuration.write_text(json.dumps(self._settings()))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _settings(self) -> dict[str, Any]:
        return {
            "Name": "tests",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "storage"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(next((self._root / "usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so")).resolve())],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }

    def start(self) -> None:
        """Start the program and wait until it answers."""
        libraries = [str(path.parent) for path in self._root.glob("usr/lib/*/libcivetweb.so*")]
        dictionary = sorted(str(path) for path in self._root.glob("usr/share/libdcmtk*/dicom.dic"))
        environment = os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)}
        if dictionary:
            environment["DCMDICTPATH"] = dictionary[0]
        with open(self._folder / "orthanc.log", "ab") as log:
            self._process = subprocess.Popen(
                [str(self._root / "usr/sbin/Orthanc"), str(self._configuration)],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for _ in range(600):
            if self._process.poll() is not None:
                break
            try:
                self.ask("/system")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"Orthanc does not start: {(self._folder / 'orthanc.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End the program; its storage stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(self, path: str, content: bytes | None = None) -> Any:
        """Send a request to its own interface and return what it answers."""
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=content, headers={"Authorization": f"Basic {basic}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def fill(self, files: Iterable[Path]) -> list[Path]:
        """Store files, and return those that it has taken and had not."""
        taken = []
        for file in files:
            try:
                if self.ask("/instances", file.read_bytes())["Status"] == "Success":
                    taken.append(file)
            except urllib.error.HTTPError as error:
                # It takes no picture, no text and no DICOM file that it cannot parse.
                error.close()
        return taken
