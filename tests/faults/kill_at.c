/* Loaded before a process's libraries: kills it as it enters the n-th call on files whose paths
 * begin with one of two prefixes, or after half of a write; or lets the call fail. Much faster than
 * a tracer, which stops each call.
 *
 * arm(first, second, n, torn, log): n = 0 kills never and writes a line a call to log.
 * fail(kind, error, lasting): from then on only calls of a kind count (their names begin so), and
 * the n-th fails, and with lasting all after it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char prefixes[2][PATH_MAX];
static atomic_long entered;
static long last;
static int armed, torn_write, log_to = -1, error, lasts;
static char kind[32];

void fail(const char *calls, int number, int lasting) {
    snprintf(kind, sizeof kind, "%s", calls);
    error = number, lasts = lasting;
}

void arm(const char *first, const char *second, long n, int torn, int log) {
    snprintf(prefixes[0], PATH_MAX, "%s", first);
    snprintf(prefixes[1], PATH_MAX, "%s", second);
    last = n, torn_write = torn, log_to = log;
    atomic_store(&entered, 0);
    armed = 1;
}

static int begins(const char *path) {
    for (int i = 0; i < 2; i++)
        if (!strncmp(path, prefixes[i], strlen(prefixes[i]))) return 1;
    return 0;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

enum { GO_ON, TORN, FAILS };

/* What becomes of this call; does not return where it is the one to be killed. */
static int enter(const char *call, int writes) {
    if (error && strncmp(call, kind, strlen(kind))) return GO_ON;
    long number = atomic_fetch_add(&entered, 1) + 1;
    if (!last && log_to >= 0) {
        char line[64];
        int size = snprintf(line, sizeof line, "%s\n", call);
        ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
        (void)!real(log_to, line, size);
    }
    if (error && last && (number == last || (lasts && number > last))) return FAILS;
    if (error || number != last) return GO_ON;
    if (torn_write && writes) return TORN;
    die();
    return GO_ON;
}

static int failed(void) {
    errno = error;
    return -1;
}

static int at_path(const char *call, int folder, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    if (!armed) return 0;
    if (path[0] != '/' && folder != AT_FDCWD) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, whole, PATH_MAX);
        if (size < 0) return 0;
        snprintf(whole + size, PATH_MAX, "/%s", path);
        path = whole;
    }
    return begins(path) ? enter(call, 0) : 0;
}

static int at_file(const char *call, int file, int writes) {
    char path[PATH_MAX], link[64];
    if (!armed || file == log_to) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return begins(path) ? enter(call, writes) : 0;
}

#define REAL(name, type, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))


int unlink(const char *p) {
    if (at_path("unlink", AT_FDCWD, p) == FAILS) return failed();
    return REAL(unlink, int, const char *)(p);
}
int rmdir(const char *p) {
    if (at_path("rmdir", AT_FDCWD, p) == FAILS) return failed();
    return REAL(rmdir, int, const char *)(p);
}
int unlinkat(int f, const char *p, int flags) {
    if (at_path("unlinkat", f, p) == FAILS) return failed();
    return REAL(unlinkat, int, int, const char *, int)(f, p, flags);
}
int mkdir(const char *p, mode_t m) {
    if (at_path("mkdir", AT_FDCWD, p) == FAILS) return failed();
    return REAL(mkdir, int, const char *, mode_t)(p, m);
}
int rename(const char *a, const char *b) {
    if (at_path("rename", AT_FDCWD, b) == FAILS) return failed();
    return REAL(rename, int, const char *, const char *)(a, b);
}
int renameat(int f, const char *a, int g, const char *b) {
    if (at_path("renameat", g, b) == FAILS) return failed();
    return REAL(renameat, int, int, const char *, int, const char *)(f, a, g, b);
}
int fsync(int file) {
    if (at_file("fsync", file, 0) == FAILS) return failed();
    return REAL(fsync, int, int)(file);
}
int fdatasync(int file) {
    if (at_file("fdatasync", file, 0) == FAILS) return failed();
    return REAL(fdatasync, int, int)(file);
}

#define TRUNCATES(name) \
    int name(int file, off_t size) { \
        if (at_file(#name, file, 0) == FAILS) return failed(); \
        return REAL(name, int, int, off_t)(file, size); \
    }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        if (at_path(#name, AT_FDCWD, path) == FAILS) return failed(); \
        return REAL(name, int, const char *, int, mode_t)(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        if (at_path(#name, folder, path) == FAILS) return failed(); \
        return REAL(name, int, int, const char *, int, mode_t)(folder, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

ssize_t write(int file, const void *data, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    int then = at_file("write", file, 1);
    if (then == FAILS) return failed();
    if (then == TORN) {
        (void)!real(file, data, size / 2);
        die();
    }
    return real(file, data, size);
}

#define PWRITES(name) \
    ssize_t name(int file, const void *data, size_t size, off_t at) { \
        ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, #name); \
        int then = at_file(#name, file, 1); \
        if (then == FAILS) return failed(); \
        if (then == TORN) { \
            (void)!real(file, data, size / 2, at); \
            die(); \
        } \
        return real(file, data, size, at); \
    }
PWRITES(pwrite)
PWRITES(pwrite64)

/* Reads change nothing: they count only where they are to fail. */
ssize_t read(int file, void *data, size_t size) {
    if (error && at_file("read", file, 0) == FAILS) return failed();
    return REAL(read, ssize_t, int, void *, size_t)(file, data, size);
}

#define PREADS(name) \
    ssize_t name(int file, void *data, size_t size, off_t at) { \
        if (error && at_file("read", file, 0) == FAILS) return failed(); \
        return REAL(name, ssize_t, int, void *, size_t, off_t)(file, data, size, at); \
    }
PREADS(pread)
PREADS(pread64)
