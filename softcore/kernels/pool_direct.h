// pool_direct.h: windows that are read where they lie, along rows, where they are one or two elements apart.
//
// Most pooling is this.  Nothing is packed, and what is written past the cache is put together in lines first.  The additions and
// comparisons are those of pool.h, in their order.
#pragma once
#include "pool.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- results on their way to memory

// Bytes that follow each other in memory, the first of them `begin` bytes into a line.  `past` the cache they go in whole lines.
enum { SENT = 512, STAGED = 8192, STAGED_ROOM = STAGED + 512 };  // and what may be written beyond the end of a row
struct Staged { char *room, *line; ptrdiff_t begin, end; bool past; };
INLINE void open_staged(Staged *s, char *room, bool past) { *s = {room, nullptr, 0, 0, past}; }
INLINE void send_lines(Staged *s) {
    ptrdiff_t at = 0;
    const ptrdiff_t whole = s->end / 64 * 64;
    if (s->begin && whole) {
        std::memcpy(s->line + s->begin, s->room + s->begin, 64 - s->begin);
        at = 64;
    }
    for (; at < whole; at += 64) {
        const Lanes<float> v = load<float>((const float *)(s->room + at));
        if (s->past) stream<float>((float *)(s->line + at), v); else store<float>((float *)(s->line + at), v);
    }
    if (!whole) return;
    std::memcpy(s->room, s->room + whole, 64);
    s->line += whole, s->begin = 0, s->end -= whole;
}
INLINE void close_staged(Staged *s) {
    send_lines(s);
    if (s->end > s->begin) std::memcpy(s->line + s->begin, s->room + s->begin, s->end - s->begin);
    s->line = nullptr, s->begin = s->end = 0;
}
// Where to write the next `bytes`, of at most STAGED - 64, that belong to `to`.
INLINE char *stage(Staged *s, char *to, ptrdiff_t bytes) {
    if (s->line + s->end != to) {
        close_staged(s);
        s->begin = s->end = (ptrdiff_t)((uintptr_t)to % 64);
        s->line = to - s->end;
    }
    if (s->end >= SENT || s->end + bytes > STAGED) send_lines(s);
    char *at = s->room + s->end;
    s->end += bytes;
    return at;
}

// ---------------------------------------------------------------- loads

// `bytes` of what is read `later` bytes on: several streams side by side are not seen coming.
enum { LATER = 8192, LATER_ACROSS = 4096 };
INLINE void ask_ahead(const char *p, ptrdiff_t later, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < std::min<ptrdiff_t>(bytes, 4096); i += 64) prefetch_near(p + later + i);
}

// Elements c, c + 1, .. of a row of `size`; those outside are `fill`.
template <class S> Lanes<S> load_edge(const S *row, ptrdiff_t c, ptrdiff_t size, acc<S> fill) {
    const ptrdiff_t from = std::max<ptrdiff_t>(0, -c), to = std::min(lanes<S>(), size - c);
    S a[lanes<S>()];
    std::fill_n(a, lanes<S>(), narrow<S>(fill));
    if (from < to) std::memcpy(a + from, row + c + from, (to - from) * sizeof(S));
    return load<S>(a);
}
// Which lanes lie in the row.
template <class S> INLINE Mask<S> within(ptrdiff_t c, ptrdiff_t size) {
    const ptrdiff_t L = lanes<S>();
    const Mask<S> m = first<S>(std::max<ptrdiff_t>(0, std::min(L, size - c)));
    return c < 0 ? m - first<S>(std::min(L, -c)) : m;
}
template <class S> INLINE Lanes<S> load_where(const S *row, ptrdiff_t c, ptrdiff_t size, Mask<S>, acc<S> fill) { return load_edge<S>(row, c, size, fill); }
#if SOFTCORE_VECTOR >= 32
template <> INLINE Lanes<float> load_where<float>(const float *row, ptrdiff_t c, ptrdiff_t, Mask<float> m, float fill) { return load_masked(row + c, m, splat<float>(fill)); }
template <> INLINE Lanes<double> load_where<double>(const double *row, ptrdiff_t c, ptrdiff_t, Mask<double> m, double fill) { return load_masked(row + c, m, splat<double>(fill)); }
#endif
#if SOFTCORE_VECTOR == 64
template <class S> INLINE Lanes<S> load_halves_where(const S *p, Mask<S> m, float fill) {
    alignas(32) S a[16];
    _mm256_store_si256((__m256i *)a, _mm256_maskz_loadu_epi16(_mm512_movepi32_mask((__m512i)m.v), p));
    return select(m, load<S>(a), splat<S>(fill));
}
template <> INLINE Lanes<half> load_where<half>(const half *row, ptrdiff_t c, ptrdiff_t, Mask<half> m, float fill) { return load_halves_where(row + c, m, fill); }
template <> INLINE Lanes<bfloat16> load_where<bfloat16>(const bfloat16 *row, ptrdiff_t c, ptrdiff_t, Mask<bfloat16> m, float fill) { return load_halves_where(row + c, m, fill); }
#endif
template <class S> INLINE Lanes<S> load_within(const S *row, ptrdiff_t c, ptrdiff_t size, acc<S> fill) {
    return __builtin_expect(c >= 0 && c + lanes<S>() <= size, 1) ? load<S>(row + c) : load_where<S>(row, c, size, within<S>(c, size), fill);
}
// Indices as integers of the width of the lanes; outside the row they are -1.
INLINE Lanes<double> eight_places(const int64_t *row, ptrdiff_t c, ptrdiff_t size) { return load_within<double>((const double *)row, c, size, from_bits<double>(~(uint64_t)0)); }
INLINE Mask<double> places_within(double, const int64_t *row, ptrdiff_t c, ptrdiff_t size) { return as<int64_t>(eight_places(row, c, size)); }
INLINE Mask<float> places_within(float, const int64_t *row, ptrdiff_t c, ptrdiff_t size) {
    return as<int32_t>(evens(as<float>(eight_places(row, c, size)), as<float>(eight_places(row, c + 8, size))));
}
// Counted from `start`.
template <int N> INLINE Pack<int64_t, N> from_start(Pack<int64_t, N> at, int64_t start) {
    Pack<int64_t, N> first;
    spread(start, &first);
    return at + first;
}
INLINE void store_places(int64_t *p, Mask<double> at, int64_t start) { store_pack(p, from_start(at, start)); }
INLINE void store_places(int64_t *p, Mask<float> at, int64_t start) { store_pack(p, from_start(widen_signed(at), start)); }
template <class S> INLINE void store_some_places(int64_t *p, Mask<S> at, int64_t start, ptrdiff_t n) {
    if (n >= lanes<S>()) return store_places(p, at, start);
    int64_t places[lanes<S>()];
    store_places(places, at, start);
    std::memcpy(p, places, n * sizeof *p);
}
template <class A> INLINE Pack<bits_t<A>, 1> counting(Pack<A, 1> *, bits_t<A> from, bits_t<A> step) {
    vec<bits_t<A>> index;
    for (unsigned i = 0; i < sizeof index / sizeof(A); i++) index[i] = (bits_t<A>)i * step;
    return {(vec<bits_t<A>>)(index + (from - vec<bits_t<A>>{}))};
}
template <class A, int N> INLINE Pack<bits_t<A>, N> counting(Pack<A, N> *p, bits_t<A> from, bits_t<A> step) {
    return {counting(&p->lo, from, step), counting(&p->hi, (bits_t<A>)(from + step * (bits_t<A>)(sizeof p->lo / sizeof(A))), step)};
}
// from, from + step, from + 2 step, ..
template <class S> INLINE Mask<S> counting(ptrdiff_t from, ptrdiff_t step) {
    return counting((Lanes<S> *)nullptr, (bits_t<acc<S>>)from, (bits_t<acc<S>>)step);
}

// ---------------------------------------------------------------- windows along rows

// The rows of the input that a row of windows reads, in order, and how far each is from the window's start.
enum { ROWS_READ = 16 };
struct Reading { const char *row[ROWS_READ]; ptrdiff_t place[ROWS_READ], rows; };
INLINE void ask_for_rows(const Reading *r, ptrdiff_t bytes) { ask_ahead(r->row[r->rows - 1], LATER, bytes); }

// A Lanes of windows, of which the first starts in column c.  EDGE: some of what they read may lie outside the row.
template <class S, int STRIDE, int WINDOW, bool EDGE> struct Taps {
    static constexpr int LOADS = STRIDE == 1 ? WINDOW : (WINDOW + 1) / 2 * 2;
    ptrdiff_t c, size, window;
    acc<S> fill;
    Mask<S> in[LOADS + 1];
    INLINE Taps(const Windows *w, ptrdiff_t c, acc<S> fill) : c(c), size(w->size), window(WINDOW ? WINDOW : w->window), fill(fill) {
#pragma GCC unroll 4
        for (int i = 0; EDGE && i < LOADS; i++) in[i] = within<S>(c + column(i), size);
    }
    static INLINE ptrdiff_t column(ptrdiff_t i) { return STRIDE == 1 ? i : i / 2 * 2 + i % 2 * lanes<S>(); }
    INLINE Lanes<S> read(const S *row, ptrdiff_t i) const {
        if (!EDGE) return load<S>(row + c + column(i));
        if (!WINDOW) return load_within<S>(row, c + column(i), size, fill);
        return load_where<S>(row, c + column(i), size, in[i], fill);
    }
    // f(t, x) for each tap of them.
    template <class F> INLINE void each(const S *row, F f) const {
#pragma GCC unroll 3
        for (ptrdiff_t t = 0; t < window; t += STRIDE) {
            const Lanes<S> a = read(row, t);
            if (STRIDE == 1) {
                f(t, a);
                continue;
            }
            const Lanes<S> b = read(row, t + 1);
            f(t, evens(a, b));
            if (t + 1 < window) f(t + 1, odds(a, b));
        }
    }
};
// f(j, edge) for each Lanes of n windows from `first` on, the last of them up to the last window where there are that many.
template <class S, int STRIDE, class F> INLINE void each_lanes(const Windows *w, ptrdiff_t first, ptrdiff_t n, F f) {
    const ptrdiff_t L = lanes<S>(), reach = STRIDE * L + (w->window - 1) / STRIDE * STRIDE;
    for (ptrdiff_t j = 0; j < n; j += L) {
        if (j + L > n && n >= L) j = n - L;
        const ptrdiff_t c = start_of(w, first + j);
        if (c >= 0 && c + reach <= w->size) f(j, c, std::false_type()); else f(j, c, std::true_type());
    }
}
template <class S, int STRIDE, int WINDOW, bool EDGE, bool INDEX, bool NANS> INLINE bool max_of_windows(const Reading *r, const Windows *w, ptrdiff_t c, Lanes<S> *top, Mask<S> *where) {
    typedef bits_t<acc<S>> I;
    Lanes<S> m = constant<Lanes<S>>(-INFINITY), seen = constant<Lanes<S>>(0);
    Mask<S> at = whole<S>(0);
    if (INDEX) {  // the first tap in the input: there a window that holds nothing but -inf has its maximum
        at = whole<S>((I)r->place[0]);
        if (EDGE && c < 0) at = at + greater(counting<S>(-c, -STRIDE), whole<S>(0));
    }
    const Taps<S, STRIDE, WINDOW, EDGE> taps(w, c, -std::numeric_limits<acc<S>>::infinity());
    for (ptrdiff_t i = 0; i < r->rows; i++)
        taps.each((const S *)r->row[i], [&](ptrdiff_t t, Lanes<S> x) TERM {
            if (!NANS) seen = EDGE ? select(x == x, seen, x) : mad(x, constant<Lanes<S>>(0), seen);  // NaN if x is, or perhaps infinite
            if (!INDEX && !NANS) {
                m = greater(x, m);
                return;
            }
            const Mask<S> better = beats<S, NANS>(x, m);
            m = select(better, x, m);
            if (INDEX) at = select(better, whole<S>((I)(r->place[i] + t)), at);
        });
    *top = m, *where = at;
    return !NANS && any(seen != seen);
}
// `start` is the place of the first window's start.
template <class S, int STRIDE, int WINDOW, bool INDEX> __attribute__((noinline)) void max_row_by(char *y, char *index, const Reading *r, const Windows *w, ptrdiff_t first, ptrdiff_t n, ptrdiff_t start) {
    each_lanes<S, STRIDE>(w, first, n, [&](ptrdiff_t j, ptrdiff_t c, auto edge) TERM {
        constexpr bool EDGE = decltype(edge)::value;
        Lanes<S> m;
        Mask<S> at;
        if (__builtin_expect((max_of_windows<S, STRIDE, WINDOW, EDGE, INDEX, false>(r, w, c, &m, &at)), 0)) max_of_windows<S, STRIDE, WINDOW, true, INDEX, true>(r, w, c, &m, &at);
        store<S>((S *)y + j, m);
        if (INDEX) store_places((int64_t *)index + j, at + counting<S>(j * STRIDE, STRIDE), start);
    });
}
// The usual windows have their own loops: f(stride, window), 0 where it is another.
template <class F> INLINE void by_window(const Windows *w, F f) {
    typedef std::integral_constant<int, 1> One;
    typedef std::integral_constant<int, 2> Two;
    typedef std::integral_constant<int, 3> Three;
    typedef std::integral_constant<int, 0> Any;
    if (w->stride == 1) return w->window == 3 ? f(One(), Three()) : f(One(), Any());
    return w->window == 2 ? f(Two(), Two()) : w->window == 3 ? f(Two(), Three()) : f(Two(), Any());
}
template <class S> void max_row(const S *, char *y, char *index, const Reading *r, const Windows *w, ptrdiff_t first, ptrdiff_t n, ptrdiff_t start) {
    by_window(w, [=](auto stride, auto window) TERM {
        if (index) max_row_by<S, stride, window, true>(y, index, r, w, first, n, start);
        else max_row_by<S, stride, window, false>(y, index, r, w, first, n, start);
    });
}
template <class S, int STRIDE, int WINDOW> __attribute__((noinline)) bool mean_row_by(char *y, const Reading *r, const Windows *w, ptrdiff_t first, ptrdiff_t n, const double *count) {
    bool wrong = false;
    each_lanes<S, STRIDE>(w, first, n, [&](ptrdiff_t j, ptrdiff_t c, auto edge) TERM {
        Sum<Doubles<S>> s = no_sum<S>();
        const Taps<S, STRIDE, WINDOW, decltype(edge)::value> taps(w, c, 0);
        for (ptrdiff_t i = 0; i < r->rows; i++) {
            Sum<Doubles<S>> row = no_sum<S>();
            taps.each((const S *)r->row[i], [&](ptrdiff_t, Lanes<S> x) TERM { add<S>(&row, doubles<S>(x)); });
            add_sums<S>(&s, row);
        }
        Doubles<S> by;
        load_pack(count + j, &by);
        const Lanes<S> v = mean_of<S>(s, by);
        if (sizeof(acc<S>) == 8) wrong = wrong | any((v - v) != constant<Lanes<S>>(0));
        store<S>((S *)y + j, v);
    });
    return wrong;
}
template <class S> bool mean_row(const S *, char *y, const Reading *r, const Windows *w, ptrdiff_t first, ptrdiff_t n, const double *count) {
    bool wrong = false;
    by_window(w, [&](auto stride, auto window) TERM { wrong = mean_row_by<S, stride, window>(y, r, w, first, n, count); });
    return wrong;
}

// ---------------------------------------------------------------- gradients: an element takes from the windows that hold it

// The windows that hold each element of an axis.
struct Holders { ptrdiff_t first, end; };
INLINE void find_holders(Holders *h, const Windows *w) {
    for (ptrdiff_t i = 0; i < w->size; i++) h[i] = {first_window(w, i), end_window(w, i)};
}
// What a row of elements takes from: rows of windows, in order, those of one depth after the other, and their numbers; what each of their
// windows counts as along the first two axes, or which places they have their maxima in, and whether these are yet to be learned.
enum { ROWS_TAKEN = 64 };
struct Taking {
    const char *dy[ROWS_TAKEN], *index[ROWS_TAKEN];
    ptrdiff_t depth[ROWS_TAKEN], height[ROWS_TAKEN];
    double counted[ROWS_TAKEN];
    char *places[ROWS_TAKEN];
    bool unknown[ROWS_TAKEN];
    ptrdiff_t rows;
};

// Rows: element STRIDE m + e of a row takes from windows m + from[e] to m + to[e].  WINDOW and BEFORE: of the usual windows, which have
// their own loops; WINDOW is 0 where they are others.
template <int STRIDE, int WINDOW = 0, int BEFORE = 0> struct Phases {
    ptrdiff_t from[STRIDE], to[STRIDE];
    INLINE explicit Phases(const Windows *w) {
        const ptrdiff_t window = WINDOW ? WINDOW : w->window, before = WINDOW ? BEFORE : w->before;
#pragma GCC unroll 2
        for (int e = 0; e < STRIDE; e++) {
            const ptrdiff_t tap = (e + before) % STRIDE;  // of the last window
            to[e] = (e + before) / STRIDE;
            from[e] = tap < window ? to[e] - (window - 1 - tap) / STRIDE : to[e] + 1;
        }
    }
    INLINE ptrdiff_t low() const { return std::min(from[0], from[STRIDE - 1]); }
    INLINE ptrdiff_t high() const { return std::max(to[0], to[STRIDE - 1]); }
    INLINE bool has(int e, ptrdiff_t k) const { return from[e] <= k && k <= to[e]; }
};
template <class F> INLINE void by_phases(const Windows *w, F f) {
    if (w->stride == 1) return f(Phases<1>(w));
    if (w->window == 2 && w->before == 0) return f(Phases<2, 2, 0>(w));
    if (w->window == 3 && w->before == 1) return f(Phases<2, 3, 1>(w));
    return f(Phases<2>(w));
}
template <class S, int STRIDE> INLINE void put_phases(S *to, const Lanes<S> *v) {
    if (STRIDE == 1) return store<S>(to, v[0]);
    const auto both = alternate(v[0], v[STRIDE - 1]);
    store<S>(to, both.lo);
    store<S>(to + lanes<S>(), both.hi);
}
// The windows of a row that may hold elements first to first + n: from `first` on, `n` of them.
struct Stretch { ptrdiff_t first, n; };
template <int STRIDE> INLINE Stretch stretch_by(const Windows *w, ptrdiff_t first, ptrdiff_t n) {
    const Phases<STRIDE> phase(w);
    const ptrdiff_t from = first / STRIDE + phase.low();
    return {from, (first + n + STRIDE - 1) / STRIDE + phase.high() - from + 1};
}
INLINE Stretch stretch_of(const Windows *w, ptrdiff_t first, ptrdiff_t n) { return w->stride == 1 ? stretch_by<1>(w, first, n) : stretch_by<2>(w, first, n); }

enum { SPAN = 512, HOLDS = 64, SUMMED = SPAN + 192 };  // elements at once; windows that hold one, at most; and room for the windows of a span

// The sums of the windows of a span.
struct Slopes { double high[SUMMED], low[SUMMED], by[SUMMED]; ptrdiff_t first, n; };
INLINE void begin_span(Slopes *s, const Windows *w, ptrdiff_t first, ptrdiff_t n) {
    const Stretch t = stretch_of(w, first, n);
    s->first = t.first, s->n = t.n;
}
// What each window counts as, where its rows count `rows`: what to multiply floats by, and what to divide doubles by.
template <class S> void count_span(const S *, Slopes *s, const Windows *w, ptrdiff_t rows, bool padding) {
    for (ptrdiff_t j = 0; j < SUMMED; j++) {
        const ptrdiff_t o = s->first + j;
        const double count = o < 0 || o >= w->count ? 1 : (double)rows * (double)counted_taps(w, o, padding);
        s->by[j] = sizeof(acc<S>) == 4 ? 1 / count : count;
    }
}
// A row of windows joins those above it.
template <class S> void add_to_span(const S *, Slopes *s, const char *dy, const Windows *w, bool begins) {
    for (ptrdiff_t j = 0; j < s->n; j += lanes<S>()) {
        Sum<Doubles<S>> sum = begins ? no_sum<S>() : load_sum<S>(s->high, s->low, j);
        const Doubles<S> x = doubles<S>(load_within<S>((const S *)dy, s->first + j, w->count, 0));
        Doubles<S> by;
        load_pack(s->by + j, &by);
        add<S>(&sum, sizeof(acc<S>) == 4 ? x * by : x / by);
        store_sum<S>(s->high, s->low, j, sum);
    }
}
template <class S> void begin_sums(const S *, Slopes *s) {
    for (ptrdiff_t j = 0; j < s->n; j += lanes<S>()) store_sum<S>(s->high, s->low, j, no_sum<S>());
}
// Elements first to first + n of a row take from their windows.
template <class S, int STRIDE, int WINDOW, int BEFORE> __attribute__((noinline)) void spread_row_by(S *dx, const Slopes *s, const Phases<STRIDE, WINDOW, BEFORE> &given, ptrdiff_t from, ptrdiff_t n) {
    const Phases<STRIDE, WINDOW, BEFORE> phase = WINDOW ? Phases<STRIDE, WINDOW, BEFORE>(nullptr) : given;
    for (ptrdiff_t i = 0; i < n; i += STRIDE * lanes<S>()) {
        Lanes<S> v[STRIDE];
#pragma GCC unroll 2
        for (int e = 0; e < STRIDE; e++) {
            const ptrdiff_t m = from + i / STRIDE;
            Sum<Doubles<S>> sum = no_sum<S>();
#pragma GCC unroll 2
            for (ptrdiff_t o = m + phase.from[e]; o <= m + phase.to[e]; o++) add<S>(&sum, total_of<S>(load_sum<S>(s->high, s->low, o)));
            v[e] = lanes_of<S>(total_of<S>(sum));
        }
        put_phases<S, STRIDE>(dx + i, v);
    }
}
template <class S> void spread_row(const S *, char *dx, const Slopes *s, const Windows *w, ptrdiff_t first, ptrdiff_t n) {
    by_phases(w, [=](auto phase) TERM { spread_row_by<S>((S *)dx, s, phase, first / w->stride - s->first, n); });
}

}  // namespace
}  // namespace softcore
