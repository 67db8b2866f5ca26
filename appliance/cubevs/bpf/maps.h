/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The maps that the programs share with user space. maps.py declares each layout a second time and creates the maps
 * before the programs are loaded; the programs open them by their pins, so state outlives both Cubelet and an upgrade
 * of the programs. A changed layout needs a new LAYOUT_VERSION there.
 *
 * Host constants live in a map and not in the programs: BCC has no `.rodata` to fill in at load time, and a map lets
 * the same pinned programs serve after a setting changed. Every field that is zero closes: a program that runs before
 * user space has written the configuration drops everything.
 *
 * Addresses and ports are in network byte order.
 */
#pragma once

struct cube_config {
	__be32 node_address;    /* zero: nothing is configured, drop all */
	__be32 sandbox_network;
	__be32 sandbox_netmask;
	__be32 dns_address;     /* zero: guests have no DNS */
	u32 tcp_idle_s;
	u32 tcp_closed_s;       /* after a reset, or a FIN from both sides */
	u32 datagram_idle_s;    /* UDP and ICMP echo */
	__be16 proxy_http_port; /* of the egress proxy on `node_address`; zero: there is none */
	__be16 proxy_tls_port;
};

#define TAP_ADMITTED 1u
#define TAP_INTERNET 2u
#define TAP_BY_DOMAIN 4u     /* the egress proxy decides about HTTP and TLS that no address rule allows */
#define TAP_INSPECTED 8u     /* HTTP and TLS that address rules allow pass the egress proxy as well */
#define TAP_TUNNELLED 16u    /* and so does all TCP that they allow */
#define TAP_NAMELESS 32u     /* the guest may not ask the node for names */

struct cube_tap {
	__be32 address;
	u32 flags;
	u32 generation;         /* of the policy entries in force: a new policy is written beside the old, then switched to */
	u32 reserved;
};

#define LIST_ALLOW 1u
#define LIST_DENY 2u

struct cube_policy_key {
	u32 prefixlen;          /* POLICY_FIXED_BITS + length of the network's prefix */
	u32 ifindex;
	u32 generation;
	u32 list;
	__be32 network;
};
#define POLICY_FIXED_BITS 96u

struct cube_network_key {
	u32 prefixlen;
	__be32 network;
};

struct cube_session_key {
	__be32 peer;            /* the other end: an address of the node, or one outside */
	__be16 guest_port;      /* ICMP echo: the identifier */
	__be16 peer_port;       /* ICMP echo: zero */
	u8 protocol;
	u8 zero[3];
};

#define OPENED_BY_NODE 1u
#define OPENED_BY_GUEST 2u

#define CLOSED_BY_GUEST 1u
#define CLOSED_BY_PEER 2u
#define RESET 4u

struct cube_session {
	u64 seen_ns;            /* CLOCK_MONOTONIC_COARSE */
	u8 opener;
	u8 closed;
	__be16 original_port;   /* of a flow that goes to the proxy's port for all TCP; zero: the proxy's port tells it */
	__be32 original;        /* where the guest sent what goes to the egress proxy, its peer here; zero elsewhere */
};

struct cube_diverted_key {
	__be32 tap_address;
	__be16 guest_port;
	__be16 proxy_port;
};

struct cube_destination {
	__be32 address;
	__be16 port;
	u8 zero[2];
};

/* Only the shape of the inner map matters here: the real ones, one a tap, are made by user space. */
BPF_TABLE("lru_hash", struct cube_session_key, struct cube_session, session_shape, 1);

BPF_TABLE_PINNED("array", u32, struct cube_config, cube_config, 1, CUBE_MAPS "/config");
BPF_TABLE_PINNED("hash", u32, struct cube_tap, cube_taps, 1, CUBE_MAPS "/taps");
BPF_TABLE_PINNED("hash_of_maps$session_shape", u32, int, cube_sessions, 1, CUBE_MAPS "/sessions");
BPF_TABLE_PINNED("lpm_trie", struct cube_network_key, u32, cube_denied, 1, CUBE_MAPS "/denied");
BPF_TABLE_PINNED("lpm_trie", struct cube_policy_key, u32, cube_policy, 1, CUBE_MAPS "/policy");
BPF_TABLE_PINNED("hash", __be32, u32, cube_node_addresses, 1, CUBE_MAPS "/node_addresses");
BPF_TABLE_PINNED("percpu_array", u32, u64, cube_drops, 32, CUBE_MAPS "/drops");

/*
 * Where the guest sent what was diverted, for the egress proxy: written when a flow begins, read when the proxy accepts
 * it, by a process that may open no other map. One for all taps, since a map of maps takes a privilege to look into.
 * It has room for more than the 3 * 65535 flows that one guest can begin: alone, none pushes out what others just began.
 */
BPF_TABLE_PINNED("lru_hash", struct cube_diverted_key, struct cube_destination, cube_diverted, 1 << 18,
		 CUBE_MAPS "/diverted");
