/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * CubeVS: the two tc programs on every sandbox tap.
 *
 * Every guest has the same address and MAC behind the same gateway, so that clones need no configuration. A tap has an
 * address of its own, by which the node knows the guest; these programs translate 1:1 between the two and tell guests
 * apart by the tap's ifindex. Addressing, GUEST_ and GATEWAY_ constants come from base.py as definitions.
 *
 *   guest --> tap --[cube_from_guest: verify, decide, source becomes the tap's address]--> routing, masquerade --> out
 *                      | what proxy.h says is for the egress proxy: destination becomes the proxy's --> the node
 *   guest <-- tap <--[cube_to_guest: only the node, or an answer; destination becomes the guest's]<-- routing <-- in
 *
 * What is not explicitly passed is dropped and counted under its reason.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "reasons.h"
#include "maps.h"
#include "packet.h"
#include "session.h"
#include "policy.h"

#define DNS_PORT bpf_htons(53)

static __always_inline int drop(u32 reason)
{
	u64 *count = cube_drops.lookup(&reason);

	if (count)
		*count += 1; /* one counter a CPU */
	return TC_ACT_SHOT;
}

#include "arp.h"
#include "proxy.h"

/* A guest's ICMP error passes only to the node, about a flow that the node opened. */
static __always_inline int error_from_guest(struct __sk_buff *skb, const struct cube_config *config,
					    const struct cube_tap *tap, void *sessions, const struct packet *packet)
{
	struct packet quoted = {};
	int reason = load_quoted(skb, &quoted);

	if (reason)
		return drop(reason);
	struct cube_session_key key = {
		.peer = quoted.ip.saddr,
		.guest_port = quoted.destination_port,
		.peer_port = quoted.ip.protocol == IPPROTO_ICMP ? 0 : quoted.source_port,
		.protocol = quoted.ip.protocol,
	};
	struct cube_session *session = find_session(sessions, config, &key);

	if (quoted.ip.daddr != GUEST_ADDRESS || quoted.ip.saddr != packet->ip.daddr || !session ||
	    session->opener != OPENED_BY_NODE)
		return drop(DROP_TO_HOST);
	if (replace_quoted(skb, offsetof(struct iphdr, daddr), GUEST_ADDRESS, tap->address) ||
	    replace_address(skb, offsetof(struct iphdr, saddr), IPPROTO_ICMP, GUEST_ADDRESS, tap->address))
		return drop(DROP_REWRITE_FAILED);
	return TC_ACT_OK;
}

int cube_from_guest(struct __sk_buff *skb)
{
	u32 zero = 0, ifindex = skb->ifindex;
	struct cube_config *config = cube_config.lookup(&zero);
	struct cube_tap *tap = cube_taps.lookup(&ifindex);
	void *sessions = cube_sessions.lookup(&ifindex);

	if (!config || !config->node_address || !tap || !tap->address || !sessions)
		return drop(DROP_UNCONFIGURED);

	struct ethhdr eth;
	if (bpf_skb_load_bytes(skb, ETH_OFFSET, &eth, sizeof(eth)))
		return drop(DROP_TRUNCATED);
	if (!is_mac(eth.h_source, GUEST_MAC))
		return drop(DROP_SPOOFED_MAC);
	if (!skb->vlan_present && skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb);

	struct packet packet = {};
	int reason = load_packet(skb, &packet);
	if (reason)
		return drop(reason);
	if (!is_mac(eth.h_dest, GATEWAY_MAC))
		return drop(DROP_NOT_TO_GATEWAY);
	if (packet.ip.saddr != GUEST_ADDRESS)
		return drop(DROP_SPOOFED_ADDRESS);
	if (is_icmp_error(&packet))
		return error_from_guest(skb, config, tap, sessions, &packet);
	bool icmp = packet.ip.protocol == IPPROTO_ICMP;
	if (icmp && packet.icmp_type != ICMP_ECHO && packet.icmp_type != ICMP_ECHOREPLY)
		return drop(DROP_UNSUPPORTED_PROTOCOL);

	__be32 destination = packet.ip.daddr;
	/* Not by TCP: no port of the node takes a connection of a guest's. */
	bool dns = destination == GATEWAY_ADDRESS && packet.ip.protocol == IPPROTO_UDP &&
		   packet.destination_port == DNS_PORT && config->dns_address;
	if (dns)
		destination = config->dns_address;

	struct cube_session_key key = {
		.peer = destination,
		.guest_port = packet.source_port,
		.peer_port = icmp ? 0 : packet.destination_port,
		.protocol = packet.ip.protocol,
	};
	struct cube_session *session = find_session(sessions, config, &key);

	if (!dns && session && session->opener == OPENED_BY_NODE) {
		/* An answer never begins a connection: a port of the node's that is listened on later stays closed. */
		if (begins(&packet) || (icmp && packet.icmp_type != ICMP_ECHOREPLY))
			return drop(DROP_TO_HOST);
		record_answer(session, &packet);
	} else {
		if (!(tap->flags & TAP_ADMITTED))
			return drop(DROP_NOT_ADMITTED);
		if (dns)
			reason = may_ask_for_names(tap) ? 0 : DROP_POLICY;
		else if (destination == GATEWAY_ADDRESS)
			reason = DROP_TO_HOST;
		else
			reason = refuse(skb, config, tap, destination);
		__be16 port = proxy_port(config, tap, &packet);
		if (is_for_proxy(sessions, config, tap, &packet, port, reason))
			return divert(skb, config, tap, sessions, &packet, port);
		if (!reason && icmp && packet.icmp_type != ICMP_ECHO)
			reason = DROP_UNSUPPORTED_PROTOCOL;
		if (reason)
			return drop(reason);
		record(sessions, &key, session, &packet, OPENED_BY_GUEST, 0, 0);
	}

	if (replace_address(skb, offsetof(struct iphdr, saddr), packet.ip.protocol, GUEST_ADDRESS, tap->address))
		return drop(DROP_REWRITE_FAILED);
	if (dns && replace_address(skb, offsetof(struct iphdr, daddr), packet.ip.protocol, GATEWAY_ADDRESS, destination))
		return drop(DROP_REWRITE_FAILED);
	return TC_ACT_OK;
}

/* An ICMP error reaches the guest only about a flow that exists, such as "fragmentation needed" from a router. */
static __always_inline int error_to_guest(struct __sk_buff *skb, const struct cube_config *config,
					  const struct cube_tap *tap, void *sessions)
{
	struct packet quoted = {};
	int reason = load_quoted(skb, &quoted);

	if (reason)
		return drop(reason);
	struct cube_session_key key = {
		.peer = quoted.ip.daddr,
		.guest_port = quoted.source_port,
		.peer_port = quoted.ip.protocol == IPPROTO_ICMP ? 0 : quoted.destination_port,
		.protocol = quoted.ip.protocol,
	};
	struct cube_session *session = find_session(sessions, config, &key);

	if (quoted.ip.saddr != tap->address || !session || session->original)
		return drop(DROP_NOT_FROM_HOST);
	if (session->opener == OPENED_BY_GUEST && quoted.ip.daddr == config->dns_address &&
	    quoted.ip.protocol == IPPROTO_UDP && quoted.destination_port == DNS_PORT &&
	    replace_quoted(skb, offsetof(struct iphdr, daddr), quoted.ip.daddr, GATEWAY_ADDRESS))
		return drop(DROP_REWRITE_FAILED);
	if (replace_quoted(skb, offsetof(struct iphdr, saddr), tap->address, GUEST_ADDRESS) ||
	    replace_address(skb, offsetof(struct iphdr, daddr), IPPROTO_ICMP, tap->address, GUEST_ADDRESS))
		return drop(DROP_REWRITE_FAILED);
	return TC_ACT_OK;
}

int cube_to_guest(struct __sk_buff *skb)
{
	u32 zero = 0, ifindex = skb->ifindex;
	struct cube_config *config = cube_config.lookup(&zero);
	struct cube_tap *tap = cube_taps.lookup(&ifindex);
	void *sessions = cube_sessions.lookup(&ifindex);

	if (!config || !config->node_address || !tap || !tap->address || !sessions)
		return drop(DROP_UNCONFIGURED);
	if (!skb->vlan_present && skb->protocol == bpf_htons(ETH_P_ARP))
		return pass_own_arp(skb);

	struct packet packet = {};
	int reason = load_packet(skb, &packet);
	if (reason)
		return drop(reason);
	if (packet.ip.daddr != tap->address)
		return drop(DROP_NOT_FROM_HOST);
	if (is_icmp_error(&packet))
		return error_to_guest(skb, config, tap, sessions);
	bool icmp = packet.ip.protocol == IPPROTO_ICMP;
	if (icmp && packet.icmp_type != ICMP_ECHO && packet.icmp_type != ICMP_ECHOREPLY)
		return drop(DROP_UNSUPPORTED_PROTOCOL);

	struct cube_session_key key = {
		.peer = packet.ip.saddr,
		.guest_port = packet.destination_port,
		.peer_port = icmp ? 0 : packet.source_port,
		.protocol = packet.ip.protocol,
	};
	struct cube_session *session = find_session(sessions, config, &key);
	bool answer = session && session->opener == OPENED_BY_GUEST;
	bool from_dns = packet.ip.saddr == config->dns_address && packet.ip.protocol == IPPROTO_UDP &&
			packet.source_port == DNS_PORT;

	if (is_from_proxy(config, &packet))
		return return_diverted(skb, config, tap, session, &packet);

	/* The kernel notes where it received a packet that it forwards; one that the node itself sent came from nowhere. */
	if (!skb->ingress_ifindex && !from_dns) {
		record(sessions, &key, session, &packet, OPENED_BY_NODE, 0, 0);
	} else {
		if (!answer || !(tap->flags & TAP_ADMITTED) || (icmp && packet.icmp_type != ICMP_ECHOREPLY))
			return drop(DROP_NOT_FROM_HOST);
		/* So a policy that was tightened also ends what comes in. */
		if (from_dns ? !may_ask_for_names(tap) :
			       !policy_allows(ifindex, tap, packet.ip.saddr) || is_past_tunnel(tap, &packet))
			return drop(DROP_POLICY);
		record_answer(session, &packet);
	}

	if (from_dns &&
	    replace_address(skb, offsetof(struct iphdr, saddr), packet.ip.protocol, packet.ip.saddr, GATEWAY_ADDRESS))
		return drop(DROP_REWRITE_FAILED);
	if (replace_address(skb, offsetof(struct iphdr, daddr), packet.ip.protocol, tap->address, GUEST_ADDRESS))
		return drop(DROP_REWRITE_FAILED);
	return TC_ACT_OK;
}
