/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What boot.c and init.c agree on: the two halves of a guest's start.
 *
 * boot.c runs from the initramfs, init.c from the agent's disk. Neither uses
 * anything of the sandbox's image: it may hold no shell, no libc, no /etc.
 */
#ifndef CUBE_GUEST_H
#define CUBE_GUEST_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define AGENT_ROOT	"/run/cube/agent"
#define AGENT_INIT	AGENT_ROOT "/sbin/init"

/*
 * Say one line on the kernel's log. With `quiet` on the command line the
 * console shows errors (level 3 and below) alone; `dmesg` shows all.
 */
__attribute__((format(printf, 2, 3)))
static inline void say(int level, const char *format, ...)
{
	char line[512];
	va_list arguments;
	int fd, used;

	fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	used = snprintf(line, sizeof(line), "<%d>cube: ", level);
	va_start(arguments, format);
	/* The kernel holds a line without its end back until the next one. */
	used += vsnprintf(line + used, sizeof(line) - used - 1, format, arguments);
	va_end(arguments);
	if (used > (int)sizeof(line) - 2)
		used = sizeof(line) - 2;
	line[used++] = '\n';
	if (write(fd, line, used) < 0) {
		/* No other place to complain to. */
	}
	close(fd);
}

#define say_error(...)	say(3, __VA_ARGS__)
#define say_info(...)	say(6, __VA_ARGS__)

/* Make a directory that may be there already; the mount or open that follows tells if it is not. */
static inline void make_directory(const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		say_error("mkdir %s: %s", path, strerror(errno));
}

/* Replace the content of a file below /proc, /sys or /etc; -1 and errno on failure. */
static inline int write_file(const char *path, const char *content, int flags)
{
	ssize_t length = (ssize_t)strlen(content), written;
	int fd;

	fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
	if (fd < 0)
		return -1;
	written = write(fd, content, length);
	close(fd);
	return written == length ? 0 : -1;
}

#endif
