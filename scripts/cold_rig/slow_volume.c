/* A directory as a network volume would show it: read-only, with a latency for each request, a rate for each request's
 * bytes, and a rate in all.
 *
 *     slow_volume SOURCE MOUNT LATENCY_MS STREAM_MB TOTAL_MB BACKGROUND
 *
 * Prints "ready" when the mount can be used, and ends when it is unmounted (fusermount3 -u MOUNT). BACKGROUND is how many
 * requests the kernel has under way for one who reads ahead; 12 where a mount says nothing. It speaks the kernel's own
 * protocol (linux/fuse.h), so that it needs no library; `fusermount3` mounts it, so that it needs no root.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_READ (1 << 20)
#define MOST_WRITE 4096
#define VALID_SECONDS 3600

static int device;
static double latency, stream_rate, total_rate; /* seconds, bytes a second */
static int background;

/* -- time ---------------------------------------------------------------------------------------------------------- */

static pthread_mutex_t pace_lock = PTHREAD_MUTEX_INITIALIZER;
static double line_free; /* when the line that all requests share has carried what was asked so far */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void sleep_until(double moment) {
    struct timespec t = {(time_t)moment, (long)((moment - (time_t)moment) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

/* Take as long as a request for so many bytes takes that came at `begun`. */
static void pace(double begun, size_t bytes) {
    pthread_mutex_lock(&pace_lock);
    line_free = (line_free > begun ? line_free : begun) + bytes / total_rate;
    double carried = line_free;
    pthread_mutex_unlock(&pace_lock);
    double alone = begun + bytes / stream_rate;
    sleep_until(latency + (alone > carried ? alone : carried));
}

/* -- nodes: a number for each path that was looked up; they live as long as the mount ------------------------------- */

static pthread_mutex_t nodes_lock = PTHREAD_MUTEX_INITIALIZER;
static char **paths;
static size_t count = FUSE_ROOT_ID, room; /* number 0 is nobody's */

static const char *path_of(uint64_t node) {
    pthread_mutex_lock(&nodes_lock);
    const char *path = node >= FUSE_ROOT_ID && node < count ? paths[node] : NULL;
    pthread_mutex_unlock(&nodes_lock);
    return path;
}

static uint64_t node_of(const char *path) {
    pthread_mutex_lock(&nodes_lock);
    uint64_t node = FUSE_ROOT_ID;
    while (node < count && strcmp(paths[node], path) != 0)
        node++;
    if (node == count) {
        if (count >= room) {
            room = room ? 2 * room : 64;
            paths = realloc(paths, room * sizeof *paths);
        }
        paths[count++] = strdup(path);
    }
    pthread_mutex_unlock(&nodes_lock);
    return node;
}

static void fill_attr(struct fuse_attr *attr, uint64_t node, const struct stat *st) {
    *attr = (struct fuse_attr){.ino = node, .size = st->st_size, .blocks = st->st_blocks, .mode = st->st_mode & ~0222u,
                               .nlink = st->st_nlink, .uid = st->st_uid, .gid = st->st_gid, .blksize = MOST_READ,
                               .mtime = st->st_mtime, .ctime = st->st_ctime, .atime = st->st_atime};
}

/* -- answers ------------------------------------------------------------------------------------------------------- */

static void reply(uint64_t unique, int error, const void *data, size_t size) {
    struct fuse_out_header head = {.len = (uint32_t)(sizeof head + size), .error = -error, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, size}};
    (void)!writev(device, parts, error || !size ? 1 : 2); /* ENOENT: nobody waits for it any more */
}

static void answer_init(uint64_t unique, const struct fuse_init_in *in) {
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
                                .max_readahead = in->max_readahead, .max_background = (uint16_t)background,
                                .congestion_threshold = (uint16_t)(background * 3 / 4), .max_write = MOST_WRITE,
                                .time_gran = 1, .max_pages = MOST_READ / 4096};
    out.flags = in->flags & (FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS);
    reply(unique, 0, &out, sizeof out);
}

static void answer_lookup(uint64_t unique, uint64_t parent, const char *name) {
    char path[4096];
    const char *above = path_of(parent);
    struct stat st;
    if (!above || snprintf(path, sizeof path, "%s/%s", above, name) >= (int)sizeof path || lstat(path, &st))
        return reply(unique, ENOENT, NULL, 0);
    struct fuse_entry_out out = {.nodeid = node_of(path), .entry_valid = VALID_SECONDS, .attr_valid = VALID_SECONDS};
    fill_attr(&out.attr, out.nodeid, &st);
    reply(unique, 0, &out, sizeof out);
}

static void answer_getattr(uint64_t unique, uint64_t node) {
    struct stat st;
    const char *path = path_of(node);
    if (!path || lstat(path, &st))
        return reply(unique, ENOENT, NULL, 0);
    struct fuse_attr_out out = {.attr_valid = VALID_SECONDS};
    fill_attr(&out.attr, node, &st);
    reply(unique, 0, &out, sizeof out);
}

static void answer_open(uint64_t unique, uint64_t node, int flags) {
    const char *path = path_of(node);
    int file = path ? open(path, (flags & O_DIRECTORY) | O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return reply(unique, path ? errno : ENOENT, NULL, 0);
    struct fuse_open_out out = {.fh = (uint64_t)file};
    reply(unique, 0, &out, sizeof out);
}

static void answer_readdir(uint64_t unique, uint64_t node, const struct fuse_read_in *in) {
    char buffer[65536];
    size_t used = 0, most = in->size < sizeof buffer ? in->size : sizeof buffer;
    const char *path = path_of(node);
    DIR *directory = path ? opendir(path) : NULL;
    if (!directory)
        return reply(unique, path ? errno : ENOENT, NULL, 0);
    struct dirent *each;
    for (uint64_t place = 1; (each = readdir(directory)); place++) {
        size_t length = strlen(each->d_name), size = (offsetof(struct fuse_dirent, name) + length + 7) / 8 * 8;
        if (place <= in->offset)
            continue;
        if (used + size > most)
            break;
        struct fuse_dirent *entry = (struct fuse_dirent *)(buffer + used);
        memset(entry, 0, size);
        *entry = (struct fuse_dirent){.ino = each->d_ino, .off = place, .namelen = (uint32_t)length, .type = each->d_type};
        memcpy(entry->name, each->d_name, length);
        used += size;
    }
    closedir(directory);
    reply(unique, 0, buffer, used);
}

static void answer_readlink(uint64_t unique, uint64_t node) {
    char target[4096];
    const char *path = path_of(node);
    ssize_t length = path ? readlink(path, target, sizeof target) : -1;
    reply(unique, length < 0 ? EINVAL : 0, target, length < 0 ? 0 : (size_t)length);
}

static void answer_statfs(uint64_t unique) {
    struct statvfs st;
    struct fuse_statfs_out out = {0};
    if (!statvfs(paths[FUSE_ROOT_ID], &st))
        out.st = (struct fuse_kstatfs){.blocks = st.f_blocks, .bfree = st.f_bfree, .bavail = st.f_bavail, .files = st.f_files,
                                       .ffree = st.f_ffree, .bsize = (uint32_t)st.f_bsize, .frsize = (uint32_t)st.f_frsize,
                                       .namelen = 255};
    reply(unique, 0, &out, sizeof out);
}

static void *answer_all(void *unused) {
    (void)unused;
    size_t room_in = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) + (64 << 10);
    char *in = malloc(room_in), *out = malloc(MOST_READ);
    for (;;) {
        ssize_t size = read(device, in, room_in);
        if (size < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
            continue;
        if (size < (ssize_t)sizeof(struct fuse_in_header))
            return NULL; /* ENODEV: it is unmounted */
        double begun = now();
        struct fuse_in_header *head = (struct fuse_in_header *)in;
        void *body = head + 1;
        switch (head->opcode) {
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT: /* these are not answered */
            break;
        case FUSE_INIT:
            answer_init(head->unique, body);
            break;
        case FUSE_LOOKUP:
            pace(begun, 0);
            answer_lookup(head->unique, head->nodeid, body);
            break;
        case FUSE_GETATTR:
            pace(begun, 0);
            answer_getattr(head->unique, head->nodeid);
            break;
        case FUSE_OPEN:
            pace(begun, 0);
            answer_open(head->unique, head->nodeid, 0);
            break;
        case FUSE_OPENDIR:
            answer_open(head->unique, head->nodeid, O_DIRECTORY);
            break;
        case FUSE_READ: {
            struct fuse_read_in *wanted = body;
            size_t most = wanted->size < MOST_READ ? wanted->size : MOST_READ;
            ssize_t got = pread((int)wanted->fh, out, most, (off_t)wanted->offset);
            int failure = got < 0 ? errno : 0;
            pace(begun, got < 0 ? 0 : (size_t)got);
            reply(head->unique, failure, out, got < 0 ? 0 : (size_t)got);
            break;
        }
        case FUSE_READDIR:
            pace(begun, 0);
            answer_readdir(head->unique, head->nodeid, body);
            break;
        case FUSE_READLINK:
            answer_readlink(head->unique, head->nodeid);
            break;
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
            close((int)((struct fuse_release_in *)body)->fh);
            reply(head->unique, 0, NULL, 0);
            break;
        case FUSE_STATFS:
            answer_statfs(head->unique);
            break;
        case FUSE_DESTROY:
            reply(head->unique, 0, NULL, 0);
            break;
        default:
            reply(head->unique, ENOSYS, NULL, 0);
        }
    }
}

/* -- the mount ----------------------------------------------------------------------------------------------------- */

/* A process that unmounts when this one has ended, however that was. It has our stdout, so who reads that knows when. */
static void unmount_in_the_end(const char *mount) {
    int life[2];
    char byte;
    if (pipe(life) || fork()) {
        close(life[0]);
        return;
    }
    close(life[1]);
    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    while (read(life[0], &byte, 1) < 0 && errno == EINTR) {
    }
    dup2(open("/dev/null", O_WRONLY), 2); /* it may be unmounted already */
    execlp("fusermount3", "fusermount3", "-u", "-z", "--", mount, (char *)NULL);
    _exit(127);
}

/* The kernel's side of the mount, which fusermount3 hands over a socket. */
static int mounted(const char *mount) {
    int pair[2];
    char number[16], options[96];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return -1;
    snprintf(number, sizeof number, "%d", pair[0]);
    snprintf(options, sizeof options, "ro,nosuid,nodev,fsname=slow_volume,max_read=%d", MOST_READ);
    pid_t child = fork();
    if (child == 0) {
        close(pair[1]);
        setenv("_FUSE_COMMFD", number, 1);
        execlp("fusermount3", "fusermount3", "-o", options, "--", mount, (char *)NULL);
        _exit(127);
    }
    close(pair[0]);
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *sent = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int file = -1;
    if (sent)
        memcpy(&file, CMSG_DATA(sent), sizeof file);
    waitpid(child, NULL, 0);
    return file;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: slow_volume SOURCE MOUNT LATENCY_MS STREAM_MB TOTAL_MB BACKGROUND\n");
        return 2;
    }
    latency = atof(argv[3]) / 1e3;
    stream_rate = atof(argv[4]) * 1e6;
    total_rate = atof(argv[5]) * 1e6;
    background = atoi(argv[6]);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* with who started it */
    unmount_in_the_end(argv[2]);
    node_of(argv[1]);
    device = mounted(argv[2]);
    if (device < 0) {
        fprintf(stderr, "slow_volume: %s could not be mounted: is `fusermount3` installed, and /dev/fuse there?\n", argv[2]);
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (int i = 1; i < background + 64; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, answer_all, NULL);
    }
    answer_all(NULL);
    return 0;
}
