#include "simd/neon.h"

#include "kernels/kernels.h"

extern const Kernels kNeon = table("neon");
