/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Sessions: who opened a flow. Each tap has a least-recently-used map of its own, so a guest that opens flows without
 * end evicts only its own, and all sessions of a tap end at once when user space swaps that map.
 */
#pragma once

#define NS_PER_S 1000000000ull

static __always_inline bool is_closed(const struct cube_session *session)
{
	const u8 both = CLOSED_BY_GUEST | CLOSED_BY_PEER;

	return (session->closed & RESET) || (session->closed & both) == both;
}

static __always_inline bool is_expired(const struct cube_config *config, u8 protocol, const struct cube_session *session)
{
	u64 limit_s = config->datagram_idle_s;

	if (protocol == IPPROTO_TCP)
		limit_s = is_closed(session) ? config->tcp_closed_s : config->tcp_idle_s;
	return bpf_ktime_get_coarse_ns() - session->seen_ns > limit_s * NS_PER_S;
}

/* Return the live session of `key`, or NULL. */
static __always_inline struct cube_session *find_session(void *sessions, const struct cube_config *config,
							 struct cube_session_key *key)
{
	struct cube_session *session = bpf_map_lookup_elem(sessions, key);

	if (!session || is_expired(config, key->protocol, session))
		return NULL;
	return session;
}

/*
 * Note a packet of the side that opened the session; the first one, or a new TCP handshake, makes the session.
 * `original` and its port are as in `struct cube_session`.
 */
static __always_inline void record(void *sessions, struct cube_session_key *key, struct cube_session *session,
				   const struct packet *packet, u8 opener, __be32 original, __be16 original_port)
{
	u8 closed = packet->rst ? RESET : 0;

	if (packet->fin)
		closed |= opener == OPENED_BY_GUEST ? CLOSED_BY_GUEST : CLOSED_BY_PEER;
	if (session && session->opener == opener && !begins(packet)) {
		session->seen_ns = bpf_ktime_get_coarse_ns();
		session->closed |= closed;
		return;
	}
	struct cube_session fresh = {
		.seen_ns = bpf_ktime_get_coarse_ns(),
		.opener = opener,
		.closed = closed,
		.original_port = original_port,
		.original = original,
	};
	bpf_map_update_elem(sessions, key, &fresh, BPF_ANY);
}

/*
 * Note a packet of the side that did not open the session. It prolongs only what the guest opened: a guest must not be
 * able to keep a port of the node open to itself after the node has gone silent.
 */
static __always_inline void record_answer(struct cube_session *session, const struct packet *packet)
{
	bool from_guest = session->opener == OPENED_BY_NODE;

	if (!from_guest)
		session->seen_ns = bpf_ktime_get_coarse_ns();
	if (packet->rst)
		session->closed |= RESET;
	if (packet->fin)
		session->closed |= from_guest ? CLOSED_BY_GUEST : CLOSED_BY_PEER;
}
