// pool_along.h: windows that are reduced one after the other, each along its rows.
//
// Side by side, few windows leave most lanes empty, and those that share nothing have their elements packed for nothing. What maxima and
// sums come to is that of pool.h, to the bit, and goes where it does.  Rows are read where they lie, or brought to the bench piece by piece.
#pragma once
#include "pool_direct.h"

namespace softcore {
namespace {

// So few windows, where they share elements; from so many taps along a row on, and of so many windows on that fill lanes. So many rows
// at once: their sums are as many chains. Long rows of a few windows whatever they share, unless more than so many windows hold an element:
// a vector of packed windows, most of it empty, costs more than to read them so often (55 x 56 of 56 x 56: 11 to 0.8 ns an element).
enum { FEW_ALONG = 4, TAPS_ALONG = 3, MANY_ALONG = 16, TAPS_OF_MANY = 8, ROWS_ALONG = 4, LONG_ALONG = 16, FEW_LONG = 8, READ_ALONG = 64 };
inline ptrdiff_t times_held(const Windows *w) { return std::min(w->count, ((w->window - 1) * w->dilation + w->stride) / w->stride); }
inline bool goes_along(const Windows *w) {
    const ptrdiff_t held = times_held(w + 1);
    if (w[2].dilation > 1) return false;
    if (w[2].window >= LONG_ALONG && w[2].count <= FEW_LONG && times_held(w) * held * times_held(w + 2) <= READ_ALONG) return true;
    return w[2].window >= (w[2].count > MANY_ALONG ? TAPS_OF_MANY : TAPS_ALONG)
        && (held == 1 ? w[2].window <= w[2].stride || w[2].count <= FEW_ALONG
                      : w[1].window >= LONG_ALONG && held * w[2].count <= FEW_ALONG);  // a few rows that windows share are better kept
}
// The same for soft windows, whose exponentials cost more than all else: whether fewer vectors of them are computed one window after the
// other, with two for what is done once a window and half of one for each of its rows. Their sums are those of lanes then.
inline bool goes_along_softly(const Windows *w, ptrdiff_t lanes) {
    const ptrdiff_t rows = w[0].window * w[1].window, taps = rows * w[2].window;
    const ptrdiff_t along = (taps + lanes - 1) / lanes + 2 + rows / 2, beside = (w[2].count + lanes - 1) / lanes;
    return w[2].dilation == 1 && w[2].count * along < taps * beside;
}

// The rows of a window: the first, `deep` times `high` of them, bytes from one to the next, and what their places differ by; bytes from
// one element to the next; whether these lie as the storage's own; and the bench.
struct Stack { const char *row; ptrdiff_t deep, high, step[2], place[2], first_place, pixel; int code; bool direct; char *bench; };
INLINE const char *row_at(const Stack *s, ptrdiff_t d, ptrdiff_t h, ptrdiff_t c) { return s->row + d * s->step[0] + h * s->step[1] + c * s->pixel; }

enum { BROUGHT = 512, RUN = 4 * BROUGHT, TURNED = 64 };  // elements of each of ROWS_ALONG rows; of several rows in a run; of each of a Lanes of rows
template <class S> INLINE bool is_read_there(const Stack *s) { return s->direct && sizeof(S) == sizeof(acc<S>); }
template <class S> INLINE void bring_to(acc<S> *to, const Stack *s, const char *p, ptrdiff_t n) {
    if (s->direct) return every<S>(to, (const S *)p, n);
    gather<acc<S>>(to, p, s->pixel, n, s->code);
    shift_range_of(to, n, s->code, std::integral_constant<bool, sizeof(acc<S>) == 8 && is_integer<S>::value>());
}
// n elements of a row from column c on: where they are, or in the k-th place of the bench.
template <class S> INLINE const acc<S> *bring(const Stack *s, ptrdiff_t d, ptrdiff_t h, ptrdiff_t c, ptrdiff_t n, ptrdiff_t k) {
    if (is_read_there<S>(s)) return (const acc<S> *)row_at(s, d, h, c);
    acc<S> *to = (acc<S> *)s->bench + k * BROUGHT;
    bring_to<S>(to, s, row_at(s, d, h, c), n);
    return to;
}
// f(c, n) for each piece of columns begin to end.
template <class S, class F> INLINE void each_piece(const Stack *s, ptrdiff_t begin, ptrdiff_t end, F f) {
    const ptrdiff_t most = is_read_there<S>(s) ? end - begin : (ptrdiff_t)BROUGHT;
    for (ptrdiff_t c = begin; c < end; c += most) f(c, std::min(most, end - c));
}
// f(x, c, n, d, h) for each piece of each row, in order: its elements, and where they are.
template <class S, class F> INLINE void each_row(const Stack *s, ptrdiff_t begin, ptrdiff_t end, F f) {
    for (ptrdiff_t d = 0; d < s->deep; d++)
        for (ptrdiff_t h = 0; h < s->high; h++)
            each_piece<S>(s, begin, end, [&](ptrdiff_t c, ptrdiff_t n) TERM { f(bring<S>(s, d, h, c, n, 0), c, n, d, h); });
}

// f(x, n) for runs of the elements of a window, its rows one after the other: each but the last is of whole vectors, and where runs begin
// depends on nothing but how many elements there are.
template <class S, class F> INLINE void each_run(const Stack *s, ptrdiff_t begin, ptrdiff_t end, F f) {
    if (is_read_there<S>(s) && s->deep * s->high == 1) return f((const acc<S> *)row_at(s, 0, 0, begin), end - begin);
    acc<S> *const run = (acc<S> *)s->bench;
    ptrdiff_t held = 0;
    for (ptrdiff_t d = 0; d < s->deep; d++)
        for (ptrdiff_t h = 0; h < s->high; h++)
            for (ptrdiff_t c = begin, n; c < end; c += n) {
                n = std::min(RUN - held, end - c);
                bring_to<S>(run + held, s, row_at(s, d, h, c), n);
                held += n;
                if (held < RUN) continue;
                f(run, held);
                held = 0;
            }
    if (held) f(run, held);
}

// ---------------------------------------------------------------- maxima and sums

// The sums of some of a Lanes of rows, `apart` bytes from one to the next: of n elements from `p` on.
template <class S> INLINE Sum<Doubles<S>> sums_of_rows(const Stack *s, const char *p, ptrdiff_t apart, ptrdiff_t rows, ptrdiff_t n) {
    typedef acc<S> A;
    constexpr ptrdiff_t L = lanes<S>();
    A *const brought = (A *)s->bench, *const slab = brought + L * TURNED;
    Sum<Doubles<S>> sum = no_sum<S>();
    for (ptrdiff_t c = 0; c < n; c += TURNED, p += TURNED * s->pixel) {
        const ptrdiff_t m = std::min<ptrdiff_t>(TURNED, n - c);
        if (s->direct) {
            to_columns<S>(slab, L, (const S *)p, apart, m, rows);
        } else {
            for (ptrdiff_t k = 0; k < rows; k++) bring_to<S>(brought + k * TURNED, s, p + k * apart, m);
            to_columns<A>(slab, L, brought, TURNED * sizeof(A), m, rows);
        }
        for (ptrdiff_t j = 0; j < m; j++) add<S>(&sum, doubles<S>(load<A>(slab + j * L)));
    }
    return sum;
}
template <class S> INLINE void add_sum_of_row(Sum<double> *total, double high, double low) {
    add<S>(total, high);
    if (sizeof(acc<S>) == 8) total->low = total->low + low;
}
template <class S> INLINE void put_one_sum(Partial<S> *r, ptrdiff_t o, const Sum<double> &sum) {
    r->high[o] = sum.high;
    if (sizeof(acc<S>) == 8) r->low[o] = sum.low;
}
// Of windows first to first + n of a row, `w` along it.
template <class S> __attribute__((noinline)) void sums_along(const S *, Partial<S> *r, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n) {
    constexpr ptrdiff_t L = lanes<S>();
    begin_sum((const S *)nullptr, r, n);
    for (ptrdiff_t o = 0; o < n; o++) {
        const ptrdiff_t begin = first_within(w, first + o), end = end_within(w, first + o);
        Sum<double> total = {0, 0};
        for (ptrdiff_t d = 0; d < s->deep; d++) {
            ptrdiff_t h = 0;
            while (s->high >= L && s->high - h > ROWS_ALONG) {  // the last Lanes of rows may have been summed in part before
                const ptrdiff_t from = std::min(h, s->high - L);
                double high[L], low[L];
                store_sum<S>(high, low, 0, sums_of_rows<S>(s, row_at(s, d, from, begin), s->step[1], L, end - begin));
                for (ptrdiff_t k = h - from; k < L; k++) add_sum_of_row<S>(&total, high[k], low[k]);
                h = from + L;
            }
            for (; h < s->high; h += ROWS_ALONG) {
                Sum<double> sum[ROWS_ALONG] = {};
                each_piece<S>(s, begin, end, [&](ptrdiff_t c, ptrdiff_t m) TERM {
                    const acc<S> *x[ROWS_ALONG];
                    for (int k = 0; k < ROWS_ALONG; k++) x[k] = h + k < s->high ? bring<S>(s, d, h + k, c, m, k) : x[0];
                    for (ptrdiff_t j = 0; j < m; j++)
#pragma GCC unroll 4
                        for (int k = 0; k < ROWS_ALONG; k++) add<S>(&sum[k], (double)x[k][j]);
                });
                for (int k = 0; k < ROWS_ALONG && h + k < s->high; k++) add_sum_of_row<S>(&total, sum[k].high, sum[k].low);
            }
        }
        put_one_sum<S>(r, o, total);
    }
}
// Of one window of each of some planes, up to a Lanes of them, `apart` bytes from one to the next.
template <class S> __attribute__((noinline)) void sums_beside(const S *, Partial<S> *r, const Stack *s, const Windows *w, ptrdiff_t apart, ptrdiff_t planes) {
    Sum<Doubles<S>> total = no_sum<S>();
    for (ptrdiff_t d = 0; d < s->deep; d++)
        for (ptrdiff_t h = 0; h < s->high; h++)
            add_sums<S>(&total, sums_of_rows<S>(s, row_at(s, d, h, first_within(w, 0)), apart, planes, end_within(w, 0) - first_within(w, 0)));
    store_sum<S>(r->high, r->low, 0, total);
}

// The first element of a window that equals `v`, or that is NaN if v is; its place.
template <class S> __attribute__((noinline)) acc<S> first_alike(const Stack *s, ptrdiff_t begin, ptrdiff_t end, acc<S> v, ptrdiff_t *place) {
    const ptrdiff_t most = is_read_there<S>(s) ? end - begin : (ptrdiff_t)BROUGHT;
    for (ptrdiff_t d = 0; d < s->deep; d++)
        for (ptrdiff_t h = 0; h < s->high; h++)
            for (ptrdiff_t c = begin; c < end; c += most) {
                const acc<S> *x = bring<S>(s, d, h, c, std::min(most, end - c), 0);
                const ptrdiff_t at = find<acc<S>>(x, std::min(most, end - c), v, false, nullptr);
                if (at < 0) continue;
                *place = d * s->place[0] + h * s->place[1] + c - begin + at;
                return x[at];
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
        each_row<S>(s, begin, end, [&](const acc<S> *x, ptrdiff_t c, ptrdiff_t length, ptrdiff_t d, ptrdiff_t h) TERM {
            if (!INDEX && length >= 4 * L) {
                bool nan = false;
                m = greater(splat<S>(largest_of_tile<acc<S>, false, true>(x, length, &nan)), m);
                if (nan) bad = whole<S>(-1);
                return;
            }
            const I place = (I)(d * s->place[0] + h * s->place[1] + c - begin);
            for (ptrdiff_t j = 0; j < length; j += L) {
                const Lanes<S> v = load_some<acc<S>>(x + j, length - j, least<S>());
                if (!is_integer<S>::value) bad = bad | (v != v);
                if (INDEX) at = select(v > m, whole<S>((I)(place + j)), at);
                m = greater(v, m);
            }
        });
        acc<S> top = largest<S>(m);
        ptrdiff_t there = 0;
        if (__builtin_expect(any(bad), 0)) {
            r->nan = true;
            top = first_alike<S>(s, begin, end, std::numeric_limits<acc<S>>::quiet_NaN(), &there);
        } else if (!INDEX && top == 0 && !is_integer<S>::value) {
            top = first_alike<S>(s, begin, end, top, &there);  // of zeros of both signs
        } else if (INDEX) {
            const Mask<S> beyond = whole<S>(std::numeric_limits<I>::max());
            there = -largest_of(whole<S>(0) - select(m == splat<S>(top), at + counting<S>(0, 1), beyond));
            top = top == 0 && !is_integer<S>::value ? first_alike<S>(s, begin, end, top, &there) : top;
        }
        r->m[o] = top;
        if (INDEX) r->place[o] = (I)(s->first_place + begin - start_of(w, first + o) + there);
    }
}
template <class S> void max_along(const S *, Partial<S> *r, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n, bool index) {
    if (index) max_along_by<S, true>(r, s, w, first, n); else max_along_by<S, false>(r, s, w, first, n);
}

// ---------------------------------------------------------------- soft windows

// The sum of the lanes, of floats without what is lost, in a tree.
template <class S> INLINE Sum<double> folded(const Sum<Doubles<S>> &s) {
    if (sizeof(acc<S>) == 8) return across_lanes<S>(s);
    double a[lanes<S>()];
    store_pack(a, s.high);
    for (ptrdiff_t n = lanes<S>() / 2; n > 0; n /= 2)
        for (ptrdiff_t i = 0; i < n; i++) a[i] += a[i + n];
    return {a[0], 0};
}
// The sums of add_soft, of a window's elements in lanes.
template <class S, bool BELOW> __attribute__((noinline)) void soft_along_by(const Partial<S> *r, Partial<S> *mass, Partial<S> *moment, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n) {
    for (ptrdiff_t o = 0; o < n; o++) {
        const Lanes<S> m = splat<S>(r->m[o]);
        Sum<Doubles<S>> e = no_sum<S>(), product = no_sum<S>();
        each_run<S>(s, first_within(w, first + o), end_within(w, first + o), [&](const acc<S> *x, ptrdiff_t length) TERM {
            for (ptrdiff_t j = 0; j < length; j += lanes<S>()) add_share<S, BELOW>(&e, &product, load_some<acc<S>>(x + j, length - j, least<S>()), m);
        });
        put_one_sum<S>(mass, o, folded<S>(e));
        put_one_sum<S>(moment, o, folded<S>(product));
    }
}
template <class S> void soft_along(const S *, const Partial<S> *r, Partial<S> *mass, Partial<S> *moment, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n, bool below) {
    if (below) soft_along_by<S, true>(r, mass, moment, s, w, first, n); else soft_along_by<S, false>(r, mass, moment, s, w, first, n);
}
// The first n lanes, and 0 in the others.
template <class S> INLINE Doubles<S> some_of(Doubles<S> v, ptrdiff_t n) {
    const Doubles<S> zero = constant<Doubles<S>>(0);
    return select(doubles<S>(select(first<S>(n), constant<Lanes<S>>(1), constant<Lanes<S>>(0))) == zero, zero, v);
}
// What columns from to to of one row take from windows first to first + n, whose maxima, means and slopes these are: see soft_gradient.
template <class S> __attribute__((noinline)) void spread_soft_along(const S *, double *high, double *low, const Stack *s, const Windows *w, ptrdiff_t first, ptrdiff_t n, const acc<S> *m, const double *mean, const double *slope, ptrdiff_t from, ptrdiff_t to) {
    typedef Doubles<S> D;
    for (ptrdiff_t o = 0; o < n; o++) {
        const Lanes<S> top = splat<S>(m[o]);
        const D y = constant<D>(mean[o]), by = constant<D>(slope[o]);
        each_piece<S>(s, std::max(from, first_within(w, first + o)), std::min(to, end_within(w, first + o)), [&](ptrdiff_t c, ptrdiff_t length) TERM {
            const acc<S> *x = bring<S>(s, 0, 0, c, length, 0);
            for (ptrdiff_t j = 0; j < length; j += lanes<S>()) {
                D v = soft_slope<S>(load_some<acc<S>>(x + j, length - j, least<S>()), top, y, by);
                if (length - j < lanes<S>()) v = some_of<S>(v, length - j);
                Sum<D> sum = load_sum<S>(high, low, c - from + j);
                add<S>(&sum, v);
                store_sum<S>(high, low, c - from + j, sum);
            }
        });
    }
}

}  // namespace
}  // namespace softcore
