/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Reading and rewriting a frame. Headers are copied to the stack by `bpf_skb_load_bytes`, which also serves frames
 * whose headers are not linear, as tap frames with a virtio-net header may be.
 *
 * There are no IP options past `load_packet`, so every offset is a constant.
 */
#pragma once

#define ETH_OFFSET 0
#define IP_OFFSET sizeof(struct ethhdr)
#define L4_OFFSET (IP_OFFSET + sizeof(struct iphdr))
#define INNER_IP_OFFSET (L4_OFFSET + sizeof(struct icmphdr))
#define INNER_L4_OFFSET (INNER_IP_OFFSET + sizeof(struct iphdr))

struct packet {
	struct iphdr ip;
	__be16 source_port;     /* ICMP echo: the identifier, in both */
	__be16 destination_port;
	u8 icmp_type;
	bool syn, ack, fin, rst;
};

/* A MAC is given as three 16-bit words in memory order, which is what GUEST_MAC and GATEWAY_MAC expand to. */
static __always_inline bool is_mac(const u8 *address, u16 first, u16 second, u16 third)
{
	const u16 *words = (const u16 *)address;

	return words[0] == first && words[1] == second && words[2] == third;
}

static __always_inline void put_mac(u8 *address, u16 first, u16 second, u16 third)
{
	u16 *words = (u16 *)address;

	words[0] = first;
	words[1] = second;
	words[2] = third;
}

static __always_inline bool is_icmp_error(const struct packet *packet)
{
	return packet->ip.protocol == IPPROTO_ICMP &&
	       (packet->icmp_type == ICMP_DEST_UNREACH || packet->icmp_type == ICMP_TIME_EXCEEDED ||
		packet->icmp_type == ICMP_PARAMETERPROB);
}

/* Is this the first packet of a TCP connection? */
static __always_inline bool begins(const struct packet *packet)
{
	return packet->syn && !packet->ack;
}

static __always_inline int load_icmp(struct __sk_buff *skb, u32 offset, struct packet *packet)
{
	struct icmphdr icmp;

	if (bpf_skb_load_bytes(skb, offset, &icmp, sizeof(icmp)))
		return DROP_TRUNCATED;
	packet->icmp_type = icmp.type;
	packet->source_port = packet->destination_port = icmp.un.echo.id;
	return 0;
}

static __always_inline int load_ports(struct __sk_buff *skb, u32 offset, struct packet *packet)
{
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return DROP_TRUNCATED;
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	return 0;
}

/* Fill `packet` from an Ethernet frame, or say why nobody may send it. */
static __always_inline int load_packet(struct __sk_buff *skb, struct packet *packet)
{
	struct tcphdr tcp;

	/* The kernel has already moved an outer VLAN tag out of the frame. */
	if (skb->vlan_present || skb->protocol != bpf_htons(ETH_P_IP))
		return DROP_NOT_IPV4;
	if (bpf_skb_load_bytes(skb, IP_OFFSET, &packet->ip, sizeof(packet->ip)))
		return DROP_TRUNCATED;
	if (packet->ip.version != 4)
		return DROP_NOT_IPV4;
	if (packet->ip.ihl != 5)
		return DROP_IP_OPTIONS;
	if (packet->ip.frag_off & bpf_htons(0x3fff)) /* more fragments, or an offset */
		return DROP_FRAGMENT;
	if (bpf_ntohs(packet->ip.tot_len) + IP_OFFSET > skb->len)
		return DROP_TRUNCATED;

	switch (packet->ip.protocol) {
	case IPPROTO_TCP:
		if (bpf_ntohs(packet->ip.tot_len) < sizeof(struct iphdr) + sizeof(tcp) ||
		    bpf_skb_load_bytes(skb, L4_OFFSET, &tcp, sizeof(tcp)))
			return DROP_TRUNCATED;
		packet->source_port = tcp.source;
		packet->destination_port = tcp.dest;
		packet->syn = tcp.syn;
		packet->ack = tcp.ack;
		packet->fin = tcp.fin;
		packet->rst = tcp.rst;
		return 0;
	case IPPROTO_UDP:
		if (bpf_ntohs(packet->ip.tot_len) < sizeof(struct iphdr) + sizeof(struct udphdr))
			return DROP_TRUNCATED;
		return load_ports(skb, L4_OFFSET, packet);
	case IPPROTO_ICMP:
		if (bpf_ntohs(packet->ip.tot_len) < sizeof(struct iphdr) + sizeof(struct icmphdr))
			return DROP_TRUNCATED;
		return load_icmp(skb, L4_OFFSET, packet);
	default:
		return DROP_UNSUPPORTED_PROTOCOL;
	}
}

/* Fill `inner` with the headers that an ICMP error quotes. */
static __always_inline int load_quoted(struct __sk_buff *skb, struct packet *inner)
{
	if (bpf_skb_load_bytes(skb, INNER_IP_OFFSET, &inner->ip, sizeof(inner->ip)))
		return DROP_TRUNCATED;
	if (inner->ip.version != 4 || inner->ip.ihl != 5)
		return DROP_IP_OPTIONS;
	switch (inner->ip.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return load_ports(skb, INNER_L4_OFFSET, inner);
	case IPPROTO_ICMP:
		return load_icmp(skb, INNER_L4_OFFSET, inner);
	default:
		return DROP_UNSUPPORTED_PROTOCOL;
	}
}

/*
 * Replace the address at `field` of the IP header at IP_OFFSET and keep every checksum right.
 *
 * BPF_F_PSEUDO_HDR makes the kernel do the right thing for all that a tap may carry: a finished sum is adjusted, and
 * for CHECKSUM_PARTIAL (checksum or segmentation left to the device) so is the pseudo-header sum in its place. A zero
 * UDP checksum means "none" and stays zero; one that would become zero is written as 0xffff.
 */
static __always_inline int replace_address(struct __sk_buff *skb, u32 field, u8 protocol, __be32 from, __be32 to)
{
	int failed = 0;

	if (protocol == IPPROTO_TCP)
		failed = bpf_l4_csum_replace(skb, L4_OFFSET + offsetof(struct tcphdr, check), from, to,
					     BPF_F_PSEUDO_HDR | sizeof(to));
	else if (protocol == IPPROTO_UDP)
		failed = bpf_l4_csum_replace(skb, L4_OFFSET + offsetof(struct udphdr, check), from, to,
					     BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | sizeof(to));
	if (failed || bpf_l3_csum_replace(skb, IP_OFFSET + offsetof(struct iphdr, check), from, to, sizeof(to)) ||
	    bpf_skb_store_bytes(skb, IP_OFFSET + field, &to, sizeof(to), 0))
		return DROP_REWRITE_FAILED;
	return 0;
}

/* Replace the TCP port at `field`. Where the checksum is left to the device, ports are no part of what is there yet. */
static __always_inline int replace_port(struct __sk_buff *skb, u32 field, __be16 from, __be16 to)
{
	if (bpf_l4_csum_replace(skb, L4_OFFSET + offsetof(struct tcphdr, check), from, to, sizeof(to)) ||
	    bpf_skb_store_bytes(skb, L4_OFFSET + field, &to, sizeof(to), 0))
		return DROP_REWRITE_FAILED;
	return 0;
}

/*
 * Replace an address in the header that an ICMP error quotes. The ICMP checksum covers both the address and the quoted
 * header checksum, whose changes cancel out, so it stays right as it is. Nobody checks a quoted TCP or UDP checksum.
 */
static __always_inline int replace_quoted(struct __sk_buff *skb, u32 field, __be32 from, __be32 to)
{
	if (bpf_l3_csum_replace(skb, INNER_IP_OFFSET + offsetof(struct iphdr, check), from, to, sizeof(to)) ||
	    bpf_skb_store_bytes(skb, INNER_IP_OFFSET + field, &to, sizeof(to), 0))
		return DROP_REWRITE_FAILED;
	return 0;
}
