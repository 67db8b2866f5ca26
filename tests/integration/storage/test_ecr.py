"""Access keys of AWS become a login, which alone the registry sees: with skopeo and curl as a node runs them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.domain.errors import ImageRejected, RegistryLoginRefused, StorageFailure
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.ecr import EcrApi
from appliance.storage.layers import LocalImageStore
from appliance.storage.pull_network import Reach
from tests.integration.storage.test_pull_network import Names
from tests.support.certificates import tls_contexts
from tests.support.oci_images import E, tar_bytes, write_layout
from tests.support.ports import free_port
from tests.support.tiny_ecr import TinyEcr, serving_ecr
from tests.support.tiny_registry import TinyRegistry, serving

REGION, KEY, SECRET = "eu-west-1", "AKIDEXAMPLE01234", "s3cret/with+signs="
NAME = f"api.ecr.{REGION}.amazonaws.com"


@pytest.fixture
def trust(searchable_path: Path) -> Path:
    return searchable_path / "trusted.pem"


@pytest.fixture
def ecr(tmp_path: Path, trust: Path) -> Iterator[TinyEcr]:
    server, _ = tls_contexts(tmp_path, NAME)
    # Without the key, for programs that are nobody.
    pem = (tmp_path / "server.pem").read_text()
    trust.write_text(pem[pem.index("-----BEGIN CERTIFICATE") :])
    trust.chmod(0o644)
    with serving_ecr(server, region=REGION, name=NAME, keys={KEY: SECRET}, login="AWS:for-twelve-hours") as amazon:
        yield amazon


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[TinyRegistry]:
    write_layout(tmp_path / "image", [tar_bytes([E("f", data=b"1")])])
    with serving(tmp_path / "image", username="AWS", password="for-twelve-hours") as serving_registry:
        yield serving_registry


class Node:
    """A node's images, with a name service that knows AWS at one address."""

    def __init__(self, directory: Path, registry: TinyRegistry, api: EcrApi, *internal: str) -> None:
        self.names = Names("127.0.0.1")
        self.said: list[str] = []
        self.host = registry.host
        self._store = LocalImageStore(
            directory / "layers",
            insecure_registries=frozenset({registry.host}),
            reach=Reach(internal=frozenset({registry.host, *internal}), resolve=self.names),
            ecr=api,
        )

    async def pull(self, login: RegistryLogin) -> str:
        image = await self._store.import_image(f"{self.host}/demo:1", login=login, progress=self.said.append)
        return image.layers[0].digest


@pytest.fixture
def node(searchable_path: Path, registry: TinyRegistry, ecr: TinyEcr, trust: Path) -> Node:
    return Node(searchable_path, registry, EcrApi(ecr.port, trust), ecr.host)


async def test_keys_are_exchanged_for_the_login_right_before_the_pull(
    node: Node, ecr: TinyEcr, registry: TinyRegistry, searchable_path: Path
) -> None:
    digest = await node.pull(RegistryLogin(KEY, SECRET, REGION))
    assert ecr.asked == [(200, "")]
    assert any("/blobs/" in path for path in registry.served)
    # A layer is what it is, whoever pulled it, and nothing else is left.
    assert digest == await node.pull(RegistryLogin("AWS", "for-twelve-hours"))
    assert len(list((searchable_path / "layers").iterdir())) == 1
    assert node.said[0] == f"Asking AWS for a login at its registry in {REGION}"
    assert not any(secret in str(node.said) for secret in (KEY, SECRET, "for-twelve-hours"))


@pytest.mark.parametrize(
    ("login", "code"),
    [
        (RegistryLogin(KEY, "wr0ng", REGION), "InvalidSignatureException"),
        (RegistryLogin("AKIDOFNOBODY0123", SECRET, REGION), "UnrecognizedClientException"),
    ],
)
async def test_wrong_keys_are_refused_with_the_code_of_aws_alone(
    node: Node, ecr: TinyEcr, registry: TinyRegistry, login: RegistryLogin, code: str
) -> None:
    with pytest.raises(RegistryLoginRefused, match=f"the registry login was refused by AWS: {code};") as raised:
        await node.pull(login)
    assert raised.value.code == code
    assert not any(secret in raised.value.message for secret in (login.username, login.password, "Signature="))
    assert ecr.asked == [(400, code)]
    assert registry.served == []


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"not json", "status 200 and no JSON object"),
        (200, b"{}", "something that is none"),
        (200, b'{"authorizationData": []}', "something that is none"),
        (200, b'{"authorizationData": [{"authorizationToken": "!"}]}', "something that is none"),
        (200, json.dumps({"authorizationData": [{"authorizationToken": "bm8="}]}).encode(), "something that is none"),
        (200, b"x" * 2**20, "cannot be asked for a login"),
        (503, b'{"__type": "ServerException"}', "status 503; try again"),
        (302, b"{}", "status 302; try again"),
        (400, json.dumps({"__type": "<b>"}).encode(), "status 400; try again"),
    ],
)
async def test_an_answer_that_is_none_is_told(
    node: Node, ecr: TinyEcr, registry: TinyRegistry, status: int, body: bytes, message: str
) -> None:
    ecr.answer = (status, body)
    with pytest.raises(StorageFailure, match=message):
        await node.pull(RegistryLogin(KEY, SECRET, REGION))
    assert registry.served == []


async def test_a_login_that_the_registry_does_not_take_is_in_no_message(
    node: Node, ecr: TinyEcr, registry: TinyRegistry
) -> None:
    token = base64.b64encode(b"AWS:with:colons").decode()
    ecr.answer = (200, json.dumps({"authorizationData": [{"authorizationToken": token}]}).encode())
    with pytest.raises(StorageFailure, match="cannot pull") as raised:
        await node.pull(RegistryLogin(KEY, SECRET, REGION))
    assert "with:colons" not in raised.value.message


async def test_an_inner_address_of_aws_is_reached_only_where_the_operator_says_so(
    searchable_path: Path, registry: TinyRegistry, ecr: TinyEcr, trust: Path
) -> None:
    """As it is with an endpoint in a network of the operator's own."""
    node = Node(searchable_path, registry, EcrApi(ecr.port, trust))
    with pytest.raises(ImageRejected, match="not a public one") as raised:
        await node.pull(RegistryLogin(KEY, SECRET, REGION))
    assert "internal_registries in cubelet.toml" in raised.value.message
    assert node.names.asked == [ecr.host]
    assert ecr.asked == []


async def test_nobody_else_is_taken_for_aws(searchable_path: Path, registry: TinyRegistry, ecr: TinyEcr) -> None:
    node = Node(searchable_path, registry, EcrApi(ecr.port), ecr.host)
    with pytest.raises(StorageFailure, match=r"cannot be asked for a login: curl: \(60\)"):
        await node.pull(RegistryLogin(KEY, SECRET, REGION))
    assert ecr.asked == []


async def test_an_aws_that_cannot_be_reached_is_told(
    searchable_path: Path, registry: TinyRegistry, trust: Path
) -> None:
    api = EcrApi(free_port(), trust)
    node = Node(searchable_path, registry, api, api.host(REGION))
    with pytest.raises(StorageFailure, match=rf"a login: {NAME}:{api.port} cannot be reached: "):
        await node.pull(RegistryLogin(KEY, SECRET, REGION))
