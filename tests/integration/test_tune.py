"""`nexus models tune`, with budgets too small to say much."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nexus_jobs.adapters.engines import build
from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.cli.commands import app
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.models import ModelConfig, SimulatedTimes, load_models
from nexus_jobs.tuning import VARIANTS, Variant

ENTRY = """\
models:
  - name: smollm2-135m  # ours
    reproducible: {}
    max_batch_size: 64
  - name: simulated
    type: simulated
"""


def tune(file: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["models", "tune", "--models", str(file), *options])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(ENTRY.format("false"))
    return path


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines without weights; only onnx and openvino are here, and openvino is the slower."""

    def build_engine(config: ModelConfig, **_: object) -> SimulatedEngine:
        if config.type == "huggingface":
            raise ModelUnavailable("no torch")
        times = SimulatedTimes(step_ms=4 if config.type == "openvino" else 1)
        return SimulatedEngine(times, config.max_batch_size, config.max_sequence_length)

    monkeypatch.setattr(build, "build_engine", build_engine)


@pytest.mark.usefixtures("simulated")
def test_the_best_is_written_to_the_file(file: Path) -> None:
    shown = tune(file, "smollm2-135m", "--seconds", "1", "--slots", "2", "--slots", "9")
    assert shown.exit_code == 0, shown.output
    best, _ = load_models(file)
    assert (best.type, best.max_batch_size) == ("onnx", 9)
    assert f"{best.type} {best.precision} with 9 slots" in shown.output
    assert shown.output.count("\tbest\n") == 1
    assert "Not measured: huggingface bf16: no torch" in shown.output
    assert "name: smollm2-135m  # ours" in file.read_text()


@pytest.mark.usefixtures("simulated")
def test_a_dry_run_only_shows(file: Path) -> None:
    shown = tune(file, "smollm2-135m", "--seconds", "1", "--slots", "2", "--dry-run")
    assert "\tbest\n" in shown.output
    assert file.read_text() == ENTRY.format("false")


@pytest.mark.model
@pytest.mark.slow
def test_a_reproducible_model_gets_only_engines_that_are(
    file: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUS_MODEL_ROOT", str(models_dir))
    file.write_text(ENTRY.format("true"))
    shown = tune(file, "smollm2-135m", "--seconds", "0.5", "--slots", "2")
    assert shown.exit_code == 0, shown.output
    assert "Not measured: openvino: model smollm2-135m: openvino's answers depend" in shown.output
    best, _ = load_models(file)
    assert Variant(best.type, best.precision) in VARIANTS[1:]
    assert best.max_batch_size == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [("smollm2-135", "did you mean 'smollm2-135m'"), ("simulated", "cannot be tuned")],
)
def test_a_model_that_cannot_be_tuned_says_why(name: str, reason: str, file: Path) -> None:
    assert reason in str(tune(file, name).exception)


def test_a_model_that_is_not_here_says_what_to_do(file: Path, tmp_path: Path) -> None:
    shown = tune(file, "smollm2-135m", "--data-dir", str(tmp_path))
    assert "nexus models pull smollm2-135m" in str(shown.exception)
