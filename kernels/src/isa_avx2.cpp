#include "simd/avx2.h"

#include "kernels/kernels.h"

extern const Kernels kAvx2 = table("avx2");
