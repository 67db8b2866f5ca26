"""A policy as the entries that the programs look up: flags of its tap, and networks under its generation."""

from __future__ import annotations

from appliance.cubevs.base import EgressPolicy
from appliance.cubevs.maps import Maps, PolicyKey, PolicyList, TapFlag


def tap_flags(policy: EgressPolicy) -> TapFlag:
    """Return what is said of a policy in the entry of an admitted tap."""
    flags = TapFlag.ADMITTED
    if policy.allow_internet:
        flags |= TapFlag.INTERNET
    if policy.allow_domains:
        flags |= TapFlag.BY_DOMAIN
    if policy.header_rules:
        flags |= TapFlag.INSPECTED
    if policy.tunnel is not None:
        flags |= TapFlag.TUNNELLED
    if not policy.name_service:
        flags |= TapFlag.NAMELESS
    return flags


def policy_keys(ifindex: int, generation: int, policy: EgressPolicy) -> list[PolicyKey]:
    """Return the entries that make up a policy."""
    return [
        *(PolicyKey(ifindex, generation, PolicyList.ALLOW, network) for network in policy.allow),
        *(PolicyKey(ifindex, generation, PolicyList.DENY, network) for network in policy.deny),
    ]


def forget_policy(maps: Maps, ifindex: int, *, keep: int | None) -> None:
    """Remove what the maps hold of a tap's policies, but for the generation `keep`."""
    for packed in list(maps.policy.keys()):
        key = PolicyKey.unpack(packed)
        if key.ifindex == ifindex and key.generation != keep:
            maps.policy.delete(packed)
