/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Why a packet is dropped. The numbers are the index into `cube_drops` and are never reused;
 * `DropReason` in base.py is the same list, and a test holds the two together.
 */
#pragma once

enum drop_reason {
	DROP_UNCONFIGURED = 1,
	DROP_NOT_ADMITTED = 2,
	DROP_TRUNCATED = 3,
	DROP_NOT_IPV4 = 4,
	DROP_SPOOFED_MAC = 5,
	DROP_SPOOFED_ADDRESS = 6,
	DROP_FRAGMENT = 7,
	DROP_IP_OPTIONS = 8,
	DROP_TO_SANDBOX = 9,
	DROP_TO_HOST = 10,
	DROP_DENIED_NETWORK = 11,
	DROP_POLICY = 12,
	DROP_UNSUPPORTED_PROTOCOL = 13,
	DROP_NOT_FROM_HOST = 14,
	DROP_ARP_REFUSED = 15,
	DROP_REWRITE_FAILED = 16,
	DROP_NOT_TO_GATEWAY = 17,
	DROP_PROXY_PORT_TAKEN = 18,
};
