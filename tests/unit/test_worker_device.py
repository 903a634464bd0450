"""Which device a worker's models run on."""

import pytest

from nexus_jobs.config import Settings, load_settings
from nexus_jobs.errors import ConfigError
from nexus_jobs.models import ModelConfig
from workers import tasks


@pytest.mark.parametrize(
    ("model", "device"),
    [
        ({"type": "auto"}, "cuda:1"),
        ({"type": "huggingface"}, "cuda:1"),
        ({"type": "huggingface", "device": "cuda:0"}, "cuda:0"),
        ({"type": "huggingface", "device": "cpu"}, "cpu"),
        ({"type": "onnx"}, "auto"),
    ],
)
def test_a_worker_puts_models_on_its_device_that_name_none_and_can(monkeypatch, model, device):
    built = []
    monkeypatch.setattr(tasks, "build_engine", lambda config, **_: built.append(config.device))
    life = tasks._Life(Settings(worker={"device": "cuda:1"}))
    life._build_engine(ModelConfig(name="m", **model))
    assert built == [device]


def test_a_device_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="device"):
        load_settings(worker={"device": "gpu"})
