#include "simd/avx512.h"

#include "kernels/kernels.h"

extern const Kernels kAvx512 = table("avx512-vnni");
