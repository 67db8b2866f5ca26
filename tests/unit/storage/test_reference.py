"""What is an image reference, and what only looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.domain.errors import InvalidRequest
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.reference import DockerArchive, OciLayout, RegistryImage, parse_reference
from appliance.storage.registry import copy_argv, host_of, inspect_argv, pinned

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:/srv/images/base", OciLayout(Path("/srv/images/base"), None)),
        ("oci:/srv/images/base:1.0", OciLayout(Path("/srv/images/base"), "1.0")),
        ("docker-archive:/srv/a.tar", DockerArchive(Path("/srv/a.tar"), None)),
        ("docker-archive:/srv/a.tar:demo:latest", DockerArchive(Path("/srv/a.tar"), "demo:latest")),
        ("python", RegistryImage("python")),
        ("python:3.11-slim", RegistryImage("python:3.11-slim")),
        ("localhost:5000/team/app_x", RegistryImage("localhost:5000/team/app_x")),
        ("docker://registry.example/a/b", RegistryImage("registry.example/a/b")),
        (f"registry.example/a@{DIGEST}", RegistryImage(f"registry.example/a@{DIGEST}")),
    ],
)
def test_references_are_understood(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "--help",
        "-v",
        "oci:relative/path",
        "oci:",
        "oci:/a\0b",
        "docker-archive:/a.tar:",
        "dir:/etc",
        "docker-daemon:x:y",
        "oci-archive:/a.tar",
        "Python",
        "a b",
        "a\nb",
        "python:",
        "python@sha256:short",
        "../x",
        "a//b",
        "x" * 2000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(text)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("python", "docker.io"),
        ("team/app", "docker.io"),
        ("localhost/app", "localhost"),
        ("registry.example/app", "registry.example"),
        ("registry:5000/app", "registry:5000"),
    ],
)
def test_the_host_is_what_docker_takes_for_one(name: str, host: str) -> None:
    assert host_of(RegistryImage(name)) == host


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("python", "python"),
        ("python:3.11", "python"),
        ("registry:5000/app", "registry:5000/app"),
        ("registry:5000/app:1", "registry:5000/app"),
        (f"a/b:1@{DIGEST}", "a/b"),
    ],
)
def test_a_pinned_image_has_a_digest_and_no_tag(name: str, expected: str) -> None:
    assert pinned(RegistryImage(name), DIGEST).name == f"{expected}@{DIGEST}"


def test_no_secret_is_in_the_argv_or_the_representation() -> None:
    image = RegistryImage("registry.example/app")
    assert "--authfile=/tmp/x/auth.json" in inspect_argv(image, Path("/tmp/x"), verify_tls=False)
    argv = copy_argv(image, Path("/tmp/x"), verify_tls=True)
    assert "--src-authfile=/tmp/x/auth.json" in argv
    assert "--src-tls-verify=true" in argv
    assert "hunter2" not in repr(RegistryLogin("me", "hunter2"))
