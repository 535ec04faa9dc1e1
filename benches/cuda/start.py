#!/usr/bin/env python3
"""Where the time to a first vector on an NVIDIA GPU goes: start.py PROGRAM DIR. Needs cc and glibc.

A library between the program and NVIDIA's driver says when the program has been loaded and when which calls of the driver
begin and end, in milliseconds from the start of the process. Beside it: what CUDA takes in a process that does nothing else.
The first run, which may compile kernels, doesn't count."""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BETWEEN = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double milliseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void say(const char* what, double from) {
  const double start = atof(getenv("STARTED"));
  fprintf(stderr, "%8.0f to %5.0f ms  %s\n", from - start, milliseconds() - start, what);
}

__attribute__((constructor)) static void loaded(void) { say("the program is loaded", milliseconds()); }
__attribute__((destructor)) static void ended(void) { say("it ends", milliseconds()); }

typedef long (*call)(void*, void*, void*, void*, void*, void*, void*);
#define CALLS(DO) DO(0, cuInit) DO(1, cuDevicePrimaryCtxRetain) DO(2, cuModuleLoadData) DO(3, cuLaunchKernelEx) \
  DO(4, cuMemHostAlloc) DO(5, cuMemcpyDtoHAsync_v2)
static call real[6];
static int seen[6];
#define WRAP(i, name) \
  static long wrap_##name(void* a, void* b, void* c, void* d, void* e, void* f, void* g) { \
    const double from = milliseconds(); \
    const long code = real[i](a, b, c, d, e, f, g); \
    if (seen[i]++ == 0 || milliseconds() - from > 5) say(#name, from); \
    return code; \
  }
CALLS(WRAP)
#define NAME(i, name) #name,
static const char* const names[] = {CALLS(NAME)};
#define WRAPPED(i, name) wrap_##name,
static const call wrapped[] = {CALLS(WRAPPED)};

void* dlsym(void* library, const char* name) {
  static void* (*find)(void*, const char*);
  if (!find) find = (void* (*)(void*, const char*))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (!find) find = (void* (*)(void*, const char*))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  for (int i = 0; i < 6; ++i)
    if (strcmp(name, names[i]) == 0) {
      real[i] = (call)find(library, name);
      return real[i] ? (void*)wrapped[i] : 0;
    }
  // A jump, as -O2 makes it: what is next after a library depends on who calls.
  return find(library, name);
}
"""


def alone() -> None:
    """What CUDA takes in this process."""
    cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    for what, run in (("cuInit", lambda: cuda.cuInit(0)),
                      ("a context", lambda: cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))):
        start = time.monotonic()
        run()
        print(f"CUDA alone: {what} {1e3 * (time.monotonic() - start):.0f} ms", flush=True)


def main() -> int:
    program, model = sys.argv[1:3]
    embed = [program, "embed", "--quiet", "--model", model, "--device", "gpu", "one text"]
    alone()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "between.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"], input=BETWEEN, text=True,
                       check=True)
        subprocess.run(embed, stdout=subprocess.PIPE, check=True)
        for _ in range(3):
            start = time.monotonic()
            environment = {**os.environ, "LD_PRELOAD": str(library), "STARTED": str(1e3 * start)}
            subprocess.run(embed, stdout=subprocess.PIPE, env=environment, check=True)
            print(f"{1e3 * (time.monotonic() - start):8.0f} ms           the process is gone\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
