// pool_scatter.h: what each window has goes to its place in a plane, windows in their order.
//
// Windows come row after row, so what may still change lies close together: it is kept in a ring that stays in the first cache, and goes
// to memory when no later window can reach it. Each element of the result is written once, and none is read.
#pragma once
#include "pool_across.h"

namespace softcore {
namespace {

// So many windows are looked at together; and the least ring, where it does not have the whole plane.
enum { TOGETHER = 128, RING = 1024 };

// The least place of some windows and all later ones, and the largest of those some.
struct Extent { int64_t low, high; };

// Windows of one plane, and the band of its elements that they go to. Channels that lie side by side make one plane, whose elements
// are `channels` times as many, and whose places count pixels.
struct Scattering {
    const char *place, *v;
    ptrdiff_t place_step, v_step, windows, channels;
    char *to;  // where the plane begins
    ptrdiff_t to_step, from, length;
    Extent *extents;  // NULL where the ring has the whole plane
};

INLINE int64_t place_at(const char *p) { int64_t i; std::memcpy(&i, p, sizeof i); return i; }
template <class STEP> INLINE Extent extent_by(const char *place, STEP step, ptrdiff_t n) {
    Extent e = {place_at(place), place_at(place)};
    for (ptrdiff_t j = 1; j < n; j++) {
        const int64_t i = place_at(place + j * step);
        e.low = std::min(e.low, i), e.high = std::max(e.high, i);
    }
    return e;
}
INLINE ptrdiff_t stretches_of(ptrdiff_t windows) { return (windows + TOGETHER - 1) / TOGETHER; }
// Of a plane of `pixels`. Returns whether a place lies outside.
inline bool find_extents(Scattering *s, ptrdiff_t pixels) {
    const std::integral_constant<ptrdiff_t, 8> eight;
    const ptrdiff_t stretches = stretches_of(s->windows);
    for (ptrdiff_t i = 0; i < stretches; i++) {
        const char *place = s->place + i * TOGETHER * s->place_step;
        const ptrdiff_t n = std::min<ptrdiff_t>(TOGETHER, s->windows - i * TOGETHER);
        const Extent e = s->place_step == eight ? extent_by(place, eight, n) : extent_by(place, s->place_step, n);
        if (e.low < 0 || e.high >= pixels) return true;
        if (s->extents) s->extents[i] = {e.low * s->channels, (e.high + 1) * s->channels - 1};
    }
    for (ptrdiff_t i = stretches - 2; s->extents && i >= 0; i--) s->extents[i].low = std::min(s->extents[i].low, s->extents[i + 1].low);
    return false;
}
// Elements before the band in the line that it begins in, so that lines of the ring are lines of the result.
INLINE ptrdiff_t phase_of(const Scattering *s) { return (uintptr_t)(s->to + s->from * s->to_step) % 64 / std::max<ptrdiff_t>(s->to_step, 1); }
// Where to empty the ring up to, in whole lines, when no lower place comes.
INLINE ptrdiff_t settled(const Scattering *s, int64_t low, ptrdiff_t phase) {
    return std::max<ptrdiff_t>((std::max<ptrdiff_t>(low - s->from, 0) + phase) / 64 * 64 - phase, 0);
}
// A power of two: as many elements as may be waiting for windows.
inline ptrdiff_t ring_size(const Scattering *s, ptrdiff_t phase) {
    ptrdiff_t most = s->extents ? RING : s->length, size = 64;
    if (s->extents)
        for (const Extent *e = s->extents, *end = e + stretches_of(s->windows); e < end && e->low < s->from + s->length; e++)
            if (e->high >= s->from) most = std::max(most, std::min<ptrdiff_t>(e->high - s->from + 1, s->length) - settled(s, e->low, phase));
    while (size < most) size *= 2;
    return size;
}

// A number as it is in a sum: 0 for -0.
INLINE uint32_t with_positive_zero(uint32_t bits) { float v; std::memcpy(&v, &bits, sizeof v); v += 0.0f; std::memcpy(&bits, &v, sizeof v); return bits; }
INLINE uint64_t with_positive_zero(uint64_t bits) { double v; std::memcpy(&v, &bits, sizeof v); v += 0.0; std::memcpy(&bits, &v, sizeof v); return bits; }
INLINE uint16_t with_positive_zero(uint16_t bits) { return bits ^ (uint16_t)((bits == 0x8000) << 15); }

// A thread's ring. Sums, of doubles in two, or elements: all is 0 where nothing has come, as far as it is clean.
struct Ring { double *high, *low; ptrdiff_t clean; bool past; };
INLINE void clean(Ring *ring, ptrdiff_t size) {
    if (size <= ring->clean) return;
    std::memset(ring->high + ring->clean, 0, 8 * (size - ring->clean));
    if (ring->low) std::memset(ring->low + ring->clean, 0, 8 * (size - ring->clean));
    ring->clean = size;
}
template <class S> struct SumsOf {  // of what has come
    double *high, *low;
    explicit SumsOf(const Ring *ring) : high(ring->high), low(ring->low) {}
    INLINE void take(size_t i, const char *v) {
        S x;
        std::memcpy((void *)&x, v, sizeof x);
        add_number<S>(high + i, low + i, (double)widen<S>(x));
    }
    void put(char *to, ptrdiff_t step, size_t i, ptrdiff_t n, bool past) {
        ptrdiff_t j = 0;
        if (step == (ptrdiff_t)sizeof(S)) {
            const ptrdiff_t head = past ? std::min(n, to_alignment((const S *)to)) : -1;
            put_few(to, step, i, head);
            for (j = std::max<ptrdiff_t>(head, 0); j + lanes<S>() <= n; j += lanes<S>()) {
                softcore::put<S>((S *)to + j, lanes_of<S>(total_of<S>(load_sum<S>(high + i, low + i, j))), head >= 0);
                store_sum<S>(high + i, low + i, j, no_sum<S>());
            }
        }
        put_few(to + j * step, step, i + j, n - j);
    }
    void put_few(char *to, ptrdiff_t step, size_t i, ptrdiff_t n) {
        for (const size_t end = i + std::max<ptrdiff_t>(n, 0); i < end; i++, to += step) {
            put_one((const S *)nullptr, to, (acc<S>)total_of<S>(Sum<double>{high[i], low[i]}));
            high[i] = 0;
            if (sizeof(acc<S>) == 8) low[i] = 0;
        }
    }
};
template <class T> struct LastOf {  // what came last, as it is: its bytes, in the memory of doubles
    T *ring;
    explicit LastOf(const Ring *r) : ring((T *)r->high) {}
    INLINE void take(size_t i, const char *v) { std::memcpy(ring + i, v, sizeof(T)); }
    // And how many of them are not 0.
    ptrdiff_t put(char *to, ptrdiff_t step, size_t i, ptrdiff_t n, bool past) {
        ptrdiff_t j = 0, there = 0;
        if (step == (ptrdiff_t)sizeof(T)) {
            typedef typename std::make_signed<T>::type I;
            const ptrdiff_t lanes = sizeof(vec<I>) / sizeof(T), gap = -(uintptr_t)to % 64, head = past && gap % sizeof(T) == 0 ? std::min<ptrdiff_t>(n, gap / sizeof(T)) : -1;
            vec<I> some = {};
            there = put_few(to, step, i, head);
            for (j = std::max<ptrdiff_t>(head, 0); j + lanes <= n; j += lanes) {
                vec<I> v;
                std::memcpy(&v, ring + i + j, sizeof v);
                std::memset(ring + i + j, 0, sizeof v);
                some -= v != 0;
                if (head >= 0) stream_vector<float>((float *)(to + j * step), (vec<float>)v); else std::memcpy(to + j * step, &v, sizeof v);
            }
            for (ptrdiff_t k = 0; k < lanes; k++) there += some[k];
        }
        return there + put_few(to + j * step, step, i + j, n - j);
    }
    ptrdiff_t put_few(char *to, ptrdiff_t step, size_t i, ptrdiff_t n) {
        ptrdiff_t there = 0;
        for (const size_t end = i + std::max<ptrdiff_t>(n, 0); i < end; i++, to += step) {
            T bits;
            std::memcpy(&bits, ring + i, sizeof bits);
            std::memset(ring + i, 0, sizeof bits);
            std::memcpy(to, &bits, sizeof bits);
            there += bits != 0;
        }
        return there;
    }
};
// Numbers that meet nobody, with 0 for -0 as in a sum: as many are there as came, of those that are not 0, or some did meet.
template <class T> struct AloneOf : LastOf<T> {
    ptrdiff_t there = 0;
    explicit AloneOf(const Ring *r) : LastOf<T>(r) {}
    INLINE void take(size_t i, const char *v) {
        T bits;
        std::memcpy(&bits, v, sizeof bits);
        bits = with_positive_zero(bits);
        std::memcpy(this->ring + i, &bits, sizeof bits);
    }
    void put(char *to, ptrdiff_t step, size_t i, ptrdiff_t n, bool past) { there += LastOf<T>::put(to, step, i, n, past); }
};
template <class T, class STEP> INLINE uint32_t count_by(const char *v, STEP step, ptrdiff_t n) {
    uint32_t some = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        T bits;
        std::memcpy(&bits, v + j * step, sizeof bits);
        some += (T)(bits << 1) != 0;
    }
    return some;
}

// Not inlined: its loop needs every register.
template <bool CHANNELS, class CELLS, class PLACE_STEP, class STEP> __attribute__((noinline)) void take_by(CELLS cells, const Scattering *s, ptrdiff_t first, ptrdiff_t n, ptrdiff_t phase, size_t mask, PLACE_STEP place_step, STEP v_step) {
    const char *place = s->place + first * place_step, *v = s->v + first * v_step;
    const size_t from = s->from, length = s->length, channels = CHANNELS ? s->channels : 1;
    size_t channel = CHANNELS ? first % channels : 0;
#pragma GCC unroll 4
    for (ptrdiff_t j = 0; j < n; j++) {
        const size_t i = (size_t)place_at(place + j * place_step) * channels + channel - from;
        if (i < length) cells.take((i + phase) & mask, v + j * v_step);
        if (CHANNELS) channel = channel + 1 == channels ? 0 : channel + 1;
    }
}
template <class S, class CELLS> void scatter_band(CELLS *cells, Ring *ring, const Scattering *s) {
    const std::integral_constant<ptrdiff_t, 8> eight;
    const std::integral_constant<ptrdiff_t, sizeof(S)> whole;  // elements side by side
    const ptrdiff_t phase = s->extents ? phase_of(s) : 0, size = ring_size(s, phase);
    ptrdiff_t done = 0;
    clean(ring, size);
    const auto put = [&](ptrdiff_t end) {
        while (done < end) {
            const size_t i = (done + phase) & (size - 1);
            const ptrdiff_t n = std::min<ptrdiff_t>(end - done, size - i);
            cells->put(s->to + (s->from + done) * s->to_step, s->to_step, i, n, ring->past);
            done += n;
        }
    };
    const auto take = [&](ptrdiff_t first, ptrdiff_t n) {
        if (s->channels > 1) take_by<true>(*cells, s, first, n, phase, size - 1, eight, whole);
        else if (s->place_step == eight && s->v_step == whole) take_by<false>(*cells, s, first, n, phase, size - 1, eight, whole);
        else take_by<false>(*cells, s, first, n, phase, size - 1, s->place_step, s->v_step);
    };
    if (!s->extents) take(0, s->windows);
    else
        for (ptrdiff_t first = 0; first < s->windows; first += TOGETHER) {
            const Extent e = s->extents[first / TOGETHER];
            const ptrdiff_t n = std::min<ptrdiff_t>(TOGETHER, s->windows - first);
            if (e.low >= s->from + s->length) break;
            if (e.high < s->from) continue;
            if (std::min<ptrdiff_t>(e.high - s->from, s->length - 1) >= done + size) put(settled(s, e.low, phase));
            if (ring->past) {  // of the next plane
                prefetch_bytes(s->place + (s->windows + first) * s->place_step, n * 8);
                prefetch_bytes(s->v + (s->windows + first) * s->v_step, n * sizeof(S));
            }
            take(first, n);
        }
    put(s->length);
}
template <class S> using Bits = typename std::conditional<sizeof(S) == 2, uint16_t, typename std::conditional<sizeof(S) == 4, uint32_t, uint64_t>::type>::type;
// Whether none met; where some did, nothing is right.
template <class S> bool scatter_alone(const S *, Ring *ring, const Scattering *s) {
    const std::integral_constant<ptrdiff_t, sizeof(S)> whole;
    AloneOf<Bits<S>> cells(ring);
    scatter_band<S>(&cells, ring, s);
    return cells.there == (s->v_step == whole ? count_by<Bits<S>>(s->v, whole, s->windows) : count_by<Bits<S>>(s->v, s->v_step, s->windows));
}
template <class S> void scatter_sums(const S *, Ring *ring, const Scattering *s) {
    SumsOf<S> cells(ring);
    scatter_band<S>(&cells, ring, s);
}
template <class T> void scatter_last(const T *, Ring *ring, const Scattering *s) {
    LastOf<T> cells(ring);
    scatter_band<T>(&cells, ring, s);
}

// ---------------------------------------------------------------- planes in one piece that stay in the cache

// Windows go straight to their places there, or to sums beside it. Returns OUTSIDE where a place is outside the plane, and MET where
// windows met that were to be alone: then nothing is right.
enum Landed { LANDED, MET, OUTSIDE };
// f(i, v) for each of n windows, whose place is i. Returns false at one that is outside.
template <class T, class F> INLINE bool each_place(const Scattering *s, const char *place, const char *v, ptrdiff_t n, F f) {
    const size_t channels = s->channels, pixels = s->length / channels;
    if (channels == 1) {
#pragma GCC unroll 4
        for (ptrdiff_t j = 0; j < n; j++) {
            const size_t i = place_at(place + j * 8);
            if (i >= pixels) return false;
            f(i, v + j * sizeof(T));
        }
        return true;
    }
    for (ptrdiff_t j = 0; j < n; j += channels, place += 8 * channels, v += sizeof(T) * channels)
#pragma GCC unroll 4
        for (size_t c = 0; c < channels; c++) {
            const size_t i = place_at(place + c * 8);
            if (i >= pixels) return false;
            f(i * channels + c, v + c * sizeof(T));
        }
    return true;
}
template <class T, bool LAST> INLINE Landed land(const Scattering *s) {
    T *const to = (T *)s->to;
    T met = 0;
    std::memset((void *)to, 0, s->length * sizeof(T));
    const ptrdiff_t some = (TOGETHER + s->channels - 1) / s->channels * s->channels;
    for (ptrdiff_t j = 0; j < s->windows; j += some) {
        const bool inside = each_place<T>(s, s->place + 8 * j, s->v + sizeof(T) * j, std::min(some, s->windows - j), [&](size_t i, const char *v) TERM {
            T bits;
            std::memcpy(&bits, v, sizeof bits);
            if constexpr (!LAST) bits = with_positive_zero(bits), met |= to[i];
            to[i] = bits;
        });
        if (!inside) return OUTSIDE;
        if (met) return MET;
    }
    return LANDED;
}
template <class S> Landed land_alone(const S *, const Scattering *s) { return land<Bits<S>, false>(s); }
template <class T> Landed land_last(const T *, const Scattering *s) { return land<T, true>(s); }
template <class S> Landed land_sums(const S *, Ring *ring, const Scattering *s) {
    clean(ring, s->length);
    SumsOf<S> cells(ring);
    if (!each_place<S>(s, s->place, s->v, s->windows, [&](size_t i, const char *v) TERM { cells.take(i, v); })) return OUTSIDE;
    cells.put(s->to, sizeof(S), 0, s->length, false);
    return LANDED;
}

}  // namespace
}  // namespace softcore
