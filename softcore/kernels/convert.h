// convert.h: elements of any supported dtype and stride, into a tile and out of it.
//
// A tile is what the kernels compute on: contiguous, native, of one storage type.  Everything NumPy can put in
// an array's layout (strides, byte order, alignment, integers) ends here.
#pragma once
#include "simd.h"

namespace softcore {
namespace {

enum Code { HALF, BFLOAT16, FLOAT, DOUBLE, BOOL, INT8, UINT8, INT16, UINT16, INT32, UINT32, INT64, UINT64, SWAPPED = 32 };

template <class S> INLINE int code_of_storage(const S *) {
    return std::is_same<S, half>::value ? HALF : std::is_same<S, bfloat16>::value ? BFLOAT16 : std::is_same<S, float>::value ? FLOAT : DOUBLE;
}

template <class T> INLINE T fetch(const char *p, bool swapped) {
    char b[sizeof(T)];
    T value;
    if (!swapped) { std::memcpy(&value, p, sizeof value); return value; }
    for (size_t i = 0; i < sizeof(T); i++) b[i] = p[sizeof(T) - 1 - i];
    std::memcpy(&value, b, sizeof value);
    return value;
}
template <class S, class T> struct Conversion {
    static INLINE S of(T value) { return narrow<S>((acc<S>)widen<T>(value)); }
};
template <class S> struct Conversion<S, S> {
    static INLINE S of(S value) { return value; }
};
template <class S, class T> void gather_from(S *tile, const char *p, ptrdiff_t stride, ptrdiff_t n, bool swapped) {
    if (swapped) for (ptrdiff_t i = 0; i < n; i++) tile[i] = Conversion<S, T>::of(fetch<T>(p + i * stride, true));
    else for (ptrdiff_t i = 0; i < n; i++) tile[i] = Conversion<S, T>::of(fetch<T>(p + i * stride, false));
}
// n elements of dtype `code`, `stride` bytes apart.
template <class S> void gather(S *tile, const char *p, ptrdiff_t stride, ptrdiff_t n, int code) {
    const bool swapped = code & SWAPPED;
    switch (code & ~SWAPPED) {
    case HALF: return gather_from<S, half>(tile, p, stride, n, swapped);
    case BFLOAT16: return gather_from<S, bfloat16>(tile, p, stride, n, swapped);
    case FLOAT: return gather_from<S, float>(tile, p, stride, n, swapped);
    case DOUBLE: return gather_from<S, double>(tile, p, stride, n, swapped);
    case BOOL: case UINT8: return gather_from<S, uint8_t>(tile, p, stride, n, swapped);
    case INT8: return gather_from<S, int8_t>(tile, p, stride, n, swapped);
    case INT16: return gather_from<S, int16_t>(tile, p, stride, n, swapped);
    case UINT16: return gather_from<S, uint16_t>(tile, p, stride, n, swapped);
    case INT32: return gather_from<S, int32_t>(tile, p, stride, n, swapped);
    case UINT32: return gather_from<S, uint32_t>(tile, p, stride, n, swapped);
    case INT64: return gather_from<S, int64_t>(tile, p, stride, n, swapped);
    case UINT64: return gather_from<S, uint64_t>(tile, p, stride, n, swapped);
    }
}
template <class S> void scatter(char *p, ptrdiff_t stride, const S *tile, ptrdiff_t n) {
    if (stride == (ptrdiff_t)sizeof(S)) { std::memcpy(p, tile, n * sizeof(S)); return; }
    for (ptrdiff_t i = 0; i < n; i++) std::memcpy(p + i * stride, tile + i, sizeof(S));
}
template <class S> INLINE acc<S> fetch_one(const S *, const char *p, int code) {
    S value;
    gather<S>(&value, p, 0, 1, code);
    return widen<S>(value);
}
template <class S> INLINE void put_one(const S *, char *p, acc<S> a) {
    S value = narrow<S>(a);
    std::memcpy(p, &value, sizeof value);
}

template <class S> INLINE void put_double(const S *tag, char *p, double a) { put_one(tag, p, (acc<S>)a); }
template <class S> void fill_tile(S *tile, ptrdiff_t n, double fill) {
    const S value = narrow<S>((acc<S>)fill);
    for (ptrdiff_t i = 0; i < n; i++) tile[i] = value;
}

template <class S> void multiply(S *tile, ptrdiff_t n, double factor) {
    for (ptrdiff_t i = 0; i < n; i++) tile[i] = narrow<S>(widen<S>(tile[i]) * (acc<S>)factor);
}

// Masked elements of a tile take `fill`.
template <class S> void fill_masked(S *tile, const unsigned char *mask, ptrdiff_t n, double fill) {
    const S value = narrow<S>((acc<S>)fill);
    for (ptrdiff_t i = 0; i < n; i++) if (!mask[i]) tile[i] = value;
}
template <class S> INLINE double lowest(const S *) {
    return std::numeric_limits<acc<S>>::has_infinity ? -INFINITY : (double)std::numeric_limits<acc<S>>::lowest();
}

// Many short rows side by side: row r of a block becomes column r, so that lanes run across rows.  Whole squares of
// eight floats are turned in registers.
#if SOFTCORE_VECTOR >= 32
INLINE void turn8(const float *x, ptrdiff_t x_step, float *y, ptrdiff_t y_step) {  // steps in bytes
    auto at = [=](int i) __attribute__((always_inline)) { return _mm256_loadu_ps((const float *)((const char *)x + i * x_step)); };
    __m256 a0 = at(0), a1 = at(1), a2 = at(2), a3 = at(3), a4 = at(4), a5 = at(5), a6 = at(6), a7 = at(7);
    __m256 b0 = _mm256_unpacklo_ps(a0, a1), b1 = _mm256_unpackhi_ps(a0, a1), b2 = _mm256_unpacklo_ps(a2, a3), b3 = _mm256_unpackhi_ps(a2, a3);
    __m256 b4 = _mm256_unpacklo_ps(a4, a5), b5 = _mm256_unpackhi_ps(a4, a5), b6 = _mm256_unpacklo_ps(a6, a7), b7 = _mm256_unpackhi_ps(a6, a7);
    __m256 c0 = _mm256_shuffle_ps(b0, b2, 0x44), c1 = _mm256_shuffle_ps(b0, b2, 0xee), c2 = _mm256_shuffle_ps(b1, b3, 0x44), c3 = _mm256_shuffle_ps(b1, b3, 0xee);
    __m256 c4 = _mm256_shuffle_ps(b4, b6, 0x44), c5 = _mm256_shuffle_ps(b4, b6, 0xee), c6 = _mm256_shuffle_ps(b5, b7, 0x44), c7 = _mm256_shuffle_ps(b5, b7, 0xee);
    auto put = [=](int i, __m256 v) __attribute__((always_inline)) { _mm256_storeu_ps((float *)((char *)y + i * y_step), v); };
    put(0, _mm256_permute2f128_ps(c0, c4, 0x20)); put(1, _mm256_permute2f128_ps(c1, c5, 0x20));
    put(2, _mm256_permute2f128_ps(c2, c6, 0x20)); put(3, _mm256_permute2f128_ps(c3, c7, 0x20));
    put(4, _mm256_permute2f128_ps(c0, c4, 0x31)); put(5, _mm256_permute2f128_ps(c1, c5, 0x31));
    put(6, _mm256_permute2f128_ps(c2, c6, 0x31)); put(7, _mm256_permute2f128_ps(c3, c7, 0x31));
}
#endif
template <class S> INLINE ptrdiff_t turn_in(acc<S> *, const S *, ptrdiff_t, ptrdiff_t) { return 0; }
template <class S> INLINE ptrdiff_t turn_out(S *, ptrdiff_t, const acc<S> *, ptrdiff_t) { return 0; }
#if SOFTCORE_VECTOR >= 32
template <> INLINE ptrdiff_t turn_in<float>(float *slab, const float *x, ptrdiff_t stride, ptrdiff_t length) {
    ptrdiff_t j = 0;
    for (; j + 8 <= length; j += 8) {
        turn8(x + j, stride, slab + j * 16, 64);
        turn8((const float *)((const char *)x + 8 * stride) + j, stride, slab + j * 16 + 8, 64);
    }
    return j;
}
template <> INLINE ptrdiff_t turn_out<float>(float *y, ptrdiff_t stride, const float *slab, ptrdiff_t length) {
    ptrdiff_t j = 0;
    for (; j + 8 <= length; j += 8) {
        turn8(slab + j * 16, 64, y + j, stride);
        turn8(slab + j * 16 + 8, 64, (float *)((char *)y + 8 * stride) + j, stride);
    }
    return j;
}
#endif
template <class S> void to_columns(acc<S> *slab, const S *x, ptrdiff_t stride, ptrdiff_t length, ptrdiff_t rows) {
    const ptrdiff_t L = lanes<S>(), done = rows == L ? turn_in<S>(slab, x, stride, length) : 0;
    for (ptrdiff_t j = done; j < length; j++) {
        const char *p = (const char *)(x + j);
        if (rows == L) for (ptrdiff_t r = 0; r < L; r++) slab[j * L + r] = widen<S>(*(const S *)(p + r * stride));
        else for (ptrdiff_t r = 0; r < L; r++) slab[j * L + r] = r < rows ? widen<S>(*(const S *)(p + r * stride)) : 0;
    }
}
template <class S> void from_columns(S *y, ptrdiff_t stride, const acc<S> *slab, ptrdiff_t length, ptrdiff_t rows) {
    const ptrdiff_t L = lanes<S>(), done = rows == L ? turn_out<S>(y, stride, slab, length) : 0;
    for (ptrdiff_t j = done; j < length; j++)
        for (ptrdiff_t r = 0; r < rows; r++) *(S *)((char *)(y + j) + r * stride) = narrow<S>(slab[j * L + r]);
}

}  // namespace
}  // namespace softcore
