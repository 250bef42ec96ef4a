// pool_along.h: windows that are reduced one after the other, each along its rows.
//
// Side by side, few windows leave most lanes empty, and those that share nothing have their elements packed for nothing. What they come to
// is that of pool.h, to the bit, and goes where it does.
#pragma once
#include "pool_direct.h"

namespace softcore {
namespace {

// So few windows, where they share elements; from so many taps along a row on, and of so many windows on that fill lanes. So many rows
// at once: their sums are as many chains.
enum { FEW_ALONG = 4, TAPS_ALONG = 3, MANY_ALONG = 16, TAPS_OF_MANY = 8, ROWS_ALONG = 4 };
inline bool goes_along(const Windows *w) {
    return w[2].dilation == 1 && w[2].window >= (w[2].count > MANY_ALONG ? TAPS_OF_MANY : TAPS_ALONG) && (w[2].window <= w[2].stride || w[2].count <= FEW_ALONG)
        && ((w[1].window - 1) * w[1].dilation < w[1].stride || w[1].count == 1);  // rows that windows share are better kept
}
// The rows of a window: the first, `deep` times `high` of them, bytes from one to the next, and what their places differ by.
struct Stack { const char *row; ptrdiff_t deep, high, step[2], place[2], first_place; };
template <class S> INLINE const S *row_in(const Stack *s, ptrdiff_t d, ptrdiff_t h) { return (const S *)(s->row + d * s->step[0] + h * s->step[1]); }

// Of windows first to first + n of a row, `w` along it.
template <class S> __attribute__((noinline)) void sums_along(const S *, Partial<S> *r, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n) {
    begin_sum((const S *)nullptr, r, n);
    for (ptrdiff_t o = 0; o < n; o++) {
        const ptrdiff_t begin = first_within(w, first + o), end = end_within(w, first + o);
        Sum<double> total = {0, 0};
        for (ptrdiff_t d = 0; d < s->deep; d++)
            for (ptrdiff_t h = 0; h < s->high; h += ROWS_ALONG) {
                const S *x[ROWS_ALONG];
                Sum<double> sum[ROWS_ALONG] = {};
                for (int k = 0; k < ROWS_ALONG; k++) x[k] = row_in<S>(s, d, std::min(h + k, s->high - 1));
                for (ptrdiff_t c = begin; c < end; c++)
#pragma GCC unroll 4
                    for (int k = 0; k < ROWS_ALONG; k++) add<S>(&sum[k], (double)widen<S>(x[k][c]));
#pragma GCC unroll 4
                for (int k = 0; k < ROWS_ALONG; k++)
                    if (h + k < s->high) {
                        add<S>(&total, sum[k].high);
                        if (sizeof(acc<S>) == 8) total.low = total.low + sum[k].low;
                    }
            }
        r->high[o] = total.high;
        if (sizeof(acc<S>) == 8) r->low[o] = total.low;
    }
}

// The first element of a window that equals `v`, or that is NaN if v is; its place.
template <class S> __attribute__((noinline)) acc<S> first_alike(const Stack *s, ptrdiff_t begin, ptrdiff_t end, acc<S> v, ptrdiff_t *place) {
    for (ptrdiff_t d = 0; d < s->deep; d++)
        for (ptrdiff_t h = 0; h < s->high; h++) {
            const S *x = row_in<S>(s, d, h) + begin;
            const ptrdiff_t at = find<S>(x, end - begin, v, false, nullptr);
            if (at < 0) continue;
            *place = d * s->place[0] + h * s->place[1] + at;
            return widen<S>(x[at]);
        }
    return v;
}
// Each lane keeps the first of its largest, as rows come in order; of lanes that are equal the first place counts.
template <class S, bool INDEX> __attribute__((noinline)) void max_along_by(Partial<S> *r, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n) {
    typedef bits_t<acc<S>> I;
    constexpr ptrdiff_t L = lanes<S>();
    for (ptrdiff_t j = n / L * L; j < round_up<S>(n); j++) r->m[j] = least<S>();
    r->nan = false;
    for (ptrdiff_t o = 0; o < n; o++) {
        const ptrdiff_t begin = first_within(w, first + o), end = end_within(w, first + o);
        Lanes<S> m = splat<S>(least<S>());
        Mask<S> at = whole<S>(0), bad = at;
        for (ptrdiff_t d = 0; d < s->deep; d++)
            for (ptrdiff_t h = 0; h < s->high; h++) {
                const S *x = row_in<S>(s, d, h);
                const I place = (I)(d * s->place[0] + h * s->place[1]);
                for (ptrdiff_t c = begin; c < end; c += L) {
                    const Lanes<S> v = load_some<S>(x + c, end - c, least<S>());
                    bad = bad | (v != v);
                    if (INDEX) at = select(v > m, whole<S>((I)(place + c - begin)), at);
                    m = greater(v, m);
                }
            }
        acc<S> top = largest<S>(m);
        ptrdiff_t there = 0;
        if (__builtin_expect(any(bad), 0)) {
            r->nan = true;
            top = first_alike<S>(s, begin, end, std::numeric_limits<acc<S>>::quiet_NaN(), &there);
        } else if (!INDEX && top == 0) {
            top = first_alike<S>(s, begin, end, top, &there);  // of zeros of both signs
        } else if (INDEX) {
            const Mask<S> beyond = whole<S>(std::numeric_limits<I>::max());
            there = -largest_of(whole<S>(0) - select(m == splat<S>(top), at + counting<S>(0, 1), beyond));
            top = top == 0 ? first_alike<S>(s, begin, end, top, &there) : top;
        }
        r->m[o] = top;
        if (INDEX) r->place[o] = (I)(s->first_place + begin - start_of(w, first + o) + there);
    }
}
template <class S> void max_along(const S *, Partial<S> *r, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n, bool index) {
    if (index) max_along_by<S, true>(r, s, w, first, n); else max_along_by<S, false>(r, s, w, first, n);
}

}  // namespace
}  // namespace softcore
