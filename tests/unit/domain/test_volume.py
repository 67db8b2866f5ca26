from __future__ import annotations

import pytest

from appliance.domain.errors import InvalidRequest, NoCapacity, VolumeNotFound
from appliance.domain.ids import NodeId, new_volume_id
from appliance.domain.placement import roomiest
from appliance.domain.volume import WantedMount, check_mounts, parse_volume_id, parse_volume_name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a" * 129, "a\n"])
def test_a_name_is_of_the_alphabet_that_clients_know(name: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid volume name"):
        parse_volume_name(name)


def test_whatever_has_not_the_form_of_an_id_is_not_found() -> None:
    volume_id = new_volume_id()
    assert parse_volume_id(volume_id) == volume_id
    for text in ("", "vol_", "../" + volume_id, volume_id + "\n", volume_id.upper()):
        with pytest.raises(VolumeNotFound):
            parse_volume_id(text)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is not absolute"),
        ("data", "is not absolute"),
        ("./data", "is not absolute"),
        ("/", "cannot take the place of '/'"),
        ("//data", "write '/data'"),
        ("/data/", "write '/data'"),
        ("/a/../data", "write '/data'"),
        ("/a//b", "write '/a/b'"),
        ("/a\nb", "control characters"),
        ("/a\0", "control characters"),
        ("/" + "a" * 1024, "1024 characters"),
    ],
)
def test_a_path_is_absolute_and_clean(path: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid mounts:\n\t- volume mount #0: ") as refused:
        check_mounts([WantedMount("v", path)], most=2)
    assert problem in refused.value.message


def test_every_problem_is_named_with_its_number() -> None:
    wanted = [WantedMount("a", "/x"), WantedMount("b", "/x"), WantedMount("a", "/y"), WantedMount("c", "z")]
    with pytest.raises(InvalidRequest) as refused:
        check_mounts(wanted, most=4)
    assert refused.value.message.split("\n\t- ") == [
        "invalid mounts:",
        "volume mount #1: path '/x' is already used",
        "volume mount #2: volume 'a' is already mounted",
        "volume mount #3: path 'z' is not absolute",
    ]


def test_good_mounts_pass_and_too_many_do_not() -> None:
    wanted = [WantedMount("a", "/mnt/a"), WantedMount("b", "/mnt/b b/ü")]
    check_mounts(wanted, most=2)
    check_mounts([], most=2)
    with pytest.raises(InvalidRequest, match="at most 1 volumes, not 2"):
        check_mounts(wanted, most=1)


def test_a_volume_goes_where_most_disk_is_free() -> None:
    free = {NodeId("a"): 100, NodeId("c"): 300, NodeId("b"): 300}
    assert roomiest(100, free) == "b"
    with pytest.raises(NoCapacity, match="none of 3 ready nodes has 301 MiB"):
        roomiest(301, free)
    with pytest.raises(NoCapacity):
        roomiest(1, {})
