// The AVX2-VNNI file on processors that have its instruction only as AVX-512 encodes it.
#include "simd/avx2.h"

#include "kernels/kernels.h"

extern const Kernels kAvx2Evex = table("avx2-vnni (evex)");
