// SPDX-License-Identifier: Apache-2.0
// The only names that maths in core/ may use. Host and device; includes nothing but <cmath> and <cstdint>.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define FS_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define FS_HD inline __attribute__((always_inline))
#else
#define FS_HD inline
#endif

// Each instruction set compiles its own copy of the code in core/ and cpu/. The copies need different names: were they
// the same function to the linker, it would keep any one of them, and an old processor could be handed AVX-512.
#ifndef FS_ISA
#define FS_ISA portable
#endif

#define FS_NAMESPACE_BEGIN namespace fs { inline namespace FS_ISA {
#define FS_NAMESPACE_END } }

FS_NAMESPACE_BEGIN

// A bare sqrt(x) may pick the double version for a float; the overloads are spelled out.
FS_HD float sqrt(float x) { return ::sqrtf(x); }
FS_HD double sqrt(double x) { return ::sqrt(x); }
// torch.maximum: a NaN on either side stays.
FS_HD float max(float a, float b) { return (a > b || a != a) ? a : b; }
FS_HD double max(double a, double b) { return (a > b || a != a) ? a : b; }
FS_HD double pow(double x, double y) { return ::pow(x, y); }
FS_HD double floor(double x) { return ::floor(x); }
FS_HD double fmod(double x, double y) { return ::fmod(x, y); }
FS_HD double log(double x) { return ::log(x); }
FS_HD double log1p(double x) { return ::log1p(x); }
FS_HD double expm1(double x) { return ::expm1(x); }

FS_NAMESPACE_END
