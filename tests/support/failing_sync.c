/* A disk whose syncs fail, for tests/crash.rs: loaded with LD_PRELOAD, it answers fdatasync and fsync with EIO as long as
   the file exists that FAILING_SYNC_SWITCH names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int is_broken(void) {
    const char *file = getenv("FAILING_SYNC_SWITCH");
    return file && access(file, F_OK) == 0;
}

static int sync_by(const char *name, int file) {
    if (is_broken()) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(file);
}

int fdatasync(int file) { return sync_by("fdatasync", file); }
int fsync(int file) { return sync_by("fsync", file); }
