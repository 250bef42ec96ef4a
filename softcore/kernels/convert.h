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
    return std::is_same<S, half>::value ? HALF : std::is_same<S, bfloat16>::value ? BFLOAT16 : sizeof(S) == 4 ? FLOAT : DOUBLE;
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
template <class S, class T, class STEP> INLINE void gather_by(S *tile, const char *p, STEP stride, ptrdiff_t n, bool swapped) {
    if (swapped) for (ptrdiff_t i = 0; i < n; i++) tile[i] = Conversion<S, T>::of(fetch<T>(p + i * stride, true));
    else for (ptrdiff_t i = 0; i < n; i++) tile[i] = Conversion<S, T>::of(fetch<T>(p + i * stride, false));
}
template <class S, class T> void gather_from(S *tile, const char *p, ptrdiff_t stride, ptrdiff_t n, bool swapped) {
    const std::integral_constant<ptrdiff_t, sizeof(T)> whole;  // known strides have vectors
    if (stride == 0 && n > 0) std::fill_n(tile, n, Conversion<S, T>::of(fetch<T>(p, swapped)));  // one value a row
    else if (stride == whole && std::is_same<S, T>::value && !swapped) std::memcpy((void *)tile, p, n * sizeof(T));
    else if (stride == whole) gather_by<S, T>(tile, p, whole, n, swapped);
    else gather_by<S, T>(tile, p, stride, n, swapped);
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
// Rows of a few bytes, by pieces that overlap: a call of memcpy would cost more than the copy.
template <size_t PIECE> INLINE void copy_by(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t bytes, ptrdiff_t rows) {
    for (; rows > 0; rows--, to += to_step, from += from_step) {
        for (ptrdiff_t i = 0; i + (ptrdiff_t)PIECE <= bytes; i += PIECE) std::memcpy(to + i, from + i, PIECE);
        std::memcpy(to + bytes - PIECE, from + bytes - PIECE, PIECE);
    }
}
INLINE void copy_rows(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t bytes, ptrdiff_t rows) {
    if (bytes >= 64) copy_by<64>(to, to_step, from, from_step, bytes, rows);
    else if (bytes >= 16) copy_by<16>(to, to_step, from, from_step, bytes, rows);
    else if (bytes >= 4) copy_by<4>(to, to_step, from, from_step, bytes, rows);
    else copy_by<1>(to, to_step, from, from_step, bytes, rows);
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
    for (ptrdiff_t i = 0; i < n; i++) tile[i] = mask[i] ? tile[i] : value;
}
template <class S> INLINE double lowest(const S *) {
    return std::numeric_limits<acc<S>>::has_infinity ? -INFINITY : (double)std::numeric_limits<acc<S>>::lowest();
}

// Many short rows side by side: row r of a block becomes column r, so that lanes run across rows.  Whole squares of
// eight floats are turned in registers, and so are halves, which are floats in a column.
template <class T> INLINE T *step(T *p, ptrdiff_t bytes) { return (T *)((std::conditional_t<std::is_const<T>::value, const char, char> *)p + bytes); }
#if SOFTCORE_VECTOR >= 32
template <class Load, class Put> INLINE void turn8(Load at, Put put) {
    __m256 a0 = at(0), a1 = at(1), a2 = at(2), a3 = at(3), a4 = at(4), a5 = at(5), a6 = at(6), a7 = at(7);
    __m256 b0 = _mm256_unpacklo_ps(a0, a1), b1 = _mm256_unpackhi_ps(a0, a1), b2 = _mm256_unpacklo_ps(a2, a3), b3 = _mm256_unpackhi_ps(a2, a3);
    __m256 b4 = _mm256_unpacklo_ps(a4, a5), b5 = _mm256_unpackhi_ps(a4, a5), b6 = _mm256_unpacklo_ps(a6, a7), b7 = _mm256_unpackhi_ps(a6, a7);
    __m256 c0 = _mm256_shuffle_ps(b0, b2, 0x44), c1 = _mm256_shuffle_ps(b0, b2, 0xee), c2 = _mm256_shuffle_ps(b1, b3, 0x44), c3 = _mm256_shuffle_ps(b1, b3, 0xee);
    __m256 c4 = _mm256_shuffle_ps(b4, b6, 0x44), c5 = _mm256_shuffle_ps(b4, b6, 0xee), c6 = _mm256_shuffle_ps(b5, b7, 0x44), c7 = _mm256_shuffle_ps(b5, b7, 0xee);
    put(0, _mm256_permute2f128_ps(c0, c4, 0x20)); put(1, _mm256_permute2f128_ps(c1, c5, 0x20));
    put(2, _mm256_permute2f128_ps(c2, c6, 0x20)); put(3, _mm256_permute2f128_ps(c3, c7, 0x20));
    put(4, _mm256_permute2f128_ps(c0, c4, 0x31)); put(5, _mm256_permute2f128_ps(c1, c5, 0x31));
    put(6, _mm256_permute2f128_ps(c2, c6, 0x31)); put(7, _mm256_permute2f128_ps(c3, c7, 0x31));
}
// Eight elements as floats, and the first n < 8 of them: those that are not read are 0, and no byte past the n-th is touched.
INLINE __m256 widen8(half, __m128i h) { return _mm256_cvtph_ps(h); }
INLINE __m256 widen8(bfloat16, __m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
INLINE __m128i narrow8(half, __m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
INLINE __m128i narrow8(bfloat16, __m256 v) {
    const __m256i b = rounded_to_bfloat16(_mm256_castps_si256(v));
    return _mm_packus_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
}
INLINE __m128i first_halves(const void *p, ptrdiff_t n) {
    const char *from = (const char *)p;
    uint64_t low = 0, high = 0;
    uint32_t two = 0;
    uint16_t one = 0;
    if (n & 1) std::memcpy(&one, from + 2 * (n - 1), 2);
    if (n & 2) std::memcpy(&two, from + 2 * (n & 4), 4);
    high = (n & 2 ? (uint64_t)one << 32 : one) | two;
    if (n < 4) return _mm_set_epi64x(0, (long long)high);
    std::memcpy(&low, from, 8);
    return _mm_set_epi64x((long long)high, (long long)low);
}
template <class S> INLINE __m256 load8(const S *p) { return widen8(S(), _mm_loadu_si128((const __m128i *)p)); }
template <class S> INLINE void store8(S *p, __m256 v) { _mm_storeu_si128((__m128i *)p, narrow8(S(), v)); }
template <class S> INLINE __m256 load_few(const S *p, ptrdiff_t n) { return widen8(S(), first_halves(p, n)); }
template <class S> INLINE ptrdiff_t few(const S *, ptrdiff_t n) { return n; }  // n, as load_few wants it
INLINE __m256i few(const float *, ptrdiff_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
template <> INLINE __m256 load8<float>(const float *p) { return _mm256_loadu_ps(p); }
template <> INLINE void store8<float>(float *p, __m256 v) { _mm256_storeu_ps(p, v); }
INLINE __m256 load_few(const float *p, __m256i some) { return _mm256_maskload_ps(p, some); }
// In powers of two: masked stores take AMD's processors many times as long.
template <class S> INLINE void store_few(S *p, __m256 v, ptrdiff_t n) {
    __m128i h = narrow8(S(), v);
    if (n & 4) { _mm_storel_epi64((__m128i *)p, h); p += 4; h = _mm_unpackhi_epi64(h, h); }
    if (n & 2) { _mm_storeu_si32(p, h); p += 2; h = _mm_srli_epi64(h, 32); }
    if (n & 1) _mm_storeu_si16(p, h);
}
template <> INLINE void store_few<float>(float *p, __m256 v, ptrdiff_t n) {
    __m128 low = _mm256_castps256_ps128(v);
    if (n & 4) { _mm_storeu_ps(p, low); p += 4; low = _mm256_extractf128_ps(v, 1); }
    if (n & 2) { _mm_storel_pi((__m64 *)p, low); p += 2; low = _mm_movehl_ps(low, low); }
    if (n & 1) _mm_store_ss(p, low);
}
// The last eight elements of a row are turned together, whether or not some of them were before: a part of eight takes longer.
INLINE ptrdiff_t last_eight(ptrdiff_t j, ptrdiff_t length) { return j + 8 > length && length > 8 ? length - 8 : j; }
#endif
// Sixteen rows into a slab, whose rows are `width` floats long, and back; false where the machine or the storage has no such way.
#if SOFTCORE_VECTOR == 64
// Both squares of eight at once: each half of a register has its own.
template <class Load, class Put> INLINE void turn8_twice(Load at, Put put) {
    __m512 a[8], b[8], c[8];
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = at(i);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int from = i / 2 * 4 + i % 2;
        c[i / 2 * 4 + i % 2 * 2] = _mm512_shuffle_ps(b[from], b[from + 2], 0x44);
        c[i / 2 * 4 + i % 2 * 2 + 1] = _mm512_shuffle_ps(b[from], b[from + 2], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512d x = _mm512_castps_pd(c[i]), y = _mm512_castps_pd(c[i + 4]);
        put(i, _mm512_castpd_ps(_mm512_permutex2var_pd(x, low, y)));
        put(i + 4, _mm512_castpd_ps(_mm512_permutex2var_pd(x, high, y)));
    }
}
// Addresses are made one from the other: sixteen that are known beforehand find no registers.
template <class S> INLINE bool turn_in(float *slab, ptrdiff_t width, const S *x, ptrdiff_t stride, ptrdiff_t length) {
    for (ptrdiff_t i = 0; i < length; i += 8) {
        const ptrdiff_t j = last_eight(i, length);
        const S *p = x + j;
        float *q = slab + j * width;
        const auto turn = [&](auto eight) TERM {
            turn8_twice([&](int) TERM {
                const __m512 v = _mm512_insertf32x8(_mm512_castps256_ps512(eight(p)), eight(step(p, 8 * stride)), 1);
                p = step(p, stride);
                return v;
            }, [=](int i, __m512 v) TERM { _mm512_storeu_ps(q + i * width, v); });
        };
        if (length - j >= 8) turn([](const S *p) TERM { return load8<S>(p); });
        else turn([some = few(x, length - j)](const S *p) TERM { return load_few(p, some); });
    }
    return true;
}
template <class S> INLINE bool turn_out(S *y, ptrdiff_t stride, const float *slab, ptrdiff_t width, ptrdiff_t length) {
    for (ptrdiff_t i = 0; i < length; i += 8) {
        const ptrdiff_t j = last_eight(i, length);
        S *p = y + j;
        const float *q = slab + j * width;
        const auto turn = [&](auto eight) TERM {
            turn8_twice([&](int) TERM {
                const __m512 v = _mm512_loadu_ps(q);
                q += width;
                return v;
            }, [=](int i, __m512 v) TERM {
                eight(step(p, i * stride), _mm512_castps512_ps256(v));
                eight(step(p, (i + 8) * stride), _mm512_extractf32x8_ps(v, 1));
            });
        };
        if (length - j >= 8) turn([](S *p, __m256 v) TERM { store8<S>(p, v); });
        else turn([=](S *p, __m256 v) TERM { store_few<S>(p, v, length - j); });
    }
    return true;
}
#elif SOFTCORE_VECTOR == 32
template <class S> INLINE bool turn_in(float *slab, ptrdiff_t width, const S *x, ptrdiff_t stride, ptrdiff_t length) {
    for (ptrdiff_t i = 0; i < length; i += 8)
        for (int half = 0; half < 2; half++) {
            const ptrdiff_t j = last_eight(i, length);
            const S *p = step(x + j, half * 8 * stride);
            float *q = slab + j * width + half * 8;
            const auto put = [=](int i, __m256 v) TERM { _mm256_storeu_ps(q + i * width, v); };
            if (length - j >= 8) turn8([=](int i) TERM { return load8<S>(step(p, i * stride)); }, put);
            else turn8([=, some = few(x, length - j)](int i) TERM { return load_few(step(p, i * stride), some); }, put);
        }
    return true;
}
template <class S> INLINE bool turn_out(S *y, ptrdiff_t stride, const float *slab, ptrdiff_t width, ptrdiff_t length) {
    for (ptrdiff_t i = 0; i < length; i += 8)
        for (int half = 0; half < 2; half++) {
            const ptrdiff_t j = last_eight(i, length);
            S *p = step(y + j, half * 8 * stride);
            const float *q = slab + j * width + half * 8;
            const auto at = [=](int i) TERM { return _mm256_loadu_ps(q + i * width); };
            if (length - j >= 8) turn8(at, [=](int i, __m256 v) TERM { store8<S>(step(p, i * stride), v); });
            else turn8(at, [=](int i, __m256 v) TERM { store_few<S>(step(p, i * stride), v, length - j); });
        }
    return true;
}
#else
template <class S> INLINE bool turn_in(float *, ptrdiff_t, const S *, ptrdiff_t, ptrdiff_t) { return false; }
template <class S> INLINE bool turn_out(S *, ptrdiff_t, const float *, ptrdiff_t, ptrdiff_t) { return false; }
#endif
template <class S> INLINE bool turn_in(double *, ptrdiff_t, const S *, ptrdiff_t, ptrdiff_t) { return false; }
template <class S> INLINE bool turn_out(S *, ptrdiff_t, const double *, ptrdiff_t, ptrdiff_t) { return false; }
// The slab has room for eight elements of each row, or more.
template <class S> void to_columns(acc<S> *slab, ptrdiff_t width, const S *x, ptrdiff_t stride, ptrdiff_t length, ptrdiff_t rows) {
    const ptrdiff_t L = lanes<S>();
    for (ptrdiff_t g = 0; g < rows; g += L) {
        const S *p = (const S *)((const char *)x + g * stride);
        if (rows - g >= L && turn_in<S>(slab + g, width, p, stride, length)) continue;
        for (ptrdiff_t r = 0; r < L; r++, p = (const S *)((const char *)p + stride))
            for (ptrdiff_t j = 0; j < length; j++) slab[j * width + g + r] = g + r < rows ? widen<S>(p[j]) : 0;
    }
}
template <class S> void from_columns(S *y, ptrdiff_t stride, const acc<S> *slab, ptrdiff_t width, ptrdiff_t length, ptrdiff_t rows) {
    const ptrdiff_t L = lanes<S>();
    const bool flat = length == 1 && stride == (ptrdiff_t)sizeof(S);
    for (ptrdiff_t g = 0; g < rows; g += L) {
        S *p = (S *)((char *)y + g * stride);
        if (flat) {
            store_some<S>(p, load<acc<S>>(slab + g), rows - g);
            continue;
        }
        if (length > 1 && rows - g >= L && turn_out<S>(p, stride, slab + g, width, length)) continue;
        for (ptrdiff_t r = g; r < rows && r < g + L; r++, p = (S *)((char *)p + stride))
            for (ptrdiff_t j = 0; j < length; j++) p[j] = narrow<S>(slab[j * width + r]);
    }
}
// The same of rows that lie side by side, an element of each and then, `stride` bytes on, the next: nothing is turned.
template <class S> void take_columns(acc<S> *slab, ptrdiff_t width, const S *x, ptrdiff_t stride, ptrdiff_t length, ptrdiff_t rows, bool ahead) {
    for (ptrdiff_t j = 0; j < length; j++, x = (const S *)((const char *)x + stride)) {
        if (ahead) prefetch_bytes((const char *)(x + rows), rows * sizeof(S));  // of the next rows
        for (ptrdiff_t g = 0; g < rows; g += lanes<S>()) store<acc<S>>(slab + j * width + g, load_some<S>(x + g, rows - g, 0));
    }
}
template <class S> void put_columns(S *y, ptrdiff_t stride, const acc<S> *slab, ptrdiff_t width, ptrdiff_t length, ptrdiff_t rows) {
    for (ptrdiff_t j = 0; j < length; j++, y = (S *)((char *)y + stride))
        for (ptrdiff_t g = 0; g < rows; g += lanes<S>()) store_some<S>(y + g, load<acc<S>>(slab + j * width + g), rows - g);
}

}  // namespace
}  // namespace softcore
