// convert.h: elements of any supported dtype and stride, into a tile and out of it.
//
// A tile is what the kernels compute on: contiguous, native, of one storage type.  Everything NumPy can put in
// an array's layout (strides, byte order, alignment, integers) ends here.
#pragma once
#include "simd.h"

namespace softcore {
namespace {

enum Code { HALF, BFLOAT16, FLOAT, DOUBLE, BOOL, INT8, UINT8, INT16, UINT16, INT32, UINT32, INT64, UINT64, SWAPPED = 32 };

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

// Masked elements of a tile take `fill`.
template <class S> void fill_masked(S *tile, const unsigned char *mask, ptrdiff_t n, double fill) {
    const S value = narrow<S>((acc<S>)fill);
    for (ptrdiff_t i = 0; i < n; i++) if (!mask[i]) tile[i] = value;
}
template <class S> INLINE double lowest(const S *) {
    return std::numeric_limits<acc<S>>::has_infinity ? -INFINITY : (double)std::numeric_limits<acc<S>>::lowest();
}

// Many short rows side by side: row r of a block becomes column r, so that lanes run across rows.
template <class S> void to_columns(acc<S> *slab, const S *x, ptrdiff_t stride, ptrdiff_t length, ptrdiff_t rows) {
    const ptrdiff_t L = lanes<S>();
    for (ptrdiff_t r = 0; r < rows; r++) {
        const S *row = (const S *)((const char *)x + r * stride);
        for (ptrdiff_t j = 0; j < length; j++) slab[j * L + r] = widen<S>(row[j]);
    }
    for (ptrdiff_t r = rows; r < L; r++)
        for (ptrdiff_t j = 0; j < length; j++) slab[j * L + r] = 0;
}
template <class S> void from_columns(S *y, ptrdiff_t stride, const acc<S> *slab, ptrdiff_t length, ptrdiff_t rows) {
    const ptrdiff_t L = lanes<S>();
    for (ptrdiff_t r = 0; r < rows; r++) {
        S *row = (S *)((char *)y + r * stride);
        for (ptrdiff_t j = 0; j < length; j++) row[j] = narrow<S>(slab[j * L + r]);
    }
}

}  // namespace
}  // namespace softcore
