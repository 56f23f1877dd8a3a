/* A disk that is watched and that fails: preloaded, it writes down each call that changes a file below DISK_ROOT, and lets the
   calls fail that the control page says.

   DISK_TRACE     file that the calls are appended to: a Head, the path, a second path or the bytes written
   DISK_CONTROL   a Control, mapped by whoever wants to let calls fail

   One call at a time: the order in the trace is the order on the disk. What is written to a file named `acks` never fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC, TRUNCATE, CREATE, MKDIR, SYMLINK, RENAME, UNLINK, RMDIR };
enum { DURABLE = 1 };

typedef struct { uint32_t kind, flags, path, more; uint64_t offset; } Head;
/* calls: made so far; left: calls until one fails, 0 is never; error: its errno, 0 writes half; stays: all later ones fail too */
typedef struct { int64_t calls, left; int32_t error, stays; } Control;

static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static Control *control;
static int trace = -1;

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("DISK_CONTROL");
  if (!(root = getenv("DISK_ROOT"))) return;
  if (path) {
    int file = syscall(SYS_openat, AT_FDCWD, path, O_RDWR);
    if (file >= 0) control = mmap(NULL, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (control == MAP_FAILED) control = NULL;
  }
  if ((path = getenv("DISK_TRACE"))) trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int is_below(const char *path) {
  size_t length = root ? strlen(root) : 0;
  return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int is_acks(const char *path) {
  size_t length = strlen(path);
  return length >= 5 && !strcmp(path + length - 5, "/acks");
}

static int path_of(int file, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

static int absolute(int folder, const char *name, char *path) {
  if (name[0] == '/' || folder == AT_FDCWD) {
    snprintf(path, PATH_MAX, "%s", name);
  } else {
    char at[PATH_MAX];
    if (!path_of(folder, at)) return 0;
    snprintf(path, PATH_MAX, "%.*s/%s", PATH_MAX / 2, at, name);
  }
  return is_below(path);
}

/* 1: the call fails with errno set; 2: half of it is written */
static int fails(const char *path) {
  if (!control || is_acks(path)) return 0;
  control->calls++;
  if (!control->left || --control->left) return 0;
  if (control->stays) control->left = 1;
  errno = control->error;
  return control->error ? 1 : 2;
}

static void note(uint32_t kind, uint32_t flags, const char *path, uint64_t offset, const void *more, size_t size) {
  if (trace < 0) return;
  Head head = {kind, flags, strlen(path), size, offset};
  struct iovec parts[3] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)more, size}};
  syscall(SYS_writev, trace, parts, 3);
}

static ssize_t written(int file, const struct iovec *parts, int count, off_t offset, int is_at) {
  char path[PATH_MAX];
  if (!path_of(file, path)) return -2;
  pthread_mutex_lock(&one);
  size_t size = 0, at = 0;
  for (int i = 0; i < count; i++) size += parts[i].iov_len;
  char *joined = malloc(size + 1);
  for (int i = 0; i < count; at += parts[i++].iov_len) memcpy(joined + at, parts[i].iov_base, parts[i].iov_len);
  int failure = fails(path), flags = fcntl(file, F_GETFL);
  ssize_t done = -1;
  if (failure != 1) {
    struct stat before;
    if (!is_at) offset = flags & O_APPEND ? (fstat(file, &before), before.st_size) : lseek(file, 0, SEEK_CUR);
    size = failure == 2 ? size / 2 : size;
    done = is_at ? syscall(SYS_pwrite64, file, joined, size, offset) : syscall(SYS_write, file, joined, size);
    if (done > 0) note(WRITE, flags & O_DSYNC ? DURABLE : 0, path, offset, joined, done);
  }
  int kept = errno;
  free(joined);
  pthread_mutex_unlock(&one);
  errno = kept;
  return done;
}

#define WRITER(NAME, PARAMETERS, ARGUMENTS, PARTS, COUNT, OFFSET, IS_AT)                       \
  ssize_t NAME PARAMETERS {                                                                    \
    ssize_t done = written(file, PARTS, COUNT, OFFSET, IS_AT);                                 \
    return done != -2 ? done : ((ssize_t(*) PARAMETERS)real(#NAME))ARGUMENTS;                  \
  }
#define ONE ((struct iovec[]){{(void *)bytes, size}})
WRITER(write, (int file, const void *bytes, size_t size), (file, bytes, size), ONE, 1, 0, 0)
WRITER(pwrite, (int file, const void *bytes, size_t size, off_t at), (file, bytes, size, at), ONE, 1, at, 1)
WRITER(pwrite64, (int file, const void *bytes, size_t size, off_t at), (file, bytes, size, at), ONE, 1, at, 1)
WRITER(writev, (int file, const struct iovec *parts, int count), (file, parts, count), parts, count, 0, 0)
WRITER(pwritev, (int file, const struct iovec *parts, int count, off_t at), (file, parts, count, at), parts, count, at, 1)
WRITER(pwritev64, (int file, const struct iovec *parts, int count, off_t at), (file, parts, count, at), parts, count, at, 1)

/* What is not below the root goes its way; else the call is made under the lock, noted, and its result returned. */
#define GUARDED(NAME, PARAMETERS, ARGUMENTS, LOCATED, KIND, OFFSET, MORE, SIZE)                \
  int NAME PARAMETERS {                                                                        \
    char path[PATH_MAX];                                                 \
    int (*call) PARAMETERS = real(#NAME);                                                      \
    if (!(LOCATED)) return call ARGUMENTS;                                                     \
    pthread_mutex_lock(&one);                                                                  \
    int done = fails(path) ? -1 : call ARGUMENTS;                                              \
    int kept = errno ? errno : EIO;                                                            \
    if (!done) note(KIND, 0, path, OFFSET, MORE, SIZE);                                        \
    pthread_mutex_unlock(&one);                                                                \
    errno = kept;                                                                              \
    return done;                                                                               \
  }
#define AT(FOLDER, NAME) absolute(FOLDER, NAME, path)
GUARDED(fsync, (int file), (file), path_of(file, path), SYNC, 0, "", 0)
GUARDED(fdatasync, (int file), (file), path_of(file, path), SYNC, 0, "", 0)
GUARDED(ftruncate, (int file, off_t size), (file, size), path_of(file, path), TRUNCATE, size, "", 0)
GUARDED(ftruncate64, (int file, off_t size), (file, size), path_of(file, path), TRUNCATE, size, "", 0)
GUARDED(mkdir, (const char *name, mode_t mode), (name, mode), AT(AT_FDCWD, name), MKDIR, 0, "", 0)
GUARDED(mkdirat, (int at, const char *name, mode_t mode), (at, name, mode), AT(at, name), MKDIR, 0, "", 0)
GUARDED(rmdir, (const char *name), (name), AT(AT_FDCWD, name), RMDIR, 0, "", 0)
GUARDED(unlink, (const char *name), (name), AT(AT_FDCWD, name), UNLINK, 0, "", 0)
GUARDED(unlinkat, (int at, const char *name, int flags), (at, name, flags), AT(at, name),
        flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, "", 0)
GUARDED(symlink, (const char *to, const char *name), (to, name), AT(AT_FDCWD, name), SYMLINK, 0, to, strlen(to))
GUARDED(symlinkat, (const char *to, int at, const char *name), (to, at, name), AT(at, name), SYMLINK, 0, to, strlen(to))
GUARDED(rename, (const char *from, const char *to), (from, to), AT(AT_FDCWD, from), RENAME, 0, to, strlen(to))
GUARDED(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to),
        AT(a, from) && b == AT_FDCWD, RENAME, 0, to, strlen(to))

static int opened(int folder, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  int makes = flags & (O_CREAT | O_TRUNC) && absolute(folder, name, path);
  if (!makes) return syscall(SYS_openat, folder, name, flags | O_LARGEFILE, mode);
  pthread_mutex_lock(&one);
  struct stat before;
  int is_new = flags & O_CREAT && syscall(SYS_newfstatat, AT_FDCWD, path, &before, 0);
  int changes = is_new || (flags & O_TRUNC && before.st_size);
  int file = changes && fails(path) ? -1 : syscall(SYS_openat, folder, name, flags | O_LARGEFILE, mode);
  int kept = errno ? errno : EIO;
  if (file >= 0 && changes) note(is_new ? CREATE : TRUNCATE, 0, path, 0, "", 0);
  pthread_mutex_unlock(&one);
  errno = kept;
  return file;
}

#define OPENER(NAME, PARAMETERS, FOLDER)                                                       \
  int NAME PARAMETERS {                                                                        \
    va_list rest;                                                                              \
    va_start(rest, flags);                                                                     \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;                  \
    va_end(rest);                                                                              \
    return opened(FOLDER, name, flags, mode);                                                  \
  }
OPENER(open, (const char *name, int flags, ...), AT_FDCWD)
OPENER(open64, (const char *name, int flags, ...), AT_FDCWD)
OPENER(openat, (int at, const char *name, int flags, ...), at)
OPENER(openat64, (int at, const char *name, int flags, ...), at)
