/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What goes to the node's egress proxy. Under a policy by domain: HTTP and TLS that no address rule allows, of which the
 * proxy reads the name that the guest asks for and connects to that name itself. Where headers are to be added: HTTP and
 * TLS that address rules do allow, too. Where there is a tunnel: all TCP that they allow. The proxy learns from
 * `cube_diverted` where the guest sent a flow, and decides again: to be diverted is no permission.
 *
 * The session of such a flow is kept by its far end, the proxy: the guest may not have two flows from one port there.
 */
#pragma once

#define HTTP_PORT bpf_htons(80)
#define TLS_PORT bpf_htons(443)
#define PROXY_PORT bpf_htons(PROXY_TCP_PORT)

#define TAP_PROXIED (TAP_BY_DOMAIN | TAP_INSPECTED | TAP_TUNNELLED)

/* The proxy's port for what the guest sends to `port`; zero where the proxy serves none of it. */
static __always_inline __be16 proxy_port(const struct cube_config *config, const struct cube_tap *tap,
					 const struct packet *packet)
{
	if (!(tap->flags & TAP_PROXIED) || packet->ip.protocol != IPPROTO_TCP)
		return 0;
	if (packet->destination_port == HTTP_PORT)
		return config->proxy_http_port;
	if (packet->destination_port == TLS_PORT)
		return config->proxy_tls_port;
	return tap->flags & TAP_TUNNELLED ? PROXY_PORT : 0;
}

/* What the proxy's `port` does not tell of where the guest sent the packet. */
static __always_inline __be16 untold_port(const struct packet *packet, __be16 port)
{
	return port == PROXY_PORT ? packet->destination_port : 0;
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

/* Is this the flow that the packet belongs to, if it goes to the proxy's `port`? */
static __always_inline bool is_of(const struct cube_session *session, const struct packet *packet, __be16 port)
{
	return session && session->original == packet->ip.daddr && session->original_port == untold_port(packet, port);
}

/*
 * Does the packet go to the proxy's `port`? `reason` is why it may not leave by address, zero when it may.
 *
 * To denied networks as well, which it never sees: the proxy says why it refuses, and the operator may have permitted it
 * what no guest reaches by address.
 */
static __always_inline bool is_for_proxy(void *sessions, const struct cube_config *config, const struct cube_tap *tap,
					 const struct packet *packet, __be16 port, int reason)
{
	struct cube_session_key key = {};

	if (!port)
		return false;
	if (reason == DROP_POLICY || reason == DROP_DENIED_NETWORK)
		return (tap->flags & TAP_BY_DOMAIN) && port != PROXY_PORT;
	if (reason)
		return false;
	if (tap->flags & TAP_TUNNELLED)
		return true; /* nothing leaves past a tunnel, were it open already */
	if (begins(packet))
		return tap->flags & TAP_INSPECTED;
	/* An open flow keeps its far end, whatever has come to be allowed since it began. */
	return is_of(find_diverted(sessions, config, packet, port, &key), packet, port);
}

/* Does the packet answer a flow that began before there was a tunnel? */
static __always_inline bool is_past_tunnel(const struct cube_tap *tap, const struct packet *packet)
{
	return (tap->flags & TAP_TUNNELLED) && packet->ip.protocol == IPPROTO_TCP;
}

/* Let the proxy know where the guest sends the flow that begins. */
static __always_inline int tell_proxy(const struct cube_tap *tap, const struct packet *packet, __be16 port)
{
	struct cube_diverted_key key = {
		.tap_address = tap->address,
		.guest_port = packet->source_port,
		.proxy_port = port,
	};
	struct cube_destination destination = {
		.address = packet->ip.daddr,
		.port = packet->destination_port,
	};

	return cube_diverted.update(&key, &destination);
}

/* Send the guest's packet to the proxy's `port` instead. */
static __always_inline int divert(struct __sk_buff *skb, const struct cube_config *config, const struct cube_tap *tap,
				  void *sessions, const struct packet *packet, __be16 port)
{
	struct cube_session_key key = {};
	struct cube_session *session = find_diverted(sessions, config, packet, port, &key);
	bool known = is_of(session, packet, port);

	if (!begins(packet) && !known)
		return drop(DROP_POLICY); /* a flow that was opened under another policy does not change its far end */
	if (begins(packet) && session && !known && !is_closed(session))
		return drop(DROP_PROXY_PORT_TAKEN);
	/* What a former flow from this port left there must not stand for this one. The guest tries again. */
	if (begins(packet) && tell_proxy(tap, packet, port))
		return drop(DROP_REWRITE_FAILED);
	record(sessions, &key, session, packet, OPENED_BY_GUEST, packet->ip.daddr, untold_port(packet, port));

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
		(config->proxy_tls_port && packet->source_port == config->proxy_tls_port) ||
		packet->source_port == PROXY_PORT);
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
	/* A policy that needs no proxy any more ends what went by it: of that the guest hears, and of nothing else. */
	if (!(tap->flags & TAP_PROXIED) && !packet->rst)
		return drop(DROP_POLICY);
	if (packet->source_port == PROXY_PORT)
		port = session->original_port;
	__be32 original = session->original;

	record_answer(session, packet);
	if (replace_address(skb, offsetof(struct iphdr, saddr), IPPROTO_TCP, packet->ip.saddr, original) ||
	    replace_port(skb, offsetof(struct tcphdr, source), packet->source_port, port) ||
	    replace_address(skb, offsetof(struct iphdr, daddr), IPPROTO_TCP, tap->address, GUEST_ADDRESS))
		return drop(DROP_REWRITE_FAILED);
	return TC_ACT_OK;
}
