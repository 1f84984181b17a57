#include "simd/avx2.h"

#include "kernels/kernels.h"

extern const Kernels kAvx2Vnni = table("avx2-vnni");
