from __future__ import annotations

from appliance.hypervisor.base import Confinement
from appliance.hypervisor.confinement import confined


def test_confined_command_drops_user_groups_and_capabilities() -> None:
    argv = confined(["vmm", "--flag"], Confinement(uid=100_007, gid=100_008))
    assert argv[-2:] == ("vmm", "--flag")
    assert {"--reuid=100007", "--regid=100008", "--clear-groups", "--no-new-privs"} <= set(argv)
    assert {"--inh-caps=-all", "--bounding-set=-all"} <= set(argv)


def test_command_is_left_as_it_is_without_confinement() -> None:
    assert confined(["vmm", "--flag"], None) == ("vmm", "--flag")
