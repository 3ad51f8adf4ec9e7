#include "common/launch.cuh"

namespace partnas::cuda {

#if defined(PARTNAS_EMULATOR)
const char* describe(Status status) { return status == success ? "no error" : "refused by a launcher"; }
#else
const char* describe(Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }
#endif

}  // namespace partnas::cuda
