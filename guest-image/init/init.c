// SPDX-License-Identifier: Apache-2.0
/*
 * Process 1 of a sandbox: give the guest its address, keep the agent alive,
 * reap what nobody else does, and power off when told to.
 *
 * Every clone of a template has the same address and MAC (the switch on the
 * host tells them apart), so all of the network is constant and nothing is
 * asked of it: no DHCP, no ARP, no router discovery.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "guest.h"

#define UPLINK		"eth0"
#define ADDRESS		"169.254.0.21"
#define NETMASK		"255.255.255.252"
#define GATEWAY		"169.254.0.22"

/* The host has no interface with this MAC: the switch answers for it. */
static const unsigned char gateway_mac[6] = { 0x02, 0xfc, 0x00, 0x00, 0x00, 0x06 };

#define AGENT_LOADER	AGENT_ROOT "/lib/ld-linux-x86-64.so.2"
#define AGENT_LIBRARIES	AGENT_ROOT "/lib"
#define AGENT_PYTHON	AGENT_ROOT "/bin/python3.11"

/*
 * When memory runs out the agent is the last to go: without it nobody could
 * see what happened. It gives the programs it starts a higher score.
 */
#define AGENT_OOM_SCORE	"-999"

/*
 * And when processors run out it comes first. The kernel shares them between
 * sessions by this value; every program gets a session, and so 0, of its own.
 */
#define AGENT_NICE	"-10"

/*
 * An agent that says nothing for as many of our looks is stuck. Looks are
 * counted rather than time, which jumps when the machine was paused. The
 * first word takes longer: the interpreter has to start.
 */
#define LOOK_MS		10000
#define SILENT_LOOKS	3
#define SILENT_STARTS	12

/* An agent that dies is started again at once; one that keeps dying, once in this time. */
#define RESTART_MS	1000

/*
 * The kernel starts process 1 with 1024:4096 open files, too few for browsers
 * and language servers; everything in the sandbox inherits these instead.
 */
#define OPEN_FILES	65536
#define MAX_OPEN_FILES	1048576

/* What programs get to end by themselves at power-off. */
#define GRACE_MS	2000

static struct sockaddr address_of(const char *text)
{
	struct sockaddr_in internet = { .sin_family = AF_INET };
	struct sockaddr generic;

	inet_pton(AF_INET, text, &internet.sin_addr);
	memcpy(&generic, &internet, sizeof(generic));
	return generic;
}

static bool configure(int fd, unsigned long request, void *argument, const char *what)
{
	if (ioctl(fd, request, argument) == 0)
		return true;
	say_error("%s: %s", what, strerror(errno));
	return false;
}

static bool bring_up(int fd, const char *name)
{
	struct ifreq interface = { 0 };

	strncpy(interface.ifr_name, name, IFNAMSIZ - 1);
	if (!configure(fd, SIOCGIFFLAGS, &interface, name))
		return false;
	interface.ifr_flags |= IFF_UP;
	return configure(fd, SIOCSIFFLAGS, &interface, name);
}

static void configure_uplink(int fd)
{
	struct ifreq interface = { 0 };
	struct arpreq neighbour = { .arp_flags = ATF_PERM | ATF_COM };
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = UPLINK };

	strncpy(interface.ifr_name, UPLINK, IFNAMSIZ - 1);
	interface.ifr_addr = address_of(ADDRESS);
	configure(fd, SIOCSIFADDR, &interface, "address of " UPLINK);
	interface.ifr_netmask = address_of(NETMASK);
	configure(fd, SIOCSIFNETMASK, &interface, "netmask of " UPLINK);
	if (!bring_up(fd, UPLINK))
		return;

	neighbour.arp_pa = address_of(GATEWAY);
	neighbour.arp_ha.sa_family = ARPHRD_ETHER;
	memcpy(neighbour.arp_ha.sa_data, gateway_mac, sizeof(gateway_mac));
	strncpy(neighbour.arp_dev, UPLINK, sizeof(neighbour.arp_dev) - 1);
	configure(fd, SIOCSARP, &neighbour, "neighbour " GATEWAY);

	route.rt_dst = address_of("0.0.0.0");
	route.rt_genmask = address_of("0.0.0.0");
	route.rt_gateway = address_of(GATEWAY);
	configure(fd, SIOCADDRT, &route, "default route");
}

static void set_kernel_parameters(void)
{
	static const struct { const char *path, *value; } parameters[] = {
		/* The switch drops IPv6: asking for a router would only wake the guest. ::1 stays. */
		{ "/proc/sys/net/ipv6/conf/" UPLINK "/disable_ipv6", "1" },
		/* Let every user `ping`: builders of images often lose the file capability that it needs. */
		{ "/proc/sys/net/ipv4/ping_group_range", "0 2147483647" },
	};

	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++)
		if (write_file(parameters[i].path, parameters[i].value, 0) < 0)
			say_info("%s: %s", parameters[i].path, strerror(errno));
}

static void raise_limits(void)
{
	const struct rlimit open_files = { .rlim_cur = OPEN_FILES, .rlim_max = MAX_OPEN_FILES };

	if (setrlimit(RLIMIT_NOFILE, &open_files) < 0)
		say_error("limit of open files: %s", strerror(errno));
}

static void configure_network(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		say_error("socket: %s", strerror(errno));
		return;
	}
	/* The kernel gives lo 127.0.0.1/8 by itself when it comes up. */
	bring_up(fd, "lo");
	set_kernel_parameters();
	if (if_nametoindex(UPLINK))
		configure_uplink(fd);
	else
		say_info("no network device");
	close(fd);
}

/*
 * Images carry the resolver of whoever built them, or none. Best effort: an
 * image may have made the file a link to a place that does not exist.
 */
static void write_resolver(void)
{
	make_directory("/etc", 0755);
	unlink("/etc/resolv.conf");
	if (write_file("/etc/resolv.conf", "nameserver " GATEWAY "\n", O_CREAT | O_TRUNC) < 0)
		say_info("/etc/resolv.conf: %s", strerror(errno));
	if (access("/etc/hosts", F_OK) < 0 &&
	    write_file("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n", O_CREAT) < 0)
		say_info("/etc/hosts: %s", strerror(errno));
}

/*
 * The agent's interpreter is started by its own loader with its own libraries,
 * so the image's are never looked at. -I keeps the image's PYTHON* variables
 * and working directory out, -B keeps Python from trying to write bytecode to
 * a read-only disk, and utf8 makes it independent of locale data.
 */
static void exec_agent(int heartbeat)
{
	char descriptor[12];
	char *const arguments[] = {
		AGENT_LOADER, "--library-path", AGENT_LIBRARIES,
		AGENT_PYTHON, "-I", "-B", "-X", "utf8", "-m", "guest_agent",
		"--heartbeat-fd", descriptor, NULL,
	};
	char *const environment[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		NULL,
	};

	snprintf(descriptor, sizeof(descriptor), "%d", heartbeat);
	fcntl(heartbeat, F_SETFD, 0);
	execve(AGENT_LOADER, arguments, environment);
	say_error("exec %s: %s", AGENT_LOADER, strerror(errno));
	_exit(127);
}

static pid_t start_agent(int heartbeat)
{
	sigset_t none;
	pid_t pid = fork();

	if (pid < 0)
		say_error("fork: %s", strerror(errno));
	if (pid != 0)
		return pid;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (write_file("/proc/self/oom_score_adj", AGENT_OOM_SCORE, 0) < 0)
		say_error("oom_score_adj: %s", strerror(errno));
	if (write_file("/proc/self/autogroup", AGENT_NICE, 0) < 0)
		say_info("autogroup: %s", strerror(errno));
	exec_agent(heartbeat);
	_exit(127);
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static struct timespec until(long long deadline_ms)
{
	long long left = deadline_ms - now_ms();

	if (left < 0)
		left = 0;
	return (struct timespec){ .tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000 };
}

/*
 * Reap every child that has ended. Returns the agent's wait status through
 * `status` if it was among them. A stopped agent is sent on its way again.
 */
static bool reap(pid_t agent, int *status)
{
	bool agent_ended = false;
	int ended;
	pid_t pid;

	while ((pid = waitpid(-1, &ended, WNOHANG | WUNTRACED)) > 0) {
		if (pid != agent)
			continue;
		if (WIFSTOPPED(ended)) {
			say_error("the guest agent was stopped (signal %d): it goes on", WSTOPSIG(ended));
			kill(agent, SIGCONT);
			continue;
		}
		agent_ended = true;
		*status = ended;
	}
	return agent_ended;
}

/* Returns whether the agent has said anything since the last call. */
static bool heard(int heartbeat)
{
	uint64_t beats;

	return read(heartbeat, &beats, sizeof(beats)) == sizeof(beats);
}

/* Count looks at a silent agent, and end it when there were too many: its end is then handled like any other. */
static void look_after(pid_t agent, int heartbeat, int *silent, int *limit)
{
	if (heard(heartbeat)) {
		*silent = 0;
		*limit = SILENT_LOOKS;
		return;
	}
	if (++*silent < *limit)
		return;
	say_error("the guest agent does not move: killing it");
	*silent = 0;
	kill(agent, SIGKILL);
}

/* Signal everything but ourselves; returns when all have ended or the time is over. */
static void end_all(int signal_number, const sigset_t *signals, long grace_ms)
{
	long long deadline = now_ms() + grace_ms;

	kill(-1, signal_number);
	while (now_ms() < deadline) {
		struct timespec left = until(deadline);

		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return;
		sigtimedwait(signals, NULL, &left);
	}
}

__attribute__((noreturn))
static void power_off(const sigset_t *signals)
{
	say_info("powering off");
	end_all(SIGTERM, signals, GRACE_MS);
	end_all(SIGKILL, signals, GRACE_MS);
	sync();
	reboot(RB_POWER_OFF);
	/* Only a kernel without ACPI comes here: the VMM sees the reset instead. */
	reboot(RB_AUTOBOOT);
	_exit(1);
}

/*
 * The signals that a kernel (SIGINT: Ctrl-Alt-Del, SIGPWR) or a `poweroff`
 * command (busybox: SIGUSR1, SIGUSR2, SIGTERM; systemd: SIGRTMIN+4) sends to
 * process 1. A sandbox has no use for a reboot: all of them power it off.
 */
static void block_signals(sigset_t *signals)
{
	const int wanted[] = { SIGCHLD, SIGTERM, SIGINT, SIGPWR, SIGUSR1, SIGUSR2, SIGRTMIN + 4 };

	sigemptyset(signals);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		sigaddset(signals, wanted[i]);
	sigprocmask(SIG_BLOCK, signals, NULL);
	reboot(RB_DISABLE_CAD);
}

int main(void)
{
	long long started_at = 0, start_at = 0, look_at = 0;
	int heartbeat, silent = 0, limit = SILENT_STARTS;
	pid_t agent = -1;
	sigset_t signals;

	prctl(PR_SET_NAME, "cube-init");
	block_signals(&signals);
	raise_limits();
	configure_network();
	write_resolver();
	heartbeat = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	for (;;) {
		struct timespec left;
		int received, status;

		if (agent < 0 && now_ms() >= start_at) {
			started_at = now_ms();
			agent = start_agent(heartbeat);
			start_at = started_at + RESTART_MS;
			look_at = started_at + LOOK_MS;
			heard(heartbeat);
			silent = 0;
			limit = SILENT_STARTS;
		}
		left = until(agent < 0 ? start_at : look_at);
		received = sigtimedwait(&signals, NULL, &left);
		if (agent > 0 && now_ms() >= look_at) {
			look_after(agent, heartbeat, &silent, &limit);
			look_at = now_ms() + LOOK_MS;
		}
		if (received > 0 && received != SIGCHLD)
			power_off(&signals);
		if (!reap(agent, &status))
			continue;
		say_error("the guest agent ended (%s %d) after %lld ms",
			  WIFSIGNALED(status) ? "signal" : "status",
			  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
			  now_ms() - started_at);
		agent = -1;
	}
}
