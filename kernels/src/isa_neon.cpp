#include "simd/neon.h"

#include "kernels.h"

extern const Kernels kNeon = table("neon");
