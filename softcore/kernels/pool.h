// pool.h: windows along rows and across channels, in lanes.
//
// Tap t of output o reads column o * stride - before + t * dilation of an input row.  A walk over rows packs what a block of
// outputs reads, so that each tap of neighbouring outputs lies side by side whatever the stride: reductions then see lanes.
// Where the channels are neighbours in memory, lanes run across those and nothing is packed.
#pragma once
#include "elementwise.h"

namespace softcore {
namespace {

enum Pooling { POOL_MAX, POOL_MAX_INDEX, POOL_MEAN, POOL_SOFT };

// What pooling computes in: integers of up to 32 bits are ints here, longer ones long longs.
template <class S> struct is_integer { static constexpr bool value = std::is_integral<acc<S>>::value; };
template <class S> INLINE acc<S> least() { return std::numeric_limits<acc<S>>::has_infinity ? -std::numeric_limits<acc<S>>::infinity() : std::numeric_limits<acc<S>>::min(); }

struct Windows { ptrdiff_t size, count, window, stride, dilation, before, after; };
INLINE ptrdiff_t start_of(const Windows *w, ptrdiff_t o) { return o * w->stride - w->before; }
// The elements of window o, without dilation, that lie in the input, from the first to one past the last.
INLINE ptrdiff_t first_within(const Windows *w, ptrdiff_t o) { return std::max<ptrdiff_t>(0, start_of(w, o)); }
INLINE ptrdiff_t end_within(const Windows *w, ptrdiff_t o) { return std::min(w->size, start_of(w, o) + w->window); }
// The taps of window o that lie in the input, from the first to one past the last.
INLINE ptrdiff_t first_tap(const Windows *w, ptrdiff_t o) {
    const ptrdiff_t s = start_of(w, o);
    return s < 0 ? (w->dilation - 1 - s) / w->dilation : 0;
}
INLINE ptrdiff_t end_tap(const Windows *w, ptrdiff_t o) {
    if (start_of(w, o) + (w->window - 1) * w->dilation < w->size) return w->window;
    return std::min(w->window, (w->size - start_of(w, o) + w->dilation - 1) / w->dilation);
}
// How many taps a mean counts: those in the input, or in it and the padding around it.
INLINE ptrdiff_t counted_taps(const Windows *w, ptrdiff_t o, bool padding) {
    const ptrdiff_t s = start_of(w, o);
    if ((padding || s >= 0) && s + (w->window - 1) * w->dilation < w->size + (padding ? w->after : 0)) return w->window;
    if (!padding) return end_tap(w, o) - first_tap(w, o);
    return std::min(w->window, (w->size + w->after - s + w->dilation - 1) / w->dilation);
}
// The windows that element i may lie in: from the first to one past the last.
INLINE ptrdiff_t first_window(const Windows *w, ptrdiff_t i) {
    const ptrdiff_t reach = i + w->before - (w->window - 1) * w->dilation;
    return reach <= 0 ? 0 : (reach + w->stride - 1) / w->stride;
}
INLINE ptrdiff_t end_window(const Windows *w, ptrdiff_t i) { return std::min(w->count, (i + w->before) / w->stride + 1); }

// Whether n places, which follow each other in memory, are those of a plane.
inline bool places_inside(const char *places, ptrdiff_t n, int64_t plane) {
    const int64_t *place = (const int64_t *)places;
    constexpr ptrdiff_t L = lanes<double>();
    Mask<double> last, wrong[2] = {whole<double>(0), whole<double>(0)};  // negative where one is not
    spread(plane - 1, &last);
    ptrdiff_t j = 0;
    for (; j + 2 * L <= n; j += 2 * L)
        for (int i = 0; i < 2; i++) {
            const Mask<double> at = load<int64_t>(place + j + i * L);
            wrong[i] = wrong[i] | at | (last - at);
        }
    bool inside = !any(whole<double>(0) > (wrong[0] | wrong[1]));
    for (; j < n; j++) inside = inside & (place[j] >= 0) & (place[j] < plane);
    return inside;
}

// ---------------------------------------------------------------- packed rows

enum { OUTPUTS = 256, TAPS = 32, APART = 16 };  // outputs of a row, and taps, that are packed at once; how far a slot serves more than one tap
static constexpr ptrdiff_t SLOT = OUTPUTS + APART + 64;

template <class S> INLINE ptrdiff_t round_up(ptrdiff_t n) { return (n + lanes<S>() - 1) / lanes<S>() * lanes<S>(); }

// The columns that a stretch of taps of a block of outputs reads.  A slot holds every stride-th column from its first one on.
template <class S> struct Packed {
    acc<S> *room;
    ptrdiff_t first_output, outputs, first, taps, slots;
    ptrdiff_t column[TAPS], length[TAPS];  // of each slot
    const acc<S> *at[TAPS];                // at[t][o] is what tap first + t of the block's output o reads
};
template <class S> void plan_taps(const S *, Packed<S> *p, const Windows *w, ptrdiff_t output, ptrdiff_t outputs, ptrdiff_t first) {
    const ptrdiff_t rounded = round_up<S>(outputs);
    p->first_output = output, p->outputs = outputs, p->first = first, p->slots = 0;
    p->taps = std::min<ptrdiff_t>(TAPS, w->window - first);
    for (ptrdiff_t t = 0; t < p->taps; t++) {
        const ptrdiff_t column = start_of(w, output) + (first + t) * w->dilation;
        ptrdiff_t s = 0;
        while (s < p->slots && ((column - p->column[s]) % w->stride || (column - p->column[s]) / w->stride > APART)) s++;
        if (s == p->slots) p->column[p->slots++] = column;
        const ptrdiff_t shift = (column - p->column[s]) / w->stride;
        p->length[s] = rounded + shift;
        p->at[t] = p->room + s * SLOT + shift;
    }
}

// Every other lane of two vectors: the first of each pair, and the second.
#if SOFTCORE_VECTOR == 64
INLINE Pack<float, 1> evens(Pack<float, 1> a, Pack<float, 1> b) {
    return {(vec<float>)_mm512_permutex2var_ps((__m512)a.v, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), (__m512)b.v)};
}
INLINE Pack<float, 1> odds(Pack<float, 1> a, Pack<float, 1> b) {
    return {(vec<float>)_mm512_permutex2var_ps((__m512)a.v, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), (__m512)b.v)};
}
INLINE Pack<double, 1> evens(Pack<double, 1> a, Pack<double, 1> b) {
    return {(vec<double>)_mm512_permutex2var_pd((__m512d)a.v, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), (__m512d)b.v)};
}
INLINE Pack<double, 1> odds(Pack<double, 1> a, Pack<double, 1> b) {
    return {(vec<double>)_mm512_permutex2var_pd((__m512d)a.v, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), (__m512d)b.v)};
}
#elif SOFTCORE_VECTOR == 32
template <int HALF> INLINE vec<float> every_second(Pack<float, 1> a, Pack<float, 1> b) {
    return (vec<float>)_mm256_permute4x64_pd((__m256d)_mm256_shuffle_ps((__m256)a.v, (__m256)b.v, HALF ? 0xdd : 0x88), 0xd8);
}
INLINE Pack<float, 1> evens(Pack<float, 1> a, Pack<float, 1> b) { return {every_second<0>(a, b)}; }
INLINE Pack<float, 1> odds(Pack<float, 1> a, Pack<float, 1> b) { return {every_second<1>(a, b)}; }
INLINE Pack<double, 1> evens(Pack<double, 1> a, Pack<double, 1> b) {
    return {(vec<double>)_mm256_permute4x64_pd(_mm256_unpacklo_pd((__m256d)a.v, (__m256d)b.v), 0xd8)};
}
INLINE Pack<double, 1> odds(Pack<double, 1> a, Pack<double, 1> b) {
    return {(vec<double>)_mm256_permute4x64_pd(_mm256_unpackhi_pd((__m256d)a.v, (__m256d)b.v), 0xd8)};
}
#else
INLINE Pack<float, 1> evens(Pack<float, 1> a, Pack<float, 1> b) { return {vec<float>{a.v[0], a.v[2], b.v[0], b.v[2]}}; }
INLINE Pack<float, 1> odds(Pack<float, 1> a, Pack<float, 1> b) { return {vec<float>{a.v[1], a.v[3], b.v[1], b.v[3]}}; }
INLINE Pack<double, 1> evens(Pack<double, 1> a, Pack<double, 1> b) { return {vec<double>{a.v[0], b.v[0]}}; }
INLINE Pack<double, 1> odds(Pack<double, 1> a, Pack<double, 1> b) { return {vec<double>{a.v[1], b.v[1]}}; }
#endif
template <class A, int N> INLINE Pack<A, N> evens(Pack<A, N> a, Pack<A, N> b) { return {evens(a.lo, a.hi), evens(b.lo, b.hi)}; }
template <class A, int N> INLINE Pack<A, N> odds(Pack<A, N> a, Pack<A, N> b) { return {odds(a.lo, a.hi), odds(b.lo, b.hi)}; }

// Lanes one after the other: a0 b0 a1 b1 ...
#if SOFTCORE_VECTOR == 64
INLINE Pack<float, 2> alternate(Pack<float, 1> a, Pack<float, 1> b) {
    return {{(vec<float>)_mm512_permutex2var_ps((__m512)a.v, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), (__m512)b.v)},
            {(vec<float>)_mm512_permutex2var_ps((__m512)a.v, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), (__m512)b.v)}};
}
INLINE Pack<double, 2> alternate(Pack<double, 1> a, Pack<double, 1> b) {
    return {{(vec<double>)_mm512_permutex2var_pd((__m512d)a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), (__m512d)b.v)},
            {(vec<double>)_mm512_permutex2var_pd((__m512d)a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), (__m512d)b.v)}};
}
#elif SOFTCORE_VECTOR == 32
INLINE Pack<float, 2> alternate(Pack<float, 1> a, Pack<float, 1> b) {
    const __m256 low = _mm256_unpacklo_ps((__m256)a.v, (__m256)b.v), high = _mm256_unpackhi_ps((__m256)a.v, (__m256)b.v);
    return {{(vec<float>)_mm256_permute2f128_ps(low, high, 0x20)}, {(vec<float>)_mm256_permute2f128_ps(low, high, 0x31)}};
}
INLINE Pack<double, 2> alternate(Pack<double, 1> a, Pack<double, 1> b) {
    const __m256d low = _mm256_unpacklo_pd((__m256d)a.v, (__m256d)b.v), high = _mm256_unpackhi_pd((__m256d)a.v, (__m256d)b.v);
    return {{(vec<double>)_mm256_permute2f128_pd(low, high, 0x20)}, {(vec<double>)_mm256_permute2f128_pd(low, high, 0x31)}};
}
#else
INLINE Pack<float, 2> alternate(Pack<float, 1> a, Pack<float, 1> b) {
    return {{vec<float>{a.v[0], b.v[0], a.v[1], b.v[1]}}, {vec<float>{a.v[2], b.v[2], a.v[3], b.v[3]}}};
}
INLINE Pack<double, 2> alternate(Pack<double, 1> a, Pack<double, 1> b) { return {{vec<double>{a.v[0], b.v[0]}}, {vec<double>{a.v[1], b.v[1]}}}; }
#endif
template <class A, int N> INLINE Pack<A, 2 * N> alternate(Pack<A, N> a, Pack<A, N> b) { return {alternate(a.lo, b.lo), alternate(a.hi, b.hi)}; }

// to[j] = p[2 j]; reads nothing past the last of them.
template <class S> INLINE void every_other(acc<S> *to, const S *p, ptrdiff_t n, std::true_type) {
    const ptrdiff_t L = lanes<S>();
    ptrdiff_t j = 0;
    for (; j + L < n; j += L) store<acc<S>>(to + j, evens(load<S>(p + 2 * j), load<S>(p + 2 * j + L)));
    for (; j < n; j++) to[j] = widen<S>(p[2 * j]);
}
template <class S> INLINE void every_other(acc<S> *to, const S *p, ptrdiff_t n, std::false_type) {
    for (ptrdiff_t j = 0; j < n; j++) to[j] = widen<S>(p[2 * j]);
}
template <class S> INLINE void every(acc<S> *to, const S *p, ptrdiff_t n) {
    const ptrdiff_t L = lanes<S>();
    ptrdiff_t j = 0;
    for (; j + L <= n; j += L) store<acc<S>>(to + j, load<S>(p + j));
    for (; j < n; j++) to[j] = widen<S>(p[j]);
}
// Unsigned 64-bit integers are compared as signed ones, half the range lower.
template <class A> INLINE void shift_range(A *v, ptrdiff_t n, int code) {
    if ((code & ~SWAPPED) == UINT64) for (ptrdiff_t j = 0; j < n; j++) v[j] = (A)((uint64_t)v[j] ^ (uint64_t)1 << 63);
}
template <class A> INLINE void shift_range_of(A *, ptrdiff_t, int, std::false_type) {}
template <class A> INLINE void shift_range_of(A *v, ptrdiff_t n, int code, std::true_type) { shift_range(v, n, code); }

// n elements from column c on, stride columns apart; outside the row they are `fill`.
template <class S> void pack_columns(acc<S> *to, const Windows *w, ptrdiff_t c, ptrdiff_t n, const char *row, ptrdiff_t step, int code, acc<S> fill) {
    typedef acc<S> A;
    ptrdiff_t low = c < 0 ? std::min(n, (w->stride - 1 - c) / w->stride) : 0;
    ptrdiff_t high = std::max(low, std::min(n, (w->size - c + w->stride - 1) / w->stride));
    for (ptrdiff_t j = 0; j < low; j++) to[j] = fill;
    for (ptrdiff_t j = high; j < n; j++) to[j] = fill;
    const char *p = row + (c + low * w->stride) * step;
    to += low, n = high - low;
    if (!is_integer<S>::value && code == code_of_storage((const S *)nullptr) && step == (ptrdiff_t)sizeof(S) && w->stride <= 2 && (uintptr_t)p % sizeof(S) == 0) {
        if (w->stride == 1) every<S>(to, (const S *)p, n);
        else every_other<S>(to, (const S *)p, n, std::integral_constant<bool, !is_integer<S>::value>());
        return;
    }
    gather<A>(to, p, w->stride * step, n, code);
    shift_range_of(to, n, code, std::integral_constant<bool, sizeof(A) == 8 && is_integer<S>::value>());
}
// `lowest` fills with what no maximum is below, otherwise with 0.
template <class S> INLINE void pack_row(const S *, const Packed<S> *p, const Windows *w, const char *row, ptrdiff_t step, int code, bool lowest) {
    for (ptrdiff_t s = 0; s < p->slots; s++)
        pack_columns<S>(p->room + s * SLOT, w, p->column[s], p->length[s], row, step, code, lowest ? least<S>() : acc<S>(0));
}
template <class S> INLINE bool has_nan(const Packed<S> *p) {
    if (is_integer<S>::value) return false;
    Mask<S> seen = whole<S>(0);
    for (ptrdiff_t s = 0; s < p->slots; s++)
        for (ptrdiff_t j = 0; j < p->length[s]; j += lanes<S>()) {
            const Lanes<S> x = load<acc<S>>(p->room + s * SLOT + j);
            seen = seen | (x != x);
        }
    return any(seen);
}

// ---------------------------------------------------------------- the reduction of a row

// What the windows of a block come to: a maximum, and how far from the window's start its place is; or a sum in one or two doubles.
template <class S> struct Partial {
    acc<S> *m;
    bits_t<acc<S>> *place;
    double *high, *low;
    bool nan;  // one of the maxima may be NaN
};
enum { PARTIAL_BYTES = 16 * (OUTPUTS + 16) };
template <class S> INLINE Partial<S> partial_at(const S *, char *room) {
    char *second = room + PARTIAL_BYTES / 2;
    return {(acc<S> *)room, (bits_t<acc<S>> *)second, (double *)room, (double *)second, false};
}

template <class S, bool NANS> INLINE Mask<S> beats(Lanes<S> x, Lanes<S> m) {  // an equal does not, nor does a second NaN
    const Mask<S> over = x > m;
    return NANS ? over | ((x != x) & (m == m)) : over;
}
template <class S, bool INDEX, bool NANS> INLINE void max_of_taps(const Partial<S> *r, const Packed<S> *p, ptrdiff_t dilation) {
    typedef bits_t<acc<S>> I;
    const ptrdiff_t L = lanes<S>();
    for (ptrdiff_t j = 0; j < p->outputs; j += L) {
        Lanes<S> m = load<acc<S>>(r->m + j);
        Mask<S> place = INDEX ? load<I>(r->place + j) : whole<S>(0);
        for (ptrdiff_t t = 0; t < p->taps; t++) {
            const Lanes<S> x = load<acc<S>>(p->at[t] + j);
            if (!INDEX && !NANS) {
                m = greater(x, m);
                continue;
            }
            const Mask<S> better = beats<S, NANS>(x, m);
            m = select(better, x, m);
            if (INDEX) place = select(better, whole<S>((I)((p->first + t) * dilation)), place);
        }
        store<acc<S>>(r->m + j, m);
        if (INDEX) store<I>(r->place + j, place);
    }
}
// The place starts at the first tap in the input: there a window that holds nothing but -inf has its maximum.
template <class S> void begin_max(const S *, Partial<S> *r, const Windows *w, const Packed<S> *p, bool index) {
    const ptrdiff_t n = round_up<S>(p->outputs);
    r->nan = false;
    for (ptrdiff_t j = 0; j < n; j++) r->m[j] = least<S>();
    if (!index) return;
    for (ptrdiff_t j = 0; j < n; j++) r->place[j] = 0;
    for (ptrdiff_t j = 0; j < p->outputs && start_of(w, p->first_output + j) < 0; j++)
        r->place[j] = (bits_t<acc<S>>)(first_tap(w, p->first_output + j) * w->dilation);
}
template <class S> void add_max(const S *, Partial<S> *r, const Windows *w, const Packed<S> *p, bool index) {
    r->nan = r->nan | has_nan(p);
    if (index) {
        if (r->nan) max_of_taps<S, true, true>(r, p, w->dilation); else max_of_taps<S, true, false>(r, p, w->dilation);
    } else {
        if (r->nan) max_of_taps<S, false, true>(r, p, w->dilation); else max_of_taps<S, false, false>(r, p, w->dilation);
    }
}
template <class S> INLINE Sum<Doubles<S>> load_sum(const double *high, const double *low, ptrdiff_t j) {
    Sum<Doubles<S>> s = {constant<Doubles<S>>(0), constant<Doubles<S>>(0)};
    load_pack(high + j, &s.high);
    if (sizeof(acc<S>) == 8) load_pack(low + j, &s.low);
    return s;
}
template <class S> INLINE void store_sum(double *high, double *low, ptrdiff_t j, Sum<Doubles<S>> s) {
    store_pack(high + j, s.high);
    if (sizeof(acc<S>) == 8) store_pack(low + j, s.low);
}
template <class S, class D> INLINE D total_of(Sum<D> s) {  // the second is NaN where the first is infinite
    return sizeof(acc<S>) == 4 ? s.high : s.high + select(s.low == s.low, s.low, constant<D>(0));
}
template <class S> INLINE Sum<Doubles<S>> no_sum() { return {constant<Doubles<S>>(0), constant<Doubles<S>>(0)}; }

template <class S> void begin_sum(const S *, Partial<S> *r, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) store_sum<S>(r->high, r->low, j, no_sum<S>());
}
template <class S> void add_sum(const S *, Partial<S> *r, const Packed<S> *p) {
    for (ptrdiff_t j = 0; j < p->outputs; j += lanes<S>()) {
        Sum<Doubles<S>> s = load_sum<S>(r->high, r->low, j);
        for (ptrdiff_t t = 0; t < p->taps; t++) add<S>(&s, doubles<S>(load<acc<S>>(p->at[t] + j)));
        store_sum<S>(r->high, r->low, j, s);
    }
}

// A row of the window joins those above it; `offset` is how far its start is from the window's.
template <class S, bool INDEX, bool NANS> INLINE void join_max_by(const Partial<S> *to, const Partial<S> *row, ptrdiff_t n, ptrdiff_t offset) {
    typedef bits_t<acc<S>> I;
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        const Lanes<S> x = load<acc<S>>(row->m + j), m = load<acc<S>>(to->m + j);
        if (!INDEX && !NANS) {
            store<acc<S>>(to->m + j, greater(x, m));
            continue;
        }
        const Mask<S> better = beats<S, NANS>(x, m);
        store<acc<S>>(to->m + j, select(better, x, m));
        if (INDEX) store<I>(to->place + j, select(better, load<I>(row->place + j) + whole<S>((I)offset), load<I>(to->place + j)));
    }
}
template <class S> void join_max(const S *, Partial<S> *to, const Partial<S> *row, ptrdiff_t n, ptrdiff_t offset, bool first, bool index) {
    typedef bits_t<acc<S>> I;
    if (first) {
        to->nan = row->nan;
        for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
            store<acc<S>>(to->m + j, load<acc<S>>(row->m + j));
            if (index) store<I>(to->place + j, load<I>(row->place + j) + whole<S>((I)offset));
        }
        return;
    }
    to->nan = to->nan | row->nan;
    if (index) {
        if (to->nan) join_max_by<S, true, true>(to, row, n, offset); else join_max_by<S, true, false>(to, row, n, offset);
    } else {
        if (to->nan) join_max_by<S, false, true>(to, row, n, offset); else join_max_by<S, false, false>(to, row, n, offset);
    }
}
template <class S> INLINE void add_sums(Sum<Doubles<S>> *to, const Sum<Doubles<S>> &x) {
    add<S>(to, x.high);
    if (sizeof(acc<S>) == 8) to->low = to->low + x.low;
}
template <class S> void join_sum(const S *, Partial<S> *to, const Partial<S> *row, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        Sum<Doubles<S>> s = load_sum<S>(to->high, to->low, j);
        add_sums<S>(&s, load_sum<S>(row->high, row->low, j));
        store_sum<S>(to->high, to->low, j, s);
    }
}

// ---------------------------------------------------------------- what is written

template <class T, class A> INLINE void put_as(char *p, ptrdiff_t step, const A *v, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) {
        const T value = (T)v[j];
        std::memcpy(p + j * step, &value, sizeof value);
    }
}
// n accumulators to elements of dtype `code`, which for floats is the storage's.
template <class S> void put_row(const S *, char *p, ptrdiff_t step, const acc<S> *v, ptrdiff_t n, int code) {
    if (is_integer<S>::value) {
        switch (code) {
        case BOOL: case INT8: case UINT8: return put_as<uint8_t>(p, step, v, n);
        case INT16: case UINT16: return put_as<uint16_t>(p, step, v, n);
        case INT32: case UINT32: return put_as<uint32_t>(p, step, v, n);
        case INT64: return put_as<int64_t>(p, step, v, n);
        default:
            for (ptrdiff_t j = 0; j < n; j++) {
                const uint64_t value = (uint64_t)v[j] ^ (uint64_t)1 << 63;
                std::memcpy(p + j * step, &value, sizeof value);
            }
            return;
        }
    }
    if (step == (ptrdiff_t)sizeof(S)) {
        for (ptrdiff_t j = 0; j < n; j += lanes<S>()) store_some<S>((S *)p + j, load<acc<S>>(v + j), n - j);
        return;
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        const S value = narrow<S>(v[j]);
        std::memcpy(p + j * step, &value, sizeof value);
    }
}
// The flat index of each maximum: windows start at `start` and every `stride` from there.
template <class S> void put_places(const S *, char *p, ptrdiff_t step, const Partial<S> *r, ptrdiff_t n, ptrdiff_t start, ptrdiff_t stride) {
    const bits_t<acc<S>> *place = r->place;
    if (step == 8) {
        int64_t *to = (int64_t *)p;
        for (ptrdiff_t j = 0; j < n; j++) to[j] = start + j * stride + place[j];
        return;
    }
    for (ptrdiff_t j = 0; j < n; j++) put_index(p + j * step, start + j * stride + place[j]);
}
template <class S> INLINE Lanes<S> mean_of(Sum<Doubles<S>> s, Doubles<S> count) {
    return lanes_of<S>(sizeof(acc<S>) == 4 ? s.high * count : total_of<S>(s) / count);
}
// Means of sums.  `count` has what to multiply floats by, and what to divide doubles by; true if one of the doubles is not finite.
template <class S> bool put_means(const S *, char *p, ptrdiff_t step, const Partial<S> *r, const double *count, ptrdiff_t n) {
    acc<S> v[64];
    bool wrong = false;
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        Doubles<S> c;
        load_pack(count + j, &c);
        const Lanes<S> y = mean_of<S>(load_sum<S>(r->high, r->low, j), c);
        if (sizeof(acc<S>) == 8) wrong = wrong | any((y - y) != constant<Lanes<S>>(0));
        if (step == (ptrdiff_t)sizeof(S)) {
            store_some<S>((S *)p + j, y, n - j);
            continue;
        }
        store<acc<S>>(v, y);
        put_row<S>((const S *)nullptr, p + j * step, step, v, std::min(n - j, lanes<S>()), 0);
    }
    return wrong;
}

// ---------------------------------------------------------------- soft windows

// exp(x - m), where what x - m loses is not lost.
template <class S> INLINE Lanes<S> share_of(Lanes<S> x, Lanes<S> m) {
    typedef Lanes<S> P;
    P error, zero = constant<P>(0), t = two_sum(x, zero - m, &error);
    return exp(t, select(t > constant<P>(Exp<acc<S>>::lowest * LN2), error, zero));
}
// A vector of windows, or of elements of one, joins the sums of exponentials and of their products with x, in doubles; m has the maxima.
// For a gradient, BELOW, the products are with what x lies below the maximum: of huge elements that is small, and their difference from
// the mean too.
template <class S, bool BELOW> INLINE void add_share(Sum<Doubles<S>> *mass, Sum<Doubles<S>> *moment, Lanes<S> x, Lanes<S> m) {
    typedef Doubles<S> D;
    const D e = doubles<S>(share_of<S>(x, m));
    add<S>(mass, e);
    add<S>(moment, select(e == constant<D>(0), e, e * (BELOW ? doubles<S>(x) - doubles<S>(m) : doubles<S>(x))));
}
template <class S, bool BELOW> __attribute__((noinline)) void add_soft_by_way(const Partial<S> *r, Partial<S> *mass, Partial<S> *moment, const Packed<S> *p) {
    for (ptrdiff_t j = 0; j < p->outputs; j += lanes<S>()) {
        const Lanes<S> m = load<acc<S>>(r->m + j);
        Sum<Doubles<S>> s = load_sum<S>(mass->high, mass->low, j), t = load_sum<S>(moment->high, moment->low, j);
        for (ptrdiff_t i = 0; i < p->taps; i++) add_share<S, BELOW>(&s, &t, load<acc<S>>(p->at[i] + j), m);
        store_sum<S>(mass->high, mass->low, j, s);
        store_sum<S>(moment->high, moment->low, j, t);
    }
}
template <class S> INLINE void add_soft(const S *, const Partial<S> *r, Partial<S> *mass, Partial<S> *moment, const Packed<S> *p, bool below) {
    if (below) add_soft_by_way<S, true>(r, mass, moment, p); else add_soft_by_way<S, false>(r, mass, moment, p);
}
// mean = moment / mass, in doubles; and mass as one double.
template <class S> void soft_means(const S *, const Partial<S> *mass, const Partial<S> *moment, double *mean, double *total, ptrdiff_t n) {
    typedef Doubles<S> D;
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        const D l = total_of<S>(load_sum<S>(mass->high, mass->low, j)), t = total_of<S>(load_sum<S>(moment->high, moment->low, j));
        store_pack(mean + j, t / l);
        store_pack(total + j, l);
    }
}
template <class S> void put_doubles(const S *, char *p, ptrdiff_t step, const double *v, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) put_one((const S *)nullptr, p + j * step, (acc<S>)v[j]);
}
// The gradient of elements of windows: share * dy (1 + x - y), with x and the mean y as they lie below the maximum; `slope` is dy over the mass.
template <class S> INLINE Doubles<S> soft_slope(Lanes<S> x, Lanes<S> top, Doubles<S> y, Doubles<S> slope) {
    typedef Doubles<S> D;
    const D e = doubles<S>(share_of<S>(x, top)), none = select(y == y, e, y);  // where there are shares, but none for x
    return select(e == constant<D>(0), none, e * slope * (constant<D>(1) + ((doubles<S>(x) - doubles<S>(top)) - y)));
}
// Of tap t of each window.
template <class S> void soft_gradient(const S *, double *to, const Packed<S> *p, ptrdiff_t t, const acc<S> *m, const double *mean, const double *slope) {
    for (ptrdiff_t j = 0; j < p->outputs; j += lanes<S>()) {
        Doubles<S> y, s;
        load_pack(mean + j, &y);
        load_pack(slope + j, &s);
        store_pack(to + j, soft_slope<S>(load<acc<S>>(p->at[t] + j), load<acc<S>>(m + j), y, s));
    }
}

// ---------------------------------------------------------------- gradients: what comes from windows to a row of the input

// to[j] += v[j] in one or two doubles; `step` apart.
template <class S> INLINE void add_number(double *high, double *low, double v) {
    Sum<double> s = {*high, sizeof(acc<S>) == 8 ? *low : 0};
    add<S>(&s, v);
    *high = s.high;
    if (sizeof(acc<S>) == 8) *low = s.low;
}
template <class S> void add_strided(const S *, double *high, double *low, ptrdiff_t step, const double *v, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) add_number<S>(high + j * step, low + j * step, v[j]);
}
template <class S> void add_to_each(const S *, double *high, double *low, ptrdiff_t step, double v, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) add_number<S>(high + j * step, low + j * step, v);
}
// Sums as elements of S.
template <class S> void put_sums(const S *, char *p, ptrdiff_t step, const double *high, const double *low, ptrdiff_t n, bool past) {
    ptrdiff_t j = 0;
    if (step == (ptrdiff_t)sizeof(S)) {
        ptrdiff_t head = past ? to_alignment((const S *)p) : -1;
        if (head >= 0) {
            for (; j < std::min(head, n); j++) put_one((const S *)nullptr, p + j * step, (acc<S>)total_of<S>(Sum<double>{high[j], low[j]}));
        }
        for (; j + lanes<S>() <= n; j += lanes<S>()) {
            const Lanes<S> v = lanes_of<S>(total_of<S>(load_sum<S>(high, low, j)));
            put<S>((S *)p + j, v, head >= 0);
        }
    }
    for (; j < n; j++) put_one((const S *)nullptr, p + j * step, (acc<S>)total_of<S>(Sum<double>{high[j], low[j]}));
}

// sums[j] += dy[j] over the number of elements of its window: `count` has what to multiply floats by, and what to divide doubles by.
template <class S> void add_slopes(const S *, double *high, double *low, const char *dy, ptrdiff_t step, int code, const double *count, ptrdiff_t n) {
    acc<S> v[OUTPUTS + 16];
    const ptrdiff_t rounded = round_up<S>(n);
    for (ptrdiff_t j = n; j < rounded; j++) v[j] = 0;
    if (code == code_of_storage((const S *)nullptr) && step == (ptrdiff_t)sizeof(S)) every<S>(v, (const S *)dy, n);
    else gather<acc<S>>(v, dy, step, n, code);
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        Sum<Doubles<S>> s = load_sum<S>(high, low, j);
        Doubles<S> c;
        load_pack(count + j, &c);
        const Doubles<S> x = doubles<S>(load<acc<S>>(v + j));
        add<S>(&s, sizeof(acc<S>) == 4 ? x * c : x / c);
        store_sum<S>(high, low, j, s);
    }
}

// The gradient of means whose windows share no element, columns from to to of a row.  Windows and what lies between them are painted from
// left to right, a vector at a time, so what is painted beyond an end is painted over; `line` has room for one more.
template <class S> INLINE S *paint(S *line, S *end, acc<S> v) {
    for (; line < end; line += lanes<S>()) store<S>(line, splat<S>(v));
    return end;
}
// Windows first to first + n, of which `dy` has the gradients and `count` what add_slopes takes.  `at` is how far the line is painted.
template <class S> S *paint_windows(const S *, S *line, S *at, const Windows *w, ptrdiff_t first, ptrdiff_t n, const char *dy, ptrdiff_t step, int code, const double *count, ptrdiff_t from, ptrdiff_t to) {
    acc<S> v[OUTPUTS + 16];
    double slope[2][OUTPUTS + 16];
    for (ptrdiff_t j = 0; j < round_up<S>(n); j += lanes<S>()) store_sum<S>(slope[0], slope[1], j, no_sum<S>());
    add_slopes<S>((const S *)nullptr, slope[0], slope[1], dy, step, code, count, n);
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) store<acc<S>>(v + j, lanes_of<S>(total_of<S>(load_sum<S>(slope[0], slope[1], j))));
    for (ptrdiff_t j = 0; j < n; j++) {
        at = paint<S>(at, line + (std::max(from, first_within(w, first + j)) - from), 0);
        at = paint<S>(at, line + (std::min(to, end_within(w, first + j)) - from), v[j]);
    }
    return at;
}

// Numbers to their places, which are counted from `from`; those beyond `length` belong to others.
template <class S> void add_to_places(const S *, double *high, double *low, const long long *place, const double *v, ptrdiff_t n, ptrdiff_t wide, ptrdiff_t from, ptrdiff_t length) {
    for (ptrdiff_t j = 0, c = 0; j < n; j++) {
        const size_t i = (size_t)(place[j] - from);
        if (i < (size_t)length) add_number<S>(high + i * wide + c, low + i * wide + c, v[j]);
        if (++c == wide) c = 0;
    }
}
template <class T> void put_in_places(T *to, const long long *place, const T *v, ptrdiff_t n, ptrdiff_t wide, ptrdiff_t from, ptrdiff_t length) {
    for (ptrdiff_t j = 0, c = 0; j < n; j++) {
        const size_t i = (size_t)(place[j] - from);
        if (i < (size_t)length) to[i * wide + c] = v[j];
        if (++c == wide) c = 0;
    }
}

}  // namespace
}  // namespace softcore
