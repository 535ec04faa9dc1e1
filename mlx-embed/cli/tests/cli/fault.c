/* Makes one call of a program fail. Preloaded by the tests in faults.rs:
 *
 *     FAULT=alloc:4096:7    the 7th allocation of at least 4096 bytes gives no memory
 *     FAULT=thread:0:2      the 2nd thread can't be made
 *     FAULT=write:0:3       the 3rd call that changes a file fails: the disk is full
 *     FAULT=full:0:3        as well every later one that takes space
 *     FAULT=short:0:3       the 3rd write takes one byte only
 *     FAULT=kill:0:3        the program is killed before the 3rd call that changes a file
 *     FAULT=torn:0:3        it is killed within the 3rd write behind a file's start, half of which is done
 *
 * Counting begins when the program handles SIGXFSZ, after SIGABRT, the first things that it does. FAULT_FIRED is the file
 * that is made when a call fails.
 *
 *     FAULT_EVERY=2 FAULT_OUTPUT=FILE FAULT_OLD=1 FAULT_RESULTS=DIR
 *
 * has the program go on from there again and again, as a process of its own each time: with the nth call failing, with the
 * one 2 calls later and so on, until there is no such call. Every other time, the first or not as FAULT_OLD says, FILE is
 * there before, with OLD in it. What becomes of FILE and of stderr is then DIR/N.output and DIR/N.stderr, and DIR/ended has a line for each process: N,
 * whether FILE was there, how the process ended (as waitpid says) and whether the call failed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum kind { NONE, ALLOC, THREAD, WRITE, FULL, SHORT, KILL, TORN };

static enum kind kind;
static size_t least;
static long nth;
static const char *fired_path;
static atomic_bool armed;
static atomic_long calls;

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

__attribute__((constructor)) static void read_environment(void) {
  const char *names[] = {"", "alloc", "thread", "write", "full", "short", "kill", "torn"};
  const char *fault = getenv("FAULT");
  char name[16] = "";
  unsigned long size = 0;
  fired_path = getenv("FAULT_FIRED");
  if (!fault || !fired_path || sscanf(fault, "%15[a-z]:%lu:%ld", name, &size, &nth) != 3)
    return;
  least = size;
  for (int i = 1; i < 8; i++)
    if (!strcmp(name, names[i]))
      kind = i;
}

/* Whether this call of the given kind is the one. */
static int fails(enum kind of, int lasting) {
  if (kind != of || !armed)
    return 0;
  long call = ++calls;
  if (call < nth || (call > nth && !lasting))
    return 0;
  if (call == nth) {
    int saved = errno;
    syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, fired_path, O_WRONLY | O_CREAT, 0644));
    errno = saved;
  }
  return 1;
}

#define OLD "from before"

/* Comes back in each of the processes. */
static void every(long step, const char *output, int old, const char *results) {
  char name[4096];
  snprintf(name, sizeof(name), "%s/ended", results);
  FILE *ended = fopen(name, "w");
  int fired = 1;
  for (; fired; nth += step, old = !old) {
    unlink(output);
    unlink(fired_path);
    if (old) {
      FILE *file = fopen(output, "w");
      fputs(OLD, file);
      fclose(file);
    }
    /* Else the process would write it, too. */
    fflush(ended);
    pid_t process = fork();
    if (process == 0) {
      snprintf(name, sizeof(name), "%s/%ld.stderr", results, nth);
      freopen(name, "w", stderr);
      return;
    }
    int status = -1;
    waitpid(process, &status, 0);
    fired = access(fired_path, F_OK) == 0;
    fprintf(ended, "%ld %d %d %d\n", nth, old, status, fired);
    snprintf(name, sizeof(name), "%s/%ld.output", results, nth);
    rename(output, name);
  }
  fclose(ended);
  _exit(0);
}

int sigaction(int signal, const struct sigaction *action, struct sigaction *old) {
  static int (*real)(int, const struct sigaction *, struct sigaction *);
  if (!real)
    real = dlsym(RTLD_NEXT, "sigaction");
  int code = real(signal, action, old);
  if (signal == SIGXFSZ && action) {
    const char *step = getenv("FAULT_EVERY");
    if (step)
      every(atol(step), getenv("FAULT_OUTPUT"), atoi(getenv("FAULT_OLD")), getenv("FAULT_RESULTS"));
    armed = 1;
  }
  return code;
}

static int no_memory(size_t size) {
  if (kind != ALLOC || size < least || !fails(ALLOC, 0))
    return 0;
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t size) { return no_memory(size) ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) { return no_memory(count * size) ? NULL : __libc_calloc(count, size); }

void *realloc(void *old, size_t size) { return no_memory(size) ? NULL : __libc_realloc(old, size); }

void *memalign(size_t alignment, size_t size) {
  return no_memory(size) ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
  void *memory = memalign(alignment, size);
  if (!memory && size)
    return ENOMEM;
  *result = memory;
  return 0;
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off64_t offset) {
  if (no_memory(size))
    return MAP_FAILED;
  return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
  return mmap64(at, size, protection, flags, file, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *data) {
  static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (!real)
    real = dlsym(RTLD_NEXT, "pthread_create");
  return fails(THREAD, 0) ? EAGAIN : real(thread, attributes, start, data);
}

/* Whether a call that changes a file fails, and whether it takes space. */
static int refused(int takes_space) {
  if (fails(KILL, 0))
    kill(getpid(), SIGKILL);
  if (!fails(WRITE, 0) && !(takes_space && fails(FULL, 1)))
    return 0;
  errno = ENOSPC;
  return 1;
}

static size_t taken(size_t size) { return size > 1 && fails(SHORT, 0) ? 1 : size; }

/* What is said to a person is no file. */
ssize_t write(int file, const void *bytes, size_t size) {
  if (file == 2)
    return syscall(SYS_write, file, bytes, size);
  return refused(1) ? -1 : syscall(SYS_write, file, bytes, taken(size));
}

ssize_t writev(int file, const struct iovec *parts, int count) {
  if (file == 2)
    return syscall(SYS_writev, file, parts, count);
  return refused(1) ? -1 : syscall(SYS_writev, file, parts, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset) {
  if (offset > 0 && fails(TORN, 0)) {
    syscall(SYS_pwrite64, file, bytes, size / 2, offset);
    kill(getpid(), SIGKILL);
  }
  return refused(1) ? -1 : syscall(SYS_pwrite64, file, bytes, taken(size), offset);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset) {
  return pwrite64(file, bytes, size, offset);
}

int ftruncate64(int file, off64_t size) { return refused(0) ? -1 : syscall(SYS_ftruncate, file, size); }

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int fsync(int file) { return refused(1) ? -1 : syscall(SYS_fsync, file); }

int fdatasync(int file) { return refused(1) ? -1 : syscall(SYS_fdatasync, file); }

int fchmod(int file, mode_t mode) { return refused(0) ? -1 : syscall(SYS_fchmod, file, mode); }

int flock(int file, int operation) { return refused(0) ? -1 : syscall(SYS_flock, file, operation); }

int rename(const char *from, const char *to) {
  return refused(0) ? -1 : syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  if ((flags & O_ACCMODE) != O_RDONLY && refused(0))
    return -1;
  return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
