"""Where a setting comes from: a flag before a variable before the file before the default."""

from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import ValidationError

from server.cli import app
from server.settings import Settings, SettingsError, load_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "phi3v.toml"
    path.write_text('max_num_seqs = 3\nport = 7003\nhost = "localhost"\n')
    return path


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(file: Path) -> None:
    flags = {"max_num_seqs": 1, "port": None, "host": None}
    variables = {"PHI3V_MAX_NUM_SEQS": "2", "PHI3V_PORT": "7002", "PATH": "/bin", "phi3v_x": "1"}
    settings = load_settings(flags, variables, file)
    assert settings.max_num_seqs == 1
    assert settings.port == 7002
    assert settings.host == "localhost"
    assert settings.max_num_batched_tokens == Settings().max_num_batched_tokens


def test_nothing_given_is_all_defaults() -> None:
    assert load_settings({}, {}) == Settings()
    assert Settings().port == 5001
    assert Settings().host == "127.0.0.1"


def test_false_and_zero_are_given(file: Path) -> None:
    file.write_text("no_auth = true\nmax_queued_requests = 5\n")
    settings = load_settings({"no_auth": False, "max_queued_requests": 0}, {}, file)
    assert settings.no_auth is False
    assert settings.max_queued_requests == 0


def test_variables_are_read_as_what_the_setting_is() -> None:
    variables = {"PHI3V_NO_AUTH": "true", "PHI3V_DRAIN_S": "1.5", "PHI3V_KV_CACHE_GIB": "2"}
    settings = load_settings({}, variables)
    assert (settings.no_auth, settings.drain_s, settings.kv_cache_gib) == (True, 1.5, 2.0)


def test_under_azureml_a_request_ends_before_the_platform_gives_up() -> None:
    assert load_settings({}, {}).max_request_s == 600
    mount = {"AZUREML_MODEL_DIR": "/mount"}
    assert load_settings({}, mount).max_request_s == 170
    assert load_settings({"max_request_s": 20}, mount).max_request_s == 20


def test_azuremls_mount_is_the_model_unless_one_is_named(file: Path) -> None:
    mount = {"AZUREML_MODEL_DIR": "/mount"}
    assert load_settings({}, mount).model == "/mount"
    assert load_settings({"model": "mine"}, mount).model == "mine"
    assert load_settings({}, mount | {"PHI3V_MODEL": "mine"}).model == "mine"
    file.write_text('model = "mine"')
    assert load_settings({}, mount, file).model == "mine"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("max_model_length = 5", ["max_model_length", "file", "max_model_len"]),
        ("[server]\nport = 5", ["server", "file"]),
        ("port = ", ["phi3v.toml"]),
        ("port = 'five'", ["port", "five"]),
        ("api_key = 'hush'\nno_auth = true", ["api_key", "no_auth"]),
    ],
)
def test_a_file_with_a_fault_is_refused(file: Path, content: str, words: list[str]) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError) as refused:
        load_settings({}, {}, file)
    assert len(str(refused.value).splitlines()) == 1
    for word in words:
        assert word in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"binary\.toml"):
        load_settings({}, {}, path)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("port", 65536, "65535"),
        ("port", "five", "five"),
        ("dtype", "int8", "float32"),
        ("max_model_len", 1, "2"),
        ("max_num_seqs", 0, "1"),
        ("max_num_seqs", 10**6, "1024"),
        ("max_num_batched_tokens", 17, "max_num_seqs"),
        ("max_queued_requests", -1, "0"),
        ("kv_cache_gib", 0, "0"),
        ("feature_cache_mib", -1, "0"),
        ("max_body_mib", 0, "1"),
        ("max_image_megapixels", 0, "0"),
        ("data_parallel", 0, "1"),
        ("data_parallel", 65, "64"),
        ("max_image_mib", 0, "1"),
        ("max_images", -1, "0"),
        ("image_url_timeout_s", 0, "0"),
        ("max_image_fetches", 0, "1"),
        ("max_text_kib", 0, "1"),
        ("max_queue_wait_s", 0, "0"),
        ("max_request_s", 0, "0"),
        ("requests_per_minute", 0, "1"),
        ("tokens_per_minute", 0, "1"),
        ("drain_s", -1, "0"),
        ("log_level", "chatty", "chatty"),
        ("api_key", "", "at least 1"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}.*{told}"):
        load_settings({name: value}, {})


@pytest.mark.parametrize(
    ("variable", "hint"),
    [("PHI3V_API_KEYS", "api_key"), ("PHI3V_MAX_BODY", "max_body_mib"), ("PHI3V_XYZZY", "")],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(variable: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=variable) as refused:
        load_settings({}, {variable: "hush"})
    assert ("did you mean" in str(refused.value)) == bool(hint)
    assert hint in str(refused.value)
    assert "hush" not in str(refused.value)


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"port is .*; .*max_num_seqs is "):
        load_settings({"port": -1, "max_num_seqs": 0}, {})


def test_several_engines_need_processes_of_their_own() -> None:
    """In threads they would take turns."""
    with pytest.raises(SettingsError, match=r"data_parallel is 2.*engine_process"):
        load_settings({"data_parallel": 2, "engine_process": False}, {})
    assert load_settings({"engine_process": False}, {}).data_parallel == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).api_key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.com", "127.0.0.1.nip"])
def test_other_addresses_need_a_key_or_no_auth(host: str) -> None:
    with pytest.raises(ValidationError, match="api_key"):
        Settings(host=host)
    assert Settings(host=host, api_key="k").host == host  # type: ignore[arg-type]
    assert Settings(host=host, no_auth=True).host == host


def test_a_key_does_not_show() -> None:
    settings = load_settings({}, {"PHI3V_API_KEY": "hush"})
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "hush"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_every_setting_is_a_flag_and_every_flag_a_setting() -> None:
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    flags = {option: parameter for parameter in serve.params for option in parameter.opts}
    assert set(flags) - {"--config", "--check", "--print-config"} == {
        "--" + name.replace("_", "-") for name in Settings.model_fields
    }
    for option, parameter in flags.items():
        assert parameter.help, f"{option} says nothing"


def test_every_setting_is_explained() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} says nothing"
