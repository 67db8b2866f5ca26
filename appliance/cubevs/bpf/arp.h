/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The only neighbour of a guest is its gateway, and the gateway answers for nothing but itself. */
#pragma once

struct arp_frame {
	struct ethhdr eth;
	__be16 hardware_type, protocol_type;
	u8 hardware_length, protocol_length;
	__be16 operation;
	u8 sender_mac[6];
	__be32 sender_address;
	u8 target_mac[6];
	__be32 target_address;
} __attribute__((packed));

static __always_inline bool is_ipv4_arp(const struct arp_frame *arp, u16 operation)
{
	return arp->hardware_type == bpf_htons(1) && arp->protocol_type == bpf_htons(ETH_P_IP) &&
	       arp->hardware_length == 6 && arp->protocol_length == 4 && arp->operation == bpf_htons(operation);
}

/* Turn the guest's question for its gateway into the answer and send it back out of the same tap. */
static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct arp_frame arp;

	if (bpf_skb_load_bytes(skb, 0, &arp, sizeof(arp)))
		return drop(DROP_TRUNCATED);
	/* A sender address of zero is a probe. */
	if (!is_ipv4_arp(&arp, 1) || arp.target_address != GATEWAY_ADDRESS || !is_mac(arp.sender_mac, GUEST_MAC) ||
	    (arp.sender_address && arp.sender_address != GUEST_ADDRESS))
		return drop(DROP_ARP_REFUSED);

	arp.operation = bpf_htons(2);
	put_mac(arp.eth.h_dest, GUEST_MAC);
	put_mac(arp.eth.h_source, GATEWAY_MAC);
	put_mac(arp.target_mac, GUEST_MAC);
	arp.target_address = arp.sender_address;
	put_mac(arp.sender_mac, GATEWAY_MAC);
	arp.sender_address = GATEWAY_ADDRESS;
	if (bpf_skb_store_bytes(skb, 0, &arp, sizeof(arp), 0))
		return drop(DROP_REWRITE_FAILED);
	return bpf_redirect(skb->ifindex, 0);
}

/* Pass the answers made above, which leave through the program that guards the way to the guest. */
static __always_inline int pass_own_arp(struct __sk_buff *skb)
{
	struct arp_frame arp;

	if (bpf_skb_load_bytes(skb, 0, &arp, sizeof(arp)))
		return drop(DROP_TRUNCATED);
	if (skb->ingress_ifindex != skb->ifindex || !is_ipv4_arp(&arp, 2) || arp.sender_address != GATEWAY_ADDRESS)
		return drop(DROP_ARP_REFUSED);
	return TC_ACT_OK;
}
