"""Settings are read from files and the environment, and a typing error is never swallowed."""

import re

import pytest

from nexus_jobs.config import load_settings
from nexus_jobs.errors import ConfigError
from nexus_jobs.models import ModelConfig, load_models
from nexus_jobs.route import Algorithm, Route, load_routes
from nexus_jobs.urls import without_passwords


@pytest.fixture
def settings_file(tmp_path, monkeypatch):
    path = tmp_path / "nexus.toml"
    monkeypatch.setenv("NEXUS_CONFIG", str(path))
    return path


@pytest.fixture
def models_file(tmp_path):
    return tmp_path / "models.yaml"


def test_the_environment_overrides_the_file(settings_file, monkeypatch):
    settings_file.write_text("[server]\nport = 1234\nthreads = 7\n")
    monkeypatch.setenv("NEXUS_SERVER__PORT", "4321")
    settings = load_settings()
    assert (settings.server.port, settings.server.threads) == (4321, 7)


def test_the_keys_of_the_readme_are_all_accepted(settings_file):
    settings_file.write_text(
        '[server]\nhost = "127.0.0.1"\nport = 1\nworkers = 2\n'
        '[cache]\nredis_url = "redis://127.0.0.1/3"\nttl_seconds = 1\nmax_size_mb = 1\n'
        "[metrics]\nprometheus_port = 9\ncollection_interval = 1\n"
        '[load_balancer]\nalgorithm = "latency"\nhealth_check_interval = 1\nfailure_threshold = 2\n'
    )
    assert load_settings().cache_redis_url == "redis://127.0.0.1/3"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[server]\nprot = 1\n", "server.prot: unknown key; did you mean 'port'?"),
        ("[sever]\nport = 1\n", "sever: unknown key; did you mean 'server'?"),
        ("[server]\nport = 99999\n", "server.port: Input should be less than or equal to 65535"),
        ("[server]\nembedded_port = 1\n", "unknown key; there is queue.embedded_port"),
        ("[server\n", "nexus.toml: Expected ']'"),
    ],
)
def test_a_wrong_settings_file_is_refused_with_what_would_be_right(settings_file, text, hint):
    settings_file.write_text(text)
    with pytest.raises(ConfigError, match=None) as refused:
        load_settings()
    assert hint in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("NEXUS_SERVR__PORT", "unknown section 'servr'; did you mean 'server'?"),
        ("NEXUS_SERVER__PROT", "server.prot: unknown key; did you mean 'port'?"),
    ],
)
def test_a_wrong_variable_is_refused_with_what_would_be_right(
    settings_file, monkeypatch, variable, hint
):
    settings_file.write_text("")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert hint in str(refused.value)


@pytest.mark.parametrize("written", ["http://a:1, http://b:2", '["http://a:1", "http://b:2"]'])
def test_a_list_in_a_variable_has_commas_or_is_json(settings_file, monkeypatch, written):
    settings_file.write_text("")
    monkeypatch.setenv("NEXUS_SERVER__UPSTREAMS", written)
    assert load_settings().server.upstreams == ("http://a:1", "http://b:2")


def test_a_variable_that_should_be_a_section_is_named(settings_file, monkeypatch):
    settings_file.write_text("")
    monkeypatch.setenv("NEXUS_SERVER", "http://a:1")
    with pytest.raises(ConfigError, match=r"^settings: server: "):
        load_settings()


def test_a_settings_file_that_was_asked_for_must_exist(settings_file):
    with pytest.raises(ConfigError, match="not a file"):
        load_settings()


def test_models_come_from_yaml(models_file):
    models_file.write_text("models:\n- name: a\n  max_batch_size: 3\n- {name: b, type: onnx}\n")
    a, b = load_models(models_file)
    assert (a.name, a.max_batch_size, b.type) == ("a", 3, "onnx")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("models:\n- name: a\n  max_batchsize: 3\n", "did you mean 'max_batch_size'?"),
        ("models:\n- name: a\n  simulated: {step: 3}\n", "did you mean 'step_ms'?"),
        ("models:\n- name: A b\n", "model A b: name"),
        ("models:\n- {name: a}\n- {name: a}\n", "model 'a' stands there 2 times"),
        (
            "models:\n- name: a\n  step_ms: 3\n",
            "step_ms: unknown key; there is simulated.step_ms",
        ),
        (
            "models:\n- name: a\n  upstream: {device: cpu}\n",
            "upstream.device: unknown key; there is device",
        ),
        ("- name: a\n", "expected a list under the key `models`"),
        ("models: []\nrouts: []\n", "unknown key 'routs'; did you mean 'routes'?"),
        ("modles: []\n", "unknown key 'modles'; did you mean 'models'?"),
        (
            "models:\n- name: a\n  device: cpu\n  device: auto\n",
            "models.yaml: line 4: the key 'device' stands there twice",
        ),
        ("models: [\n", "models.yaml: line 2: "),
    ],
)
def test_a_wrong_models_file_is_refused_with_what_would_be_right(models_file, text, hint):
    models_file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_models(models_file)
    assert hint in str(refused.value)


def test_a_model_may_overrule_what_it_takes_from_another(models_file):
    models_file.write_text(
        "models:\n- &a {name: a, device: cpu}\n- &b {<<: *a, name: b}\n- {<<: *b, name: c}\n"
    )
    assert [(m.name, m.device) for m in load_models(models_file)] == [
        (name, "cpu") for name in "abc"
    ]


ROUTES = "models:\n- name: a\n- name: b\nroutes:\n"


def test_routes_may_stand_beside_the_models(models_file):
    models_file.write_text("models: []\n")
    assert load_routes(models_file, []) == []
    models_file.write_text(ROUTES + "- {name: r, targets: [{model: a, weight: 2}, {model: b}]}\n")
    (route,) = load_routes(models_file, load_models(models_file))
    assert route.models == ["a", "b"]


@pytest.mark.parametrize(
    ("route", "hint"),
    [
        ("{name: r, targets: [{model: aa}]}", "route r: `targets.0.model`: there is no model 'aa'"),
        ("{name: r, targets: [{modle: a}]}", "targets.0.modle: unknown key; did you mean 'model'?"),
        ("{name: a, targets: [{model: a}]}", "'a' is a model"),
        ("{name: r}", "route r: targets: Field required"),
    ],
)
def test_a_wrong_route_is_refused_with_what_would_be_right_too(models_file, route, hint):
    models_file.write_text(f"{ROUTES}- {route}\n")
    with pytest.raises(ConfigError) as refused:
        load_routes(models_file, load_models(models_file))
    assert hint in str(refused.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("least_loaded", Algorithm.LEAST_CONNECTIONS),
        ("latency", Algorithm.LEAST_LATENCY),
        ("weighted", Algorithm.WEIGHTED),
        ("consistent_hash", Algorithm.CONSISTENT_HASH),
    ],
)
def test_what_a_route_leaves_out_the_settings_say(settings_file, written, meant):
    settings_file.write_text(
        f'[load_balancer]\nalgorithm = "{written}"\n'
        "health_check_interval = 7\nfailure_threshold = 9\n"
    )
    settings = load_settings().load_balancer
    bare = settings.complete(Route(name="r", targets=[{"model": "a"}]))
    assert (bare.algorithm, bare.open_seconds, bare.failure_threshold) == (meant, 7, 9)
    said = settings.complete(Route(name="r", targets=[{"model": "a"}], failure_threshold=3))
    assert (said.failure_threshold, said.open_seconds) == (3, 7)


def test_a_missing_models_file_is_named(models_file):
    with pytest.raises(ConfigError, match=r"does not exist; .* NEXUS_MODELS_FILE"):
        load_models(models_file)


@pytest.mark.parametrize(
    ("model", "reproducible"),
    [
        (ModelConfig(name="m"), False),
        (ModelConfig(name="m", type="openvino"), False),
        (ModelConfig(name="m", reproducible=True), True),
        (ModelConfig(name="m", type="onnx"), True),
    ],
)
def test_only_some_models_promise_reproducible_answers(model, reproducible):
    assert model.is_reproducible is reproducible


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("queue__redis_url", "foo:s3cret@h"),
        ("queue__redis_url", "http://:s3cret@h"),
        ("queue__redis_url", "redis://:s3cret@127.0.0.1:abc/0"),
        ("queue__redis_url", "redis://127.0.0.1/first"),
        ("queue__redis_url", "redis://127.0.0.1/0?password=s3cret"),
        ("cache__redis_url", "http://h"),
        ("database__url", "foo"),
        ("database__url", "mysql://u:s3cret@h/d"),
        ("database__url", "postgresql://u:s3cret@@:abc"),
        ("database__url", "sqlite:///:memory:"),
    ],
)
def test_a_url_that_no_process_could_use_is_refused_and_not_repeated(
    settings_file, monkeypatch, key, url
):
    settings_file.write_text("")
    monkeypatch.setenv(f"NEXUS_{key}".upper(), url)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    message = str(refused.value)
    assert message.startswith(f"settings: {key.replace('__', '.')}: ")
    assert re.search("(PASSWORD@HOST|sqlite:///FILE)", message)
    assert "s3cret" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("queue__redis_url", "redis://h"),
        ("queue__redis_url", "rediss://u:p@[::1]:6380/3?ssl_cert_reqs=none"),
        ("cache__redis_url", "unix:///run/redis.sock?db=2"),
        ("database__url", "postgresql://u:a/b#[@h:5432/d"),
        ("database__url", "postgresql+psycopg://u:@/d?host=/run/postgresql"),
        ("database__url", "sqlite:////var/lib/nexus.db"),
    ],
)
def test_every_url_of_a_server_that_works_is_accepted(settings_file, monkeypatch, key, url):
    settings_file.write_text("")
    monkeypatch.setenv(f"NEXUS_{key}".upper(), url)
    assert url in str(load_settings())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:s3cret@h:1/0", "redis://***@h:1/0"),
        ("redis://h/0?db=1&password=s3cret&x=1", "redis://h/0?db=1&password=***&x=1"),
        ("no answer from http://u:s3'cret@h (x)", "no answer from http://***@h (x)"),
        ("(got 'u:s3cret@h')", "(got ***@h')"),
        ("worker: w1@host", "worker: w1@host"),
        ("sqlite:////var/lib/nexus.db", "sqlite:////var/lib/nexus.db"),
    ],
)
def test_a_text_is_shown_without_its_passwords(text, shown):
    assert without_passwords(text) == shown


def test_a_value_that_is_long_or_a_section_is_not_repeated(models_file):
    models_file.write_text("models:\n- {name: a, path: [s3cret]}\n- {name: b}\n")
    with pytest.raises(ConfigError) as refused:
        load_models(models_file)
    assert "s3cret" not in str(refused.value)
    models_file.write_text(f"models:\n- {{name: a, max_batch_size: {'x' * 999}}}\n")
    with pytest.raises(ConfigError) as refused:
        load_models(models_file)
    assert len(str(refused.value)) < 300


def test_a_number_of_tokens_is_no_secret(models_file):
    models_file.write_text("models:\n- {name: a, max_batch_tokens: many}\n")
    with pytest.raises(ConfigError, match="got 'many'"):
        load_models(models_file)


def test_what_a_newer_version_has_stored_can_be_read():
    stored = {"name": "a", "added": 1, "simulated": {"step_ms": 2, "more": 3}}
    assert ModelConfig.stored(stored) == ModelConfig(name="a", simulated={"step_ms": 2})
    route = Route.stored({"name": "r", "targets": [{"model": "a", "added": 1}], "more": 2})
    assert route == Route(name="r", targets=[{"model": "a"}])
