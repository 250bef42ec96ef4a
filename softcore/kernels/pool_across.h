// pool_across.h: windows whose channels lie side by side in memory, and lanes of those.
//
// A row of the input is reduced along itself for each window in turn, once, and kept while other windows need it; the last row of a window
// joins those above it on its way out. So memory is read a row at a time, in order, which is as fast as it can be read: rows side by side
// are several streams. The additions and comparisons are those of pool.h, in their order.
#pragma once
#include "pool_direct.h"

namespace softcore {
namespace {

// How many Lanes of channels are worked on together: as many as have room in registers.
static constexpr int SIDES = SOFTCORE_VECTOR / 16;
// f(c, n, sides): Lanes of channels, n in all.
template <class S, class F> INLINE void each_side(ptrdiff_t channels, F f) {
    constexpr ptrdiff_t L = lanes<S>();
    ptrdiff_t c = 0;
    for (; c + SIDES * L <= channels; c += SIDES * L) f(c, SIDES * L, std::integral_constant<int, SIDES>());
    for (; c < channels; c += L) f(c, std::min(L, channels - c), std::integral_constant<int, 1>());
}
#define EACH(i, n) _Pragma("GCC unroll 4") for (int i = 0; i < n; i++)

// Where the next pixel of a row goes: its channels, of `bytes` bytes. And what goes there.
INLINE char *stage_pixel(Staged *s, char *to, ptrdiff_t bytes) { return s->past ? stage(s, to, bytes) : to; }
template <class S> INLINE void put_some(S *to, const Lanes<S> &v, ptrdiff_t n, bool past) { if (past) stream<S>(to, v); else store_some<S>(to, v, n); }

// ---------------------------------------------------------------- how rows are cut, and what is kept of them

// Outputs of a row are worked on in blocks, and a row that is reduced for a block takes a slot: so many bytes at most, but for a single
// output of many channels. `across`: numbers of a pixel there, whole Lanes of them. `rows` of a depth are kept where windows share some;
// with 0 each window's are joined as they come.
enum { SLOT_MOST = 32768, SLOTS_MOST = 64 };
struct Blocks { ptrdiff_t outputs, many, across, slot_bytes, rows; };
INLINE ptrdiff_t channels_across(ptrdiff_t channels) { return round_up<float>(channels); }  // whole Lanes of any dtype
inline Blocks blocks_of(const Windows *w, ptrdiff_t channels, ptrdiff_t bytes) {
    Blocks b;
    b.across = channels_across(channels);
    b.outputs = std::max<ptrdiff_t>(1, std::min<ptrdiff_t>(w[2].count, SLOT_MOST / (b.across * bytes)));
    b.many = (w[2].count + b.outputs - 1) / b.outputs;
    b.slot_bytes = b.outputs * b.across * bytes;
    const ptrdiff_t reach = (w[1].window - 1) * w[1].dilation + 1;
    b.rows = w[1].window > 1 && reach > w[1].stride && w[0].window * reach <= std::min<ptrdiff_t>(SLOTS_MOST, 8 * SLOT_MOST / b.slot_bytes) ? reach : 0;
    return b;
}
inline ptrdiff_t slots_of(const Blocks *b, const Windows *w) { return b->rows ? w[0].window * b->rows : 1; }

// A row of the input on its way, for the windows from `first` on.
struct Pass {
    const char *x;
    ptrdiff_t pixel, channels, across, ahead;  // bytes from a pixel to the next; of those that are read later, to ask for with each window
    int64_t place;                             // of the row's first element
    ptrdiff_t first, outputs;
    const char *above[SLOTS_MOST];             // rows of the window that came before, or all of them together
    ptrdiff_t rows;
    char *keep, *join;                         // slots for this row, and for it with those above; or NULL
    char *y, *index;                           // where results go, or NULL
    ptrdiff_t y_step, index_step;
    bool nan;                                  // there are some among the maxima that are kept
};
// The taps of window o that lie in the row, from p on, which is at this column.
struct Run { const char *p; ptrdiff_t column, taps; };
INLINE Run run_of(const Pass *s, const Windows *w, ptrdiff_t o) {
    const ptrdiff_t tap = first_tap(w, o), column = start_of(w, o) + tap * w->dilation;
    return {s->x + column * s->pixel, column, end_tap(w, o) - tap};
}

// ---------------------------------------------------------------- maxima

// Lanes of channels: their maxima, and their places.
template <class S, int N> struct Tops { Lanes<S> m[N]; Mask<S> at[N]; };
template <class S, bool INDEX, int N> INLINE void keep_tops(char *slot, ptrdiff_t half, ptrdiff_t j, const Tops<S, N> &t) {
    typedef bits_t<acc<S>> I;
    EACH(i, N) store<acc<S>>((acc<S> *)slot + j + i * lanes<S>(), t.m[i]);
    if (INDEX) EACH(i, N) store<I>((I *)slot + half + j + i * lanes<S>(), t.at[i]);
}
template <class S, bool INDEX, bool NANS> INLINE void take_top(Lanes<S> *m, Mask<S> *at, Lanes<S> x, Mask<S> place) {
    if (!INDEX && !NANS) {
        *m = greater(x, *m);
        return;
    }
    const Mask<S> better = beats<S, NANS>(x, *m);
    *m = select(better, x, *m);
    if (INDEX) *at = select(better, place, *at);
}
// Of the taps along a row. Returns whether one may be NaN, which is lost then.
template <class S, bool INDEX, bool NANS, int N> INLINE bool max_along(Tops<S, N> *t, const Run *r, ptrdiff_t step, bits_t<acc<S>> place, bits_t<acc<S>> dilation, ptrdiff_t c, ptrdiff_t n) {
    const ptrdiff_t L = lanes<S>();
    Lanes<S> seen[N];  // sums: NaN if one is, or with infinities of both signs
    const char *p = r->p + c * (ptrdiff_t)sizeof(S);
    EACH(i, N) {
        t->m[i] = load_some<S>((const S *)p + i * L, n - i * L, 0);
        t->at[i] = whole<S>(place);
        seen[i] = t->m[i];
    }
    for (ptrdiff_t w = 1; w < r->taps; w++) {
        p += step, place += dilation;
        EACH(i, N) {
            const Lanes<S> x = load_some<S>((const S *)p + i * L, n - i * L, 0);
            if (!NANS) seen[i] = seen[i] + x;
            take_top<S, INDEX, NANS>(&t->m[i], &t->at[i], x, whole<S>(place));
        }
    }
    for (int i = 1; i < N; i++) seen[0] = seen[0] + seen[i];
    return !NANS && any(seen[0] != seen[0]);
}
// Rows above come first.
template <class S, bool INDEX, bool NANS, int N> INLINE void join_tops(Tops<S, N> *t, const Pass *s, ptrdiff_t half, ptrdiff_t j) {
    typedef bits_t<acc<S>> I;
    const ptrdiff_t L = lanes<S>();
    const Tops<S, N> row = *t;
    for (ptrdiff_t h = 0; h <= s->rows; h++) {
        Tops<S, N> x = row;
        if (h < s->rows) EACH(i, N) {
            x.m[i] = load<acc<S>>((const acc<S> *)s->above[h] + j + i * L);
            x.at[i] = INDEX ? load<I>((const I *)s->above[h] + half + j + i * L) : whole<S>(0);
        }
        if (h == 0) *t = x;
        else EACH(i, N) take_top<S, INDEX, NANS>(&t->m[i], &t->at[i], x.m[i], x.at[i]);
    }
}
template <class S, bool INDEX> __attribute__((noinline)) void max_pass_by(Pass *s, const Windows *w, Staged *y, Staged *index) {
    typedef bits_t<acc<S>> I;
    const ptrdiff_t L = lanes<S>(), half = s->outputs * s->across, step = w->dilation * s->pixel;
    const I dilation = (I)w->dilation;
    char *const keep = s->keep, *const join = s->join;
    const bool joins = s->rows > 0;
    for (ptrdiff_t o = 0, at = 0; o < s->outputs; o++, at += s->across) {
        const Run r = run_of(s, w, s->first + o);
        const I place = (I)(s->place + r.column);
        S *to = s->y ? (S *)stage_pixel(y, s->y + o * s->y_step, s->channels * sizeof(S)) : nullptr;
        int64_t *chosen = INDEX && s->y ? (int64_t *)stage_pixel(index, s->index + o * s->index_step, s->channels * 8) : nullptr;
        if (s->ahead) ask_ahead(r.p, LATER, s->ahead);
        each_side<S>(s->channels, [=](ptrdiff_t c, ptrdiff_t n, auto sides) TERM {
            constexpr int N = decltype(sides)::value;
            Tops<S, N> t;
            if (__builtin_expect((max_along<S, INDEX, false, N>(&t, &r, step, place, dilation, c, n)), 0)) {
                max_along<S, INDEX, true, N>(&t, &r, step, place, dilation, c, n);
                s->nan = true;
            }
            if (keep) keep_tops<S, INDEX, N>(keep, half, at + c, t);
            if (joins) {
                if (__builtin_expect(s->nan, 0)) join_tops<S, INDEX, true, N>(&t, s, half, at + c); else join_tops<S, INDEX, false, N>(&t, s, half, at + c);
            }
            if (join) keep_tops<S, INDEX, N>(join, half, at + c, t);
            if (!to) return;
            EACH(i, N) store_some<S>(to + c + i * L, t.m[i], n - i * L);
            if (INDEX) EACH(i, N) store_some_places<S>(chosen + c + i * L, t.at[i], 0, n - i * L);
        });
    }
}
template <class S> void max_pass(const S *, Pass *s, const Windows *w, Staged *y, Staged *index, bool places) {
    if (places) max_pass_by<S, true>(s, w, y, index); else max_pass_by<S, false>(s, w, y, index);
}

// ---------------------------------------------------------------- means

template <class S, int N> INLINE void sum_along(Sum<Doubles<S>> *sum, const Run *r, ptrdiff_t step, ptrdiff_t c, ptrdiff_t n) {
    const ptrdiff_t L = lanes<S>();
    const char *p = r->p + c * (ptrdiff_t)sizeof(S);
    EACH(i, N) sum[i] = no_sum<S>();
    for (ptrdiff_t w = 0; w < r->taps; w++, p += step)
        EACH(i, N) add<S>(&sum[i], doubles<S>(load_some<S>((const S *)p + i * L, n - i * L, 0)));
}
template <class S, int N> INLINE void keep_sums(char *slot, ptrdiff_t half, ptrdiff_t j, const Sum<Doubles<S>> *sum) {
    EACH(i, N) store_sum<S>((double *)slot, (double *)slot + half, j + i * lanes<S>(), sum[i]);
}
// `counted`: how many taps of a column are. Returns whether a mean is not finite.
template <class S> __attribute__((noinline)) bool mean_pass(const S *, const Pass *s, const Windows *w, ptrdiff_t counted, bool padding, Staged *y) {
    const ptrdiff_t L = lanes<S>(), half = s->outputs * s->across;
    bool wrong = false;
    double taps = 0, count = 1;
    for (ptrdiff_t o = 0; o < s->outputs; o++) {
        const Run r = run_of(s, w, s->first + o);
        S *to = s->y ? (S *)stage_pixel(y, s->y + o * s->y_step, s->channels * sizeof(S)) : nullptr;
        if (s->ahead) ask_ahead(r.p, LATER, s->ahead);
        const double of_window = (double)counted * (double)counted_taps(w, s->first + o, padding);
        if (taps != of_window) taps = of_window, count = sizeof(acc<S>) == 4 ? 1 / taps : taps;
        each_side<S>(s->channels, [&](ptrdiff_t c, ptrdiff_t n, auto sides) TERM {
            constexpr int N = decltype(sides)::value;
            const ptrdiff_t j = o * s->across + c;
            Sum<Doubles<S>> row[N], sum[N];
            sum_along<S, N>(row, &r, w->dilation * s->pixel, c, n);
            if (s->keep) keep_sums<S, N>(s->keep, half, j, row);
            EACH(i, N) sum[i] = no_sum<S>();
            for (ptrdiff_t h = 0; h < s->rows; h++)
                EACH(i, N) add_sums<S>(&sum[i], load_sum<S>((const double *)s->above[h], (const double *)s->above[h] + half, j + i * L));
            EACH(i, N) add_sums<S>(&sum[i], row[i]);
            if (s->join) keep_sums<S, N>(s->join, half, j, sum);
            if (!to) return;
            EACH(i, N) {
                const Lanes<S> v = mean_of<S>(sum[i], constant<Doubles<S>>(count));
                if (sizeof(acc<S>) == 8) wrong = wrong | any((v - v) != constant<Lanes<S>>(0));
                store_some<S>(to + c + i * L, v, n - i * L);
            }
        });
    }
    return wrong;
}

// ---------------------------------------------------------------- gradients

// A row of elements with all their channels, which takes from rows of windows: `pixel` bytes apart in dy, y_step in dx. Of means what
// the last windows bring is kept, in as many slots as may hold an element.
struct Pixels {
    char *y;
    ptrdiff_t pixel, y_step, index_step, channels, across;
    bool fresh;  // memory is asked for ahead
    bool lines;  // pixels are whole lines of memory, which go past the cache as they are
    double *sums;
    ptrdiff_t slots;
};
// How many elements from i on are held by the same windows and may be staged together.
enum { RUN_MOST = 4 };
INLINE ptrdiff_t held_alike(const Pixels *p, const Holders *h, ptrdiff_t i, ptrdiff_t size, ptrdiff_t bytes) {
    ptrdiff_t n = 1;
    if (p->y_step != bytes || bytes > STAGED / 8) return n;
    while (n < RUN_MOST && i + n < size && h[i + n].first == h[i].first && h[i + n].end == h[i].end) n++;
    return n;
}

// Of a window, over the rows of windows: what it brings to each of its columns. `by` is a factor for each row, or of doubles a divisor.
template <class S, int N> INLINE void total_window_by(Doubles<S> *brought, const Taking *t, ptrdiff_t o, const Pixels *p, const double *by, ptrdiff_t c, ptrdiff_t n) {
    const ptrdiff_t L = lanes<S>();
    Sum<Doubles<S>> s[N];
    EACH(i, N) s[i] = no_sum<S>();
    for (ptrdiff_t j = 0; j < t->rows; j++) {
        const Doubles<S> b = constant<Doubles<S>>(by[j]);
        const S *dy = (const S *)(t->dy[j] + o * p->pixel) + c;
        EACH(i, N) {
            const Doubles<S> x = doubles<S>(load_some<S>(dy + i * L, n - i * L, 0));
            add<S>(&s[i], sizeof(acc<S>) == 4 ? x * b : x / b);
        }
    }
    EACH(i, N) brought[i] = total_of<S>(s[i]);
}
template <class S, int N> INLINE void put_run(S *dx, ptrdiff_t run, const Sum<Doubles<S>> *s, const Pixels *p, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < run; k++, dx += p->channels)
        EACH(i, N) put_some<S>(dx + i * lanes<S>(), lanes_of<S>(total_of<S>(s[i])), n - i * lanes<S>(), p->lines);
}
// The gradient of means: a row of elements with all their channels.  `full` is what a whole window counts as.
template <class S> __attribute__((noinline)) void spread_pixels(const S *, const Pixels *p, const Taking *t, const Holders *holders, ptrdiff_t size, const double *counted, double full, Staged *dx) {
    const ptrdiff_t bytes = p->channels * sizeof(S), L = lanes<S>();
    const bool alone = p->slots == 1;  // no element is held by two windows of a row
    double by[ROWS_TAKEN];
    const double *brought[HOLDS];
    ptrdiff_t known = 0;
    const auto slot_of = [=](ptrdiff_t o) TERM { return p->sums + o % p->slots * p->across; };
    const auto begin_window = [=, &by](ptrdiff_t o) {
        if (p->fresh && t->rows) ask_ahead(t->dy[t->rows - 1] + o * p->pixel, LATER_ACROSS, p->pixel);
        for (ptrdiff_t j = 0; j < t->rows; j++) {
            const double count = t->counted[j] * counted[o];
            by[j] = sizeof(acc<S>) == 8 ? count : count == full ? 1 / full : 1 / count;
        }
    };
    for (ptrdiff_t i = 0, run; i < size; i += run) {
        const Holders h = holders[i];
        run = held_alike(p, holders, i, size, bytes);
        S *to = (S *)stage_pixel(dx, p->y + i * p->y_step, run * bytes);
        if (alone && h.first < h.end) begin_window(h.first);
        for (; !alone && known < h.end; known++) {
            begin_window(known);
            each_side<S>(p->channels, [=, &by, slot = slot_of(known)](ptrdiff_t c, ptrdiff_t n, auto sides) TERM {
                constexpr int N = decltype(sides)::value;
                Doubles<S> v[N];
                total_window_by<S, N>(v, t, known, p, by, c, n);
                EACH(i, N) store_pack(slot + c + i * L, v[i]);
            });
        }
        for (ptrdiff_t o = h.first; o < h.end; o++) brought[o - h.first] = slot_of(o);
        each_side<S>(p->channels, [=, &by, &brought](ptrdiff_t c, ptrdiff_t n, auto sides) TERM {
            constexpr int N = decltype(sides)::value;
            Sum<Doubles<S>> s[N];
            Doubles<S> v[N];
            EACH(i, N) s[i] = no_sum<S>();
            for (ptrdiff_t o = h.first; o < h.end; o++) {
                if (alone) total_window_by<S, N>(v, t, o, p, by, c, n);
                else EACH(i, N) load_pack(brought[o - h.first] + c + i * L, &v[i]);
                EACH(i, N) add<S>(&s[i], v[i]);
            }
            put_run<S, N>(to + c, run, s, p, n);
        });
    }
}

// The lesser, as unsigned numbers.
template <class A, int N> INLINE Pack<A, N> less_unsigned(Pack<A, N> a, Pack<A, N> b) {
    typedef typename std::make_unsigned<A>::type U;
    return each<A>([](vec<A> x, vec<A> y) { return (vec<A>)((vec<U>)x < (vec<U>)y ? (vec<U>)x : (vec<U>)y); }, a, b);
}
// The places of the maxima of windows from_window to end of a row, as integers of the width of the lanes, which are kept. Windows have no
// dilation. Returns whether a place is not in its window.
template <class S> __attribute__((noinline)) bool narrow_places(const Taking *t, ptrdiff_t j, const Pixels *p, const Windows *w, ptrdiff_t from_window, ptrdiff_t end) {
    typedef bits_t<acc<S>> I;
    constexpr ptrdiff_t L = lanes<S>();
    const ptrdiff_t channels = p->channels, plane = w[1].size * w[2].size;
    const ptrdiff_t d = t->depth[j], first_d = first_within(&w[0], d), planes = end_within(&w[0], d) - first_d;
    const ptrdiff_t h = t->height[j], first_h = first_within(&w[1], h), rows = end_within(&w[1], h) - first_h;
    const Mask<S> row = whole<S>((I)w[2].size), next_plane = whole<S>((I)(plane - rows * w[2].size)), none = whole<S>(0);
    Mask<S> outside = none;
    Mask<double> bits = whole<double>(0);  // of all places
    for (ptrdiff_t o = from_window; o < end; o++) {
        const ptrdiff_t begin = first_within(&w[2], o), columns = end_within(&w[2], o) - begin;
        const Mask<S> from = whole<S>((I)(first_d * plane + first_h * w[2].size + begin)), last = whole<S>((I)(columns - 1));
        const int64_t *index = (const int64_t *)(t->index[j] + o * p->index_step);
        I *to = (I *)t->places[j] + o * p->across;
        if (p->fresh) {
            ask_ahead((const char *)index, LATER, p->index_step);
            ask_ahead(t->dy[j] + o * p->pixel, LATER_ACROSS, p->pixel);
        }
        each_side<S>(channels, [=, &outside, &bits](ptrdiff_t c, ptrdiff_t n, auto sides) TERM {
            constexpr int N = decltype(sides)::value;
            // The column, counted from the window's, in the row where it comes to least.
            Mask<S> at[N], column[N], least[N];
            EACH(i, N) least[i] = column[i] = (at[i] = places_within(acc<S>(), index + c + i * L, 0, n - i * L)) - from;
            for (ptrdiff_t k = 0; k < planes; k++) {
                for (ptrdiff_t m = 0; m < rows; m++) EACH(i, N) least[i] = less_unsigned(least[i], column[i]), column[i] = column[i] - row;
                EACH(i, N) column[i] = column[i] - next_plane;
            }
            EACH(i, N) {
                const Mask<S> wrong = least[i] | (last - least[i]);
                outside = outside | (n - i * L < L ? wrong & first<S>(n - i * L) : wrong);
                for (ptrdiff_t j = i * L; j < i * L + L; j += lanes<double>()) bits = bits | as<int64_t>(load_some<double>((const double *)index + c + j, n - j, 0));
                store_pack(to + c + i * L, at[i]);
            }
        });
    }
    return any(none > outside) || (sizeof(I) == 4 && any(shift_right(bits, 32) != whole<double>(0)));
}
// An element, whose place this is, takes from these rows and columns of windows, the first of which bring `dy` and have their maxima `at`.
// ROWS and COLUMNS: how many these are where they are at most two each, and 0 for others. Up to two numbers come to the same in the
// accumulator's precision and, rounded once more, in double.
template <class S> struct Near { const S *dy; const bits_t<acc<S>> *at; };
template <class S, int ROWS, int COLUMNS> INLINE void match_element(S *dx, const Near<S> *near, const Pixels *p, ptrdiff_t rows, ptrdiff_t columns, Mask<S> here) {
    typedef bits_t<acc<S>> I;
    constexpr ptrdiff_t L = lanes<S>();
    constexpr bool FEW = ROWS * COLUMNS == 1 || ROWS * COLUMNS == 2;
    const ptrdiff_t pixel = p->pixel, across = p->across;
    const bool lines = p->lines;
    const Lanes<S> zero = constant<Lanes<S>>(0);
    each_side<S>(p->channels, [=](ptrdiff_t c, ptrdiff_t n, auto sides) TERM {
        constexpr int N = decltype(sides)::value;
        Lanes<S> few[N];
        Sum<Doubles<S>> many[N];
        EACH(i, N) few[i] = zero, many[i] = no_sum<S>();
        const auto take = [&](ptrdiff_t j, ptrdiff_t k) TERM {
            const S *dy = (const S *)((const char *)near[j].dy + k * pixel) + c;
            const I *at = near[j].at + k * across + c;
            EACH(i, N) {
                const Lanes<S> x = select(load<I>(at + i * L) == here, load_some<S>(dy + i * L, n - i * L, 0), zero);
                if (FEW) few[i] = few[i] + x; else add<S>(&many[i], doubles<S>(x));
            }
        };
        if (COLUMNS) EACH(j, ROWS) EACH(k, COLUMNS) take(j, k);
        else for (ptrdiff_t j = 0; j < rows; j++) for (ptrdiff_t k = 0; k < columns; k++) take(j, k);
        EACH(i, N) put_some<S>(dx + c + i * L, FEW ? few[i] : lanes_of<S>(total_of<S>(many[i])), n - i * L, lines);
    });
}
template <class S, int ROWS> __attribute__((noinline)) bool match_row(const Pixels *p, const Taking *t, const Holders *holders, const Windows *w, ptrdiff_t place, Staged *dx) {
    typedef bits_t<acc<S>> I;
    const ptrdiff_t size = w[2].size, rows = ROWS ? ROWS : t->rows;
    bool outside = false;
    ptrdiff_t known = 0;
    const auto learn = [&](ptrdiff_t end) {
        for (ptrdiff_t j = 0; j < rows; j++)
            if (t->unknown[j]) outside = outside | narrow_places<S>(t, j, p, w, known, end);
        known = end;
    };
    for (ptrdiff_t i = 0; i < size; i++) {
        const ptrdiff_t first = holders[i].first, end = holders[i].end, columns = end - first;
        if (known < end) learn(std::min<ptrdiff_t>(w[2].count, end + 7));  // a few at a time
        S *to = (S *)stage_pixel(dx, p->y + i * p->y_step, p->channels * sizeof(S));
        Near<S> near[ROWS ? ROWS : ROWS_TAKEN];
        for (ptrdiff_t j = 0; j < rows; j++) near[j] = {(const S *)(t->dy[j] + first * p->pixel), (const I *)t->places[j] + first * p->across};
        const Mask<S> here = whole<S>((I)(place + i));
        if (ROWS && columns == 1) match_element<S, ROWS, 1>(to, near, p, rows, columns, here);
        else if (ROWS && columns == 2) match_element<S, ROWS, 2>(to, near, p, rows, columns, here);
        else match_element<S, ROWS, 0>(to, near, p, rows, columns, here);
    }
    learn(w[2].count);
    return outside;
}
// The gradient of maxima: a row of elements, whose first has this place. Returns whether a maximum is not in its window.
template <class S> bool match_pixels(const S *, const Pixels *p, const Taking *t, const Holders *holders, const Windows *w, ptrdiff_t place, Staged *dx) {
    return (t->rows == 1 ? match_row<S, 1> : t->rows == 2 ? match_row<S, 2> : match_row<S, 0>)(p, t, holders, w, place, dx);
}
#undef EACH

}  // namespace
}  // namespace softcore
