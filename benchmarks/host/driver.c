/* A libcuda whose calls succeed at once: what is left of a launch is the host's share. */

#include <stdint.h>

typedef int Result;

static long launches = 0;

long num_launches(void) { return launches; }

/* Of an H200, those that Triton asks for. */
static int attribute_of(int attribute) {
  switch (attribute) {
    case 8: return 49152;    /* shared memory of a block */
    case 10: return 32;      /* lanes of a warp */
    case 16: return 132;     /* multiprocessors */
    case 81: return 233472;  /* shared memory of a multiprocessor */
    case 82: return 65536;   /* registers of a multiprocessor */
    case 97: return 232448;  /* shared memory of a block, if asked for */
    default: return 1;
  }
}

Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
Result cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute_of(attribute); return 0; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
Result cuCtxSetCurrent(void *context) { return 0; }
Result cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
Result cuCtxSetLimit(int limit, uint64_t value) { return 0; }
Result cuCtxGetLimit(uint64_t *value, int limit) { *value = 0; return 0; }
Result cuModuleLoadData(void **module, const void *image) { *module = (void *)2; return 0; }
Result cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)3; return 0; }
Result cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
Result cuFuncGetAttribute(int *value, int attribute, void *function) { *value = attribute == 0 ? 1024 : 0; return 0; }
Result cuFuncSetCacheConfig(void *function, int config) { return 0; }
Result cuPointerGetAttribute(void *value, int attribute, uint64_t address) { *(uint64_t *)value = address; return 0; }
Result cuPointerGetAttributes(unsigned count, int *attributes, void **values, uint64_t address) { return 0; }
Result cuLaunchKernelEx(const void *config, void *function, void **arguments, void **extra) { launches++; return 0; }
Result cuGetErrorString(Result result, const char **text) { *text = "none"; return 0; }
Result cuOccupancyMaxActiveClusters(int *clusters, void *function, const void *config) { *clusters = 1; return 0; }
Result cuTensorMapEncodeTiled(void) { return 0; }
Result cuTensorMapEncodeIm2col(void) { return 0; }
