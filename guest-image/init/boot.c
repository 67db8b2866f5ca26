// SPDX-License-Identifier: Apache-2.0
/*
 * /init of the initramfs: from a bare kernel to the sandbox's root.
 *
 * Disks, in the order of the VMM's command line:
 *
 *	vda	squashfs, read-only	the agent's disk
 *	vdb	ext4, writable		the sandbox's own changes
 *	vdc..	squashfs, read-only	the image's layers, lowest first
 *	..	writable		slots for volumes, left to the agent
 *
 * The root is an overlay of vdb over the layers. Everything that a program
 * expects of a running system but that an image does not hold (/proc, /dev,
 * ...) is mounted into it, the agent's disk at /run/cube/agent, and its init
 * becomes process 1.
 *
 * Any failure powers the guest off, so that the VMM exits and a guest that
 * cannot boot is seen at once. The reason is the last line of the console.
 */
#include <dirent.h>
#include <endian.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>

#include "guest.h"

#define MODULE_LIST	"/modules/order"
#define FIRST_LAYER	2			/* vdc */
#define MAX_DISKS	26			/* vda to vdz */
#define DISK_WAIT_MS	5000
#define DISK_NAP_MS	5
#define VIRTIO_ID_BLOCK	"0x0002\n"

/* Of an ext4 superblock: where it is on its disk, and two of its fields, both little-endian and of 32 bits. */
#define EXT4_SUPERBLOCK		1024
#define EXT4_BLOCKS		0x04
#define EXT4_LOG_BLOCK_SIZE	0x18	/* over 1024 */
/* Not among the kernel's public headers. Takes the new number of blocks. */
#define EXT4_IOC_RESIZE_FS	_IOW('f', 16, uint64_t)

/* The next root while it is put together, and the disks that it is made of. */
#define ROOT		"/root"
#define UPPER		"/disks/upper"

__attribute__((noreturn, format(printf, 1, 2)))
static void die(const char *format, ...)
{
	char reason[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	say(2, "cannot boot: %s", reason);
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void must_mount(const char *source, const char *target, const char *type,
		       unsigned long flags, const char *options)
{
	make_directory(target, 0755);
	if (mount(source, target, type, flags, options) < 0)
		die("mount %s (%s) on %s: %s", source, type, target, strerror(errno));
}

static void load_module(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("module %s: %s", path, strerror(errno));
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
		die("module %s: %s", path, strerror(errno));
	close(fd);
	/* The initramfs is memory that every clone of this guest would carry. */
	unlink(path);
}

/* The list is in an order in which each module finds what it depends on. */
static void load_modules(void)
{
	char path[256];
	FILE *list;

	list = fopen(MODULE_LIST, "re");
	if (!list)
		die("%s: %s", MODULE_LIST, strerror(errno));
	while (fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = '\0';
		load_module(path);
	}
	fclose(list);
	unlink(MODULE_LIST);
	rmdir("/modules");
}

/* How many disks the VMM attached. The bus knows at once, before the block driver has made the device nodes. */
static int attached_disks(void)
{
	static const char bus[] = "/sys/bus/virtio/devices";
	char path[320], id[16];
	struct dirent *entry;
	int count = 0;
	DIR *devices;

	devices = opendir(bus);
	if (!devices)
		die("%s: %s", bus, strerror(errno));
	while ((entry = readdir(devices))) {
		ssize_t got;
		int fd;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/device", bus, entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		got = read(fd, id, sizeof(id) - 1);
		close(fd);
		id[got > 0 ? got : 0] = '\0';
		count += !strcmp(id, VIRTIO_ID_BLOCK);
	}
	closedir(devices);
	return count;
}

static void disk_node(char *path, size_t size, int index)
{
	snprintf(path, size, "/dev/vd%c", 'a' + index);
}

static void wait_for_disks(int count)
{
	const struct timespec nap = { .tv_nsec = DISK_NAP_MS * 1000000L };
	char node[16];

	disk_node(node, sizeof(node), count - 1);
	for (int waited = 0; access(node, F_OK) < 0; waited += DISK_NAP_MS) {
		if (waited >= DISK_WAIT_MS)
			die("%d disks are attached, but %s did not appear in %d ms", count, node, DISK_WAIT_MS);
		nanosleep(&nap, NULL);
	}
}

static int is_read_only(int index)
{
	char path[40], flag = '\0';
	int fd;

	snprintf(path, sizeof(path), "/sys/block/vd%c/ro", 'a' + index);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, &flag, 1) != 1)
		die("%s: %s", path, strerror(errno));
	close(fd);
	return flag == '1';
}

/* The disks that the root is made of: what can be written after its own is a slot. */
static int root_disks(int attached)
{
	int count = FIRST_LAYER;

	while (count < attached && is_read_only(count))
		count++;
	if (count == FIRST_LAYER)
		die("%d disks are attached: need the agent's, a writable one and at least one layer", attached);
	return count;
}

static uint32_t le32_at(const unsigned char *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return le32toh(value);
}

/*
 * A build upon a template gets a copy of that one's disk, which may be larger
 * than the file system in it: then the file system grows. Only a guest may do
 * that, as only guests have written it. Disks of clones are as they were.
 */
static void grow_to_disk(const char *disk, const char *mounted)
{
	unsigned char superblock[64];
	uint64_t bytes, blocks;
	int fd;

	fd = open(disk, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0 ||
	    pread(fd, superblock, sizeof(superblock), EXT4_SUPERBLOCK) != sizeof(superblock))
		die("%s: %s", disk, strerror(errno));
	close(fd);
	blocks = bytes / (1024ULL << (le32_at(superblock + EXT4_LOG_BLOCK_SIZE) & 0xf));
	if (blocks <= le32_at(superblock + EXT4_BLOCKS))
		return;
	fd = open(mounted, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) < 0)
		die("%s cannot grow to the %llu blocks of its disk: %s", disk, (unsigned long long)blocks,
		    strerror(errno));
	close(fd);
	say_info("%s has grown to %llu blocks", disk, (unsigned long long)blocks);
}

/* Join the layers and the writable disk into one tree at ROOT. */
static void mount_root(int disks)
{
	char node[16], layer[32], options[1024];
	int used;

	make_directory("/disks", 0755);
	used = snprintf(options, sizeof(options), "lowerdir=");
	/* overlayfs wants the topmost layer first. */
	for (int index = disks - 1; index >= FIRST_LAYER; index--) {
		disk_node(node, sizeof(node), index);
		snprintf(layer, sizeof(layer), "/disks/%d", index);
		must_mount(node, layer, "squashfs", MS_RDONLY | MS_NOATIME, NULL);
		used += snprintf(options + used, sizeof(options) - used, "%s%s",
				 index == disks - 1 ? "" : ":", layer);
	}
	/* discard: what is deleted in here takes no space on the host's disk, nor in a paused sandbox. */
	must_mount("/dev/vdb", UPPER, "ext4", MS_NOATIME, "discard");
	grow_to_disk("/dev/vdb", UPPER);
	make_directory(UPPER "/upper", 0755);
	make_directory(UPPER "/work", 0755);
	/* redirect_dir: without it a directory of the image cannot be renamed, which dpkg and npm do. */
	snprintf(options + used, sizeof(options) - used, ",upperdir=%s/upper,workdir=%s/work,redirect_dir=on",
		 UPPER, UPPER);
	must_mount("overlay", ROOT, "overlay", MS_NOATIME, options);
}

/*
 * Enter the new root before anything more is mounted: from here on a symbolic
 * link in the image, say /run -> /etc, is resolved inside the sandbox.
 */
static void enter_root(void)
{
	umount2("/sys", MNT_DETACH);
	umount2("/dev", MNT_DETACH);
	unlink("/init");
	if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		die("switch to the sandbox's root: %s", strerror(errno));
}

/* Device file names that are not devices, which devtmpfs leaves to user space. */
static void link_standard_files(void)
{
	static const struct { const char *name, *target; } links[] = {
		{ "/dev/fd", "/proc/self/fd" },
		{ "/dev/stdin", "/proc/self/fd/0" },
		{ "/dev/stdout", "/proc/self/fd/1" },
		{ "/dev/stderr", "/proc/self/fd/2" },
	};

	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlink(links[i].target, links[i].name) < 0 && errno != EEXIST)
			say_error("symlink %s: %s", links[i].name, strerror(errno));
}

static void mount_pseudo_filesystems(void)
{
	must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	must_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	/* gid 5 is `tty` in Debian, Alpine and Red Hat alike. */
	must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666");
	must_mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	must_mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	link_standard_files();
	/* Programs of Debian take locks here; programs everywhere need a /tmp. */
	make_directory("/run/lock", 01777);
	make_directory("/tmp", 01777);
}

static void mount_agent(void)
{
	make_directory("/run/cube", 0755);
	must_mount("/dev/vda", AGENT_ROOT, "squashfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME, NULL);
}

int main(void)
{
	char *const arguments[] = { "init", NULL };
	char *const environment[] = { NULL };
	int disks;

	umask(0);
	must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	load_modules();
	disks = attached_disks();
	if (disks > MAX_DISKS)
		die("%d disks are attached, and no more than %d can be", disks, MAX_DISKS);
	wait_for_disks(disks);
	mount_root(root_disks(disks));
	enter_root();
	mount_pseudo_filesystems();
	mount_agent();
	umask(022);
	execve(AGENT_INIT, arguments, environment);
	die("exec %s: %s", AGENT_INIT, strerror(errno));
}
