// openmp.h: the little of OpenMP that is asked about, with or without OpenMP.
#pragma once
#ifdef _OPENMP
#include <omp.h>
static inline int softcore_max_threads() { return omp_get_max_threads(); }
static inline int softcore_openmp() { return _OPENMP; }
static inline int softcore_thread() { return omp_get_thread_num(); }
#else
static inline int softcore_max_threads() { return 1; }
static inline int softcore_openmp() { return 0; }
static inline int softcore_thread() { return 0; }
#endif
#if defined(__x86_64__)
static inline int softcore_supports(int level) {
    __builtin_cpu_init();
    if (level == 3) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (level == 4) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") && softcore_supports(3);
    return 1;
}
#else
static inline int softcore_supports(int level) { return level == 2; }
#endif
