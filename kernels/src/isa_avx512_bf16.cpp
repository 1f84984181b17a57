#include "simd/avx512.h"

#include "kernels/kernels.h"

extern const Kernels kAvx512Bf16 = table("avx512-vnni-bf16");
