from pathlib import Path

from code_interpreter.settings import Settings


def test_defaults_are_those_of_a_sandbox() -> None:
    settings = Settings.from_environment({})
    assert settings.jupyter_url == "http://127.0.0.2:49998"
    assert settings.envs_url == "http://127.0.0.1:49983/envs"
    assert settings.home == Path("/home/user")


def test_everything_may_be_set() -> None:
    environment = {
        "CODE_INTERPRETER_JUPYTER_URL": "http://127.0.0.1:1",
        "CODE_INTERPRETER_ENVS_URL": "http://127.0.0.1:2/envs",
        "CODE_INTERPRETER_HOME": "/srv",
    }
    settings = Settings.from_environment(environment)
    assert settings == Settings(
        "http://127.0.0.1:1", "http://127.0.0.1:2/envs", Path("/srv"), inherited_environment=environment
    )
