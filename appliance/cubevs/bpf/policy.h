/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Where a guest may go. Every question ends in "no" unless an answer says otherwise. */
#pragma once

static __always_inline bool is_listed(u32 ifindex, const struct cube_tap *tap, u32 list, __be32 address)
{
	struct cube_policy_key key = {
		.prefixlen = POLICY_FIXED_BITS + 32,
		.ifindex = ifindex,
		.generation = tap->generation,
		.list = list,
		.network = address,
	};
	return cube_policy.lookup(&key) != NULL;
}

/* The sandbox's own policy: allow beats deny, deny beats the default. */
static __always_inline bool policy_allows(u32 ifindex, const struct cube_tap *tap, __be32 address)
{
	if (is_listed(ifindex, tap, LIST_ALLOW, address))
		return true;
	if (is_listed(ifindex, tap, LIST_DENY, address))
		return false;
	return tap->flags & TAP_INTERNET;
}

/* A resolver is a way out: without internet there is none, unless names are what is allowed. */
static __always_inline bool may_ask_for_names(const struct cube_tap *tap)
{
	return (tap->flags & (TAP_INTERNET | TAP_BY_DOMAIN)) && !(tap->flags & TAP_NAMELESS);
}

/*
 * Would the kernel forward a packet for `address`? It answers "not forwarded" for every local, broadcast and multicast
 * address, also for one that was added a moment ago.
 */
static __always_inline bool is_forwarded(struct __sk_buff *skb, const struct cube_tap *tap, __be32 address)
{
	struct bpf_fib_lookup fib = {};

	fib.family = 2; /* AF_INET */
	fib.ifindex = skb->ifindex;
	fib.ipv4_src = tap->address;
	fib.ipv4_dst = address;
	long result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);

	return result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH ||
	       result == BPF_FIB_LKUP_RET_FRAG_NEEDED || result == BPF_FIB_LKUP_RET_UNSUPP_LWT;
}

/* Why this guest may not open a flow to `address`; zero when it may. What no policy can lift comes first. */
static __always_inline int refuse(struct __sk_buff *skb, const struct cube_config *config, const struct cube_tap *tap,
				  __be32 address)
{
	struct cube_network_key network = {.prefixlen = 32, .network = address};

	if (cube_node_addresses.lookup(&address))
		return DROP_TO_HOST;
	if ((address & config->sandbox_netmask) == config->sandbox_network)
		return DROP_TO_SANDBOX;
	if (cube_denied.lookup(&network))
		return DROP_DENIED_NETWORK;
	if (!is_forwarded(skb, tap, address))
		return DROP_TO_HOST;
	if (!policy_allows(skb->ifindex, tap, address))
		return DROP_POLICY;
	return 0;
}
