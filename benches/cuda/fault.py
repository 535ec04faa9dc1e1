#!/usr/bin/env python3
"""Whether a fault of a kernel ends as an error: fault.py PROGRAM DIR. Needs cc, glibc and a Hopper GPU.

A library between the program and NVIDIA's driver gives one launch, the 1st, 100th, .. of a process or of those that become
part of a graph, arguments whose pointers point to nothing. CUDA answers everything with an error from then on. Exits with
1 unless each time the program says so and ends by itself with code 1."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memory import command

# Some 110 launches load the model (it dequantises or packs its matrices), the others are of batches.
LAUNCHES = (1, 100, 200, 300)
# Of the graphs that are made of a batch once it ran sixteen times: the first one's first launch, and later ones'.
IN_GRAPHS = (1, 60, 120)
BATCHES, UNTIL_GRAPHS = 2, 20
# What a process that hangs is given; one that ends takes some seconds.
PATIENCE = 120
BETWEEN = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void tell(int signal) {
  void* at[48];
  backtrace_symbols_fd(at, backtrace(at, 48), 2);
  if (write(2, "--\n", 3) < 0) _exit(3);
}

__attribute__((constructor)) static void prepare(void) {
  void* at[1];
  backtrace(at, 1);
  signal(SIGUSR2, tell);
}

static int (*launch)(const void*, void*, void**, void**);
static int (*size_of)(void*, size_t, size_t*, size_t*);
static int (*range_of)(uint64_t*, size_t*, uint64_t);
static int (*is_capturing)(void*, int*);
static long left;

// Whether the launch becomes part of a graph.
static int captured(const void* config) {
  int status = 0;
  void* stream;
  memcpy(&stream, (const char*)config + 32, sizeof stream);
  return is_capturing(stream, &status) == 0 && status == 1;
}

static int launch_one_badly(const void* config, void* function, void** parameters, void** extra) {
  static _Alignas(64) uint64_t arguments[512];
  void* bad[] = {arguments};
  if (captured(config) != (getenv("IN_GRAPH") != 0) || --left != 0) return launch(config, function, parameters, extra);
  size_t offset, size;
  if (size_of(function, 0, &offset, &size) != 0 || size > sizeof arguments) {
    fprintf(stderr, "the launch's arguments can't be told\n");
    abort();
  }
  memcpy(arguments, parameters[0], size);
  for (size_t i = 0; i < size / 8; ++i) {
    uint64_t start;
    size_t length;
    if (range_of(&start, &length, arguments[i]) == 0) arguments[i] = 64;
  }
  return launch(config, function, bad, extra);
}

void* dlsym(void* library, const char* name) {
  static void* (*find)(void*, const char*);
  if (!find) find = (void* (*)(void*, const char*))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (!find) find = (void* (*)(void*, const char*))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  // A jump, as -O2 makes it: what is next after a library depends on who calls.
  if (strcmp(name, "cuLaunchKernelEx") != 0) return find(library, name);
  launch = (int (*)(const void*, void*, void**, void**))find(library, name);
  if (!launch) return 0;
  size_of = (int (*)(void*, size_t, size_t*, size_t*))find(library, "cuFuncGetParamInfo");
  range_of = (int (*)(uint64_t*, size_t*, uint64_t))find(library, "cuMemGetAddressRange_v2");
  is_capturing = (int (*)(void*, int*))find(library, "cuStreamIsCapturing");
  left = atol(getenv("BAD_LAUNCH"));
  return (void*)launch_one_badly;
}
"""


def where(running: subprocess.Popen) -> str:
    """What each thread of a process that hangs is doing; it is ended then."""
    for thread in sorted(os.listdir(f"/proc/{running.pid}/task"), key=int):
        tgkill = 234
        ctypes.CDLL(None).syscall(tgkill, running.pid, int(thread), signal.SIGUSR2.value)
        time.sleep(0.1)
    running.kill()
    return running.communicate()[1].strip()


def main() -> int:
    program, model = sys.argv[1:3]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "between.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"], input=BETWEEN, text=True,
                       check=True)
        whole = [(number, False) for number in LAUNCHES] + [(number, True) for number in IN_GRAPHS]
        for number, in_graph in whole:
            batches = (UNTIL_GRAPHS if in_graph else BATCHES) * (json.dumps({"batch": 10, "tokens": 16}) + "\n")
            environment = {**os.environ, "LD_PRELOAD": str(library), "BAD_LAUNCH": str(number)}
            environment |= {"IN_GRAPH": "1"} if in_graph else {}
            running = subprocess.Popen(command(program, model), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True, env=environment)
            try:
                _, told = running.communicate(batches, timeout=PATIENCE)
                as_it_should = running.returncode == 1 and "illegal memory access" in told
                end = f"code {running.returncode}, {told.strip()}"
            except subprocess.TimeoutExpired:
                as_it_should, end = False, f"still running after {PATIENCE} s; its threads are at\n{where(running)}"
            failed += not as_it_should
            what = f"launch {number}{' of graphs' if in_graph else ''}"
            print(f"{what}: {'' if as_it_should else 'WRONG: '}{end}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
