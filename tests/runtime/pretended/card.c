/* CUDA's libraries without a card: enough for ONNX Runtime's CUDA provider to load, to place a
 * graph's nodes, to choose its kernels and to go through a run. Memory is the host's, copies are
 * copies, and kernels do nothing: what comes out is no answer. What the provider does is counted,
 * and what CUDA forbids while a stream is captured fails here, too.
 *
 * Compiled once for each library (-DCUDART, -DCUBLAS, -DCUBLASLT, -DCUDA); functions that are not
 * here are generated, and give 0. */
#include <stdlib.h>

enum { LAUNCHES, SYNCS, TO_CARD, TO_HOST, ALLOCATIONS, GRAPHS, PRODUCTS, FORBIDDEN, MOVES, KINDS };
void pretended_count(int kind);

#ifdef CUDART
#include <stdio.h>
#include <string.h>
#include "driver_types.h"

static unsigned long counts[KINDS];
static volatile int capturing;

void pretended_count(int kind) { __sync_fetch_and_add(&counts[kind], 1); }
unsigned long *pretended_counts(void) { return counts; }
void pretended_forget(void) { memset(counts, 0, sizeof counts); }

static int forbidden(void) {
  if (!capturing) return 0;
  pretended_count(FORBIDDEN);
  return 900; /* cudaErrorStreamCaptureUnsupported */
}
static void *fresh(void) { return malloc(16); }
static int allocated(void **made, size_t size) {
  return posix_memalign(made, 256, size ? size : 1) ? 2 : 0;
}
static int launched(void) { return pretended_count(LAUNCHES), 0; }

void **__cudaRegisterFatBinary(void *binary) { static void *handle[4]; return handle; }
int __cudaGetKernel(void **made, const void *function) { *made = (void *)function; return 0; }
int __cudaLaunchKernel() { return launched(); }
int cudaLaunchKernel() { return launched(); }
int cudaLaunchKernelExC() { return launched(); }
int cudaLaunchCooperativeKernel() { return launched(); }

int cudaMalloc(void **made, size_t size) {
  pretended_count(ALLOCATIONS);
  *made = NULL;
  return forbidden() ? 900 : allocated(made, size);
}
int cudaMallocFromPoolAsync(void **made, size_t size) { return cudaMalloc(made, size); }
int cudaFree(void *memory) { return forbidden() ? 900 : (free(memory), 0); }
int cudaFreeAsync(void *memory) { return cudaFree(memory); }
int cudaHostAlloc(void **made, size_t size) { return allocated(made, size); }
int cudaMallocHost(void **made, size_t size) { return allocated(made, size); }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaHostRegister(void *memory, size_t size, unsigned flags) { return forbidden(); }
int cudaHostUnregister(void *memory) { return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind) {
  if (kind == 1) pretended_count(TO_CARD);
  if (kind == 2) pretended_count(TO_HOST);
  if (kind == 3) pretended_count(MOVES);
  if (kind != 3 && forbidden()) return 900;
  memmove(to, from, size);
  return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
  return forbidden() ? 900 : cudaMemcpyAsync(to, from, size, kind);
}
int cudaMemset(void *memory, int value, size_t size) { memset(memory, value, size); return 0; }
int cudaMemsetAsync(void *memory, int value, size_t size) { return cudaMemset(memory, value, size); }
int cudaPointerGetAttributes(struct cudaPointerAttributes *told, const void *memory) {
  memset(told, 0, sizeof *told);
  told->type = 2, told->devicePointer = (void *)memory;
  return 0;
}

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaMemGetInfo(size_t *left, size_t *all) { *left = *all = (size_t)80 << 30; return 0; }
/* An H100's. */
int cudaGetDeviceProperties(struct cudaDeviceProp *told, int device) {
  memset(told, 0, sizeof *told);
  strcpy(told->name, "pretended");
  told->major = 9, told->multiProcessorCount = 132, told->warpSize = 32;
  told->totalGlobalMem = (size_t)80 << 30;
  told->maxThreadsPerBlock = told->maxThreadsDim[0] = told->maxThreadsDim[1] = 1024;
  told->maxThreadsDim[2] = 64, told->maxThreadsPerMultiProcessor = 2048;
  told->maxGridSize[0] = 2147483647, told->maxGridSize[1] = told->maxGridSize[2] = 65535;
  told->sharedMemPerBlock = 49152, told->sharedMemPerBlockOptin = 232448;
  told->sharedMemPerMultiprocessor = 233472, told->l2CacheSize = 50 << 20;
  told->regsPerBlock = told->regsPerMultiprocessor = 65536;
  return 0;
}
int cudaDeviceGetAttribute(int *told, int attribute) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: return *told = 9, 0;
    case cudaDevAttrComputeCapabilityMinor: return *told = 0, 0;
    case cudaDevAttrMultiProcessorCount: return *told = 132, 0;
    case cudaDevAttrMaxSharedMemoryPerBlock: return *told = 49152, 0;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return *told = 232448, 0;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return *told = 233472, 0;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return *told = 2048, 0;
    case cudaDevAttrMaxThreadsPerBlock: return *told = 1024, 0;
    case cudaDevAttrWarpSize: return *told = 32, 0;
    default: return *told = 1, 0;
  }
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { *blocks = 2; return 0; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *told, const void *function) {
  memset(told, 0, sizeof *told);
  told->maxThreadsPerBlock = 1024, told->binaryVersion = told->ptxVersion = 90;
  return 0;
}
const char *cudaGetErrorString(int error) { return error == 900 ? "stream is capturing" : "none"; }
const char *cudaGetErrorName(int error) { return "pretended"; }

int cudaStreamCreate(void **made) { *made = fresh(); return 0; }
int cudaStreamCreateWithFlags(void **made) { *made = fresh(); return 0; }
int cudaEventCreate(void **made) { *made = fresh(); return 0; }
int cudaEventCreateWithFlags(void **made) { *made = fresh(); return 0; }
int cudaStreamSynchronize(void *stream) { pretended_count(SYNCS); return forbidden(); }
int cudaDeviceSynchronize(void) { pretended_count(SYNCS); return forbidden(); }
int cudaEventSynchronize(void *event) { pretended_count(SYNCS); return forbidden(); }
int cudaStreamBeginCapture(void *stream, int mode) { capturing = 1; return 0; }
int cudaStreamEndCapture(void *stream, void **graph) { capturing = 0, *graph = fresh(); return 0; }
int cudaStreamIsCapturing(void *stream, int *told) { *told = capturing; return 0; }
int cudaGraphInstantiate(void **made) { *made = fresh(); return 0; }
int cudaGraphLaunch(void *graph, void *stream) { pretended_count(GRAPHS); return 0; }
#endif

#ifdef CUBLAS
int cublasCreate_v2(void **made) { *made = malloc(16); return 0; }
const char *cublasGetStatusName(int status) { return "pretended"; }
const char *cublasGetStatusString(int status) { return "pretended"; }
static int multiplied(void) { return pretended_count(PRODUCTS), 0; }
int cublasGemmEx() { return multiplied(); }
int cublasGemmStridedBatchedEx() { return multiplied(); }
int cublasSgemm_v2() { return multiplied(); }
int cublasSgemmStridedBatched() { return multiplied(); }
#endif

#ifdef CUBLASLT
int cublasLtCreate(void **made) { *made = malloc(16); return 0; }
int cublasLtMatmul() { return pretended_count(PRODUCTS), 0; }
int cublasLtMatmulAlgoGetHeuristic(void *a, void *b, void *c, void *d, void *e, void *f, void *g,
                                   int most, void *results, int *found) {
  return *found = 1, 0;
}
#endif

#ifdef CUDA
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuTensorMapEncodeTiled() { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "pretended", size); return 0; }
int cuDeviceTotalMem_v2(size_t *size, int device) { *size = (size_t)80 << 30; return 0; }
int cuDeviceGetAttribute(int *told, int attribute) { *told = attribute == 75 ? 9 : 0; return 0; }
#endif
