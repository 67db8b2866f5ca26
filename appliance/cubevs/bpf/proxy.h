/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Egress by domain. Under such a policy HTTP and TLS that no address rule allows go to the node's egress proxy, which
 * reads the name that the guest asks for and connects to that name itself: where the guest sent its packets is of no
 * consequence but that answers come back from there.
 *
 * The session of such a flow is kept by its far end, the proxy: the guest may not have two flows from one port there.
 */
#pragma once

#define HTTP_PORT bpf_htons(80)
#define TLS_PORT bpf_htons(443)

/* The proxy's port for what the guest sends to `port`; zero where the proxy serves none of it. */
static __always_inline __be16 proxy_port(const struct cube_config *config, const struct cube_tap *tap,
					 const struct packet *packet)
{
	if (!(tap->flags & TAP_BY_DOMAIN) || packet->ip.protocol != IPPROTO_TCP)
		return 0;
	if (packet->destination_port == HTTP_PORT)
		return config->proxy_http_port;
	if (packet->destination_port == TLS_PORT)
		return config->proxy_tls_port;
	return 0;
}

/* The session of the guest's flow from its port to the proxy's, whatever it was meant for; NULL where there is none. */
static __always_inline struct cube_session *find_diverted(void *sessions, const struct cube_config *config,
							  const struct packet *packet, __be16 port,
							  struct cube_session_key *key)
{
	key->peer = config->node_address;
	key->guest_port = packet->source_port;
	key->peer_port = port;
	key->protocol = IPPROTO_TCP;
	return find_session(sessions, config, key);
}

/* Does the packet go on with a flow that was diverted before an address rule began to allow its destination? */
static __always_inline bool is_diverted(void *sessions, const struct cube_config *config, const struct packet *packet,
					__be16 port)
{
	struct cube_session_key key = {};
	struct cube_session *session = find_diverted(sessions, config, packet, port, &key);

	return session && session->original == packet->ip.daddr && !begins(packet);
}

/* Send the guest's packet to the proxy's `port` instead. */
static __always_inline int divert(struct __sk_buff *skb, const struct cube_config *config, const struct cube_tap *tap,
				  void *sessions, const struct packet *packet, __be16 port)
{
	struct cube_session_key key = {};
	struct cube_session *session = find_diverted(sessions, config, packet, port, &key);
	bool known = session && session->original == packet->ip.daddr;

	if (!begins(packet) && !known)
		return drop(DROP_POLICY); /* a flow that was opened under another policy does not change its far end */
	if (begins(packet) && session && !known && !is_closed(session))
		return drop(DROP_PROXY_PORT_TAKEN);
	record(sessions, &key, session, packet, OPENED_BY_GUEST, packet->ip.daddr);

	if (replace_address(skb, offsetof(struct iphdr, saddr), IPPROTO_TCP, GUEST_ADDRESS, tap->address) ||
	    replace_address(skb, offsetof(struct iphdr, daddr), IPPROTO_TCP, packet->ip.daddr, config->node_address) ||
	    replace_port(skb, offsetof(struct tcphdr, dest), packet->destination_port, port))
		return drop(DROP_REWRITE_FAILED);
	return TC_ACT_OK;
}

/* Does the packet come from one of the proxy's ports? Nothing else on the node sends from there. */
static __always_inline bool is_from_proxy(const struct cube_config *config, const struct packet *packet)
{
	return packet->ip.saddr == config->node_address && packet->ip.protocol == IPPROTO_TCP &&
	       ((config->proxy_http_port && packet->source_port == config->proxy_http_port) ||
		(config->proxy_tls_port && packet->source_port == config->proxy_tls_port));
}

/* Bring the proxy's answer to the guest, from where the guest believes to have sent its question. */
static __always_inline int return_diverted(struct __sk_buff *skb, const struct cube_config *config,
					   const struct cube_tap *tap, struct cube_session *session,
					   const struct packet *packet)
{
	__be16 port = packet->source_port == config->proxy_http_port ? HTTP_PORT : TLS_PORT;

	if (skb->ingress_ifindex || !session || session->opener != OPENED_BY_GUEST || !session->original ||
	    !(tap->flags & TAP_ADMITTED))
		return drop(DROP_NOT_FROM_HOST);
	if (!(tap->flags & TAP_BY_DOMAIN))
		return drop(DROP_POLICY);
	__be32 original = session->original;

	record_answer(session, packet);
	if (replace_address(skb, offsetof(struct iphdr, saddr), IPPROTO_TCP, packet->ip.saddr, original) ||
	    replace_port(skb, offsetof(struct tcphdr, source), packet->source_port, port) ||
	    replace_address(skb, offsetof(struct iphdr, daddr), IPPROTO_TCP, tap->address, GUEST_ADDRESS))
		return drop(DROP_REWRITE_FAILED);
	return TC_ACT_OK;
}
