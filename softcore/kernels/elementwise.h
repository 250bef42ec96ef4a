// elementwise.h: what happens to one element, in lanes, and the loops that carry it over a tile.
#pragma once
#include "convert.h"
#include "state.h"

namespace softcore {
namespace {

// y[j] = f(j): whole Lanes, past the cache where asked for and aligned, and what is left in part.
template <class S, class F> INLINE void over_tile(S *y, ptrdiff_t n, bool streaming, F f) {
    const ptrdiff_t L = lanes<S>();
    ptrdiff_t j = 0, head = streaming ? to_alignment(y) : -1;
    if (head >= 0 && head < n) {
        if (head) store_part<S>(y, f(0, head), head);
        for (j = head; j + L <= n; j += L) stream<S>(y + j, f(j, L));
    }
    for (; j + L <= n; j += L) store<S>(y + j, f(j, L));
    if (j < n) store_part<S>(y + j, f(j, n - j), n - j);
}

template <class S> void scale_kept(S *y, const acc<S> *kept, ptrdiff_t n, double factor, const Inverse<S> *inverse, bool streaming) {
    const Inverse<S> r = uniform<S>(*inverse);
    if (factor == 1) return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        return times<S>(m == lanes<S>() ? load<acc<S>>(kept + j) : load_part<acc<S>>(kept + j, m, 0), r); });
    const Lanes<S> f = splat<S>((acc<S>)factor);
    over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        return times<S>(f * (m == lanes<S>() ? load<acc<S>>(kept + j) : load_part<acc<S>>(kept + j, m, 0)), r); });
}
template <class S> void softmax_tile(S *y, const S *x, ptrdiff_t n, const RowFrame<S> *frame, const Inverse<S> *inverse, bool streaming) {
    const Frame<S> f = spread_frame<S>(*frame);
    const Inverse<S> r = uniform<S>(*inverse);
    over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM { return times<S>(exp_of<S>(load_some<S>(x + j, m, 0), f), r); });
}
template <class S> void log_softmax_tile(S *y, const S *x, ptrdiff_t n, const LogFrame<S> *frame, bool streaming) {
    const LogFrame<S> f = *frame;
    over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM { return log_softmax_of<S>(load_some<S>(x + j, m, 0), &f); });
}
// scale * y * (dy - sum(dy * y)), and scale * (dy - exp(y) * sum(dy)).
template <class S> INLINE Lanes<S> softmax_gradient(Lanes<S> dy, Lanes<S> y, Lanes<S> dot, Lanes<S> scale) { return (y * (dy - dot)) * scale; }
template <class S> INLINE Lanes<S> log_softmax_gradient(Lanes<S> dy, Lanes<S> y, Lanes<S> sum, Lanes<S> scale) {
    return (dy - exponential<S>(y) * sum) * scale;
}
template <class S> void softmax_backward_tile(S *dx, const S *dy, const S *y, ptrdiff_t n, const Sum<double> *dot, double scale, bool streaming) {
    const Lanes<S> d = lanes_of<S>(dot->high + dot->low), c = lanes_of<S>(scale);
    over_tile<S>(dx, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM { return softmax_gradient<S>(load_some<S>(dy + j, m, 0), load_some<S>(y + j, m, 0), d, c); });
}
template <class S> void log_softmax_backward_tile(S *dx, const S *dy, const S *y, ptrdiff_t n, const Sum<double> *sum, double scale, bool streaming) {
    const Lanes<S> d = lanes_of<S>(sum->high + sum->low), c = lanes_of<S>(scale);
    over_tile<S>(dx, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM { return log_softmax_gradient<S>(load_some<S>(dy + j, m, 0), load_some<S>(y + j, m, 0), d, c); });
}

// exp(-|x|) times 2^headroom, so that its small values have all their bits, and plain.
template <class S> struct Decay { Lanes<S> high, plain; };
template <class S> INLINE Decay<S> decay(Lanes<S> x) {
    typedef Exp<acc<S>> E;
    typedef Lanes<S> P;
    P zero = constant<P>(0), t = select(x < zero, x, zero - x);
    P e = exp_scaled(greater(constant<P>(E::lowest * LN2), t), constant<P>(E::magic + E::bias + E::headroom));
    return {e, e * constant<P>(std::ldexp(1.0, -E::headroom))};
}
template <class S> INLINE Lanes<S> sigmoid_of(Lanes<S> x) {
    typedef Lanes<S> P;
    const double unit = std::ldexp(1.0, Exp<acc<S>>::headroom);
    Decay<S> z = decay<S>(x);
    P top = select(x < constant<P>(0), z.high, constant<P>(unit));
    return top / (constant<P>(1) + z.plain) * constant<P>(1 / unit);
}
template <class S> INLINE Lanes<S> log1p_decay(Lanes<S> x) {
    Lanes<S> z = decay<S>(x).plain;
    return select(z < constant<Lanes<S>>(1e-30), z, log1p_unit<S>(z));
}
template <class S> INLINE Lanes<S> softplus_of(Lanes<S> x) {
    return select(x > constant<Lanes<S>>(0), x, constant<Lanes<S>>(0)) + log1p_decay<S>(x);
}
template <class S> INLINE Lanes<S> log_sigmoid_of(Lanes<S> x) {
    return select(x < constant<Lanes<S>>(0), x, constant<Lanes<S>>(0)) - log1p_decay<S>(x);
}
// dy * exp(x - y) of a logsumexp y; a row of -inf has no gradient.
template <class S> INLINE Lanes<S> logsumexp_gradient(Lanes<S> dy, Lanes<S> x, Lanes<S> y) {
    typedef Lanes<S> P;
    P zero = constant<P>(0), one = constant<P>(1), error, t = two_sum(x, zero - y, &error);
    // Far from 0 the error is itself too large for an exponent's correction, or NaN; exp(t) is 0 or inf there without it.
    P e = exp(t, select((error < one) & (zero - error < one), error, zero));
    return select(y == constant<P>(-INFINITY), zero, dy * e);
}
// The part of dy that goes to a: all of it where a is the maximum, half where both are.
template <class S> INLINE Lanes<S> maximum_gradient(Lanes<S> dy, Lanes<S> a, Lanes<S> b) {
    typedef Lanes<S> P;
    Mask<S> an = a != a, bn = b != b, one = (a > b) | (an & (b == b)), tie = (a == b) | (an & bn);
    P half = std::is_integral<acc<S>>::value ? dy / constant<P>(2) : dy * constant<P>(0.5);
    return select(one, dy, select(tie, half, constant<P>(0)));
}

enum Elementwise { RELU, STEP, SIGMOID, LOG_SIGMOID, SOFTPLUS, RELU_BACKWARD, SIGMOID_BACKWARD, LOG_SIGMOID_BACKWARD, SOFTPLUS_BACKWARD, MAXIMUM, MAXIMUM_GRADIENT };

// One tile of an element-wise op.  Integers have only the choices.
template <class S> void choose_tile(int op, S *y, const S *a, const S *b, const S *c, ptrdiff_t n, bool streaming) {
    typedef Lanes<S> P;
    const P zero = constant<P>(0);
#define LOAD(p) load_some<S>(p + j, m, 0)
#define OVER(expression) return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM { return expression; })
    switch (op) {
    case RELU: OVER((greater(zero, LOAD(a))));
    case RELU_BACKWARD: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P x = LOAD(b); return select(x > zero, LOAD(a), select(x != x, x, zero)); });
    case MAXIMUM: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P u = LOAD(a), v = LOAD(b); return select(u != u, u, select(v != v, v, max(u, v))); });
    case MAXIMUM_GRADIENT: OVER((maximum_gradient<S>(LOAD(a), LOAD(b), LOAD(c))));
    }
}
template <class S> void map_tile(int op, S *y, const S *a, const S *b, ptrdiff_t n, bool streaming) {
    typedef Lanes<S> P;
    const P zero = constant<P>(0), one = constant<P>(1);
    switch (op) {
    case STEP: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P x = LOAD(a); return select(x != x, x, select(x > zero, one, zero)); });
    case SIGMOID: OVER((sigmoid_of<S>(LOAD(a))));
    case LOG_SIGMOID: OVER((log_sigmoid_of<S>(LOAD(a))));
    case SOFTPLUS: OVER((softplus_of<S>(LOAD(a))));
    case SIGMOID_BACKWARD: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P s = LOAD(b); return LOAD(a) * (s * (one - s)); });
    case LOG_SIGMOID_BACKWARD: OVER((LOAD(a) * sigmoid_of<S>(zero - LOAD(b))));
    case SOFTPLUS_BACKWARD: OVER((LOAD(a) * sigmoid_of<S>(LOAD(b))));
    }
}
template <class S> void logsumexp_backward_tile(S *y, const S *dy, const S *x, const S *lse, const S *b, ptrdiff_t n, bool streaming) {
    const Lanes<S> zero = constant<Lanes<S>>(0);
    if (!b) OVER((logsumexp_gradient<S>(LOAD(dy), LOAD(x), LOAD(lse))));
    over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        Lanes<S> weight = LOAD(b);
        return select(weight == zero, zero, weight * logsumexp_gradient<S>(LOAD(dy), LOAD(x), LOAD(lse))); });
}
#undef OVER
#undef LOAD
// exp itself, kept reachable so that the tests can try every float32.
template <class S> void exp_tile(S *y, const S *x, ptrdiff_t n) {
    over_tile<S>(y, n, false, [=](ptrdiff_t j, ptrdiff_t m) TERM { return exponential<S>(load_some<S>(x + j, m, 0)); });
}

// ---------------------------------------------------------------- max

template <class S> struct Best { acc<S> m; int64_t index; bool found, nan; };

template <class S> INLINE acc<S> not_a_number(const S *) { return std::numeric_limits<acc<S>>::quiet_NaN(); }
template <class S> INLINE acc<S> value_at(const S *p) { return widen<S>(*p); }
template <class S> INLINE acc<S> larger_of(acc<S> a, const Best<S> *s) {
    if (!s->found || a > s->m || (a == s->m && std::signbit((double)s->m))) return a;
    return s->m;
}
template <class S> INLINE bool alike_one(acc<S> a, acc<S> b) { return a == b || (a != a && b != b); }
template <class S> ptrdiff_t count_alike(const S *x, ptrdiff_t n, acc<S> v, const unsigned char *mask) {
    ptrdiff_t count = 0;
    for (ptrdiff_t j = 0; j < n; j++) count += (!mask || mask[j]) && alike_one<S>(widen<S>(x[j]), v);
    return count;
}
template <class S> S *put_where_alike(S *y, const S *x, ptrdiff_t n, acc<S> v, S dy) {
    const S zero = narrow<S>(0);
    for (ptrdiff_t j = 0; j < n; j++) y[j] = alike_one<S>(widen<S>(x[j]), v) ? dy : zero;
    return y;
}
template <class S> INLINE void share(S *dy, ptrdiff_t count) { *dy = narrow<S>((acc<S>)(widen<S>(*dy) / (acc<S>)count)); }
template <class S> INLINE void copy_tile(S *y, const S *x, ptrdiff_t n) { std::memcpy(y, x, n * sizeof(S)); }
INLINE void put_index(char *p, long long i) { std::memcpy(p, &i, sizeof i); }
INLINE long long index_at(const char *p, int code) { long long i; gather<long long>(&i, p, 0, 1, code); return i; }
template <class S> INLINE double as_number(S s) { return (double)widen<S>(s); }
INLINE void add_exact(Sum<double> *s, double x) { add<double>(s, x); }
// The largest of a tile, +0 above -0 if SIGNED (which only max itself needs), and whether a NaN is among them if
// that is asked for: without NAN_TOO a NaN may or may not show.
template <class S, bool SIGNED, bool NAN_TOO> INLINE acc<S> largest_of_tile(const S *x, ptrdiff_t n, bool *nan) {
    typedef Lanes<S> P;
    const ptrdiff_t L = lanes<S>();
    auto larger = [](P u, P v) TERM { return SIGNED ? max(u, v) : greater(u, v); };
    P a = splat<S>(widen<S>(x[0])), b = a;
    Mask<S> bad = a != a;
    ptrdiff_t j = 0;
    for (; j + 4 * L <= n; j += 4 * L) {
        P u = load<S>(x + j), v = load<S>(x + j + L), w = load<S>(x + j + 2 * L), z = load<S>(x + j + 3 * L);
        if (NAN_TOO) bad = bad | unordered(u, v) | unordered(w, z);
        a = larger(a, larger(u, w));
        b = larger(b, larger(v, z));
    }
    for (; j < n; j += L) {
        P u = j + L <= n ? load<S>(x + j) : load_part<S>(x + j, n - j, widen<S>(x[0]));
        if (NAN_TOO) bad = bad | (u != u);
        a = larger(a, u);
    }
    if (NAN_TOO) *nan = any(bad);
    return SIGNED ? largest_signed<S>(max(a, b)) : largest<S>(greater(a, b));
}
template <class S> __attribute__((noinline)) acc<S> tile_max(const S *x, ptrdiff_t n, int *nan) {
    bool bad = false;
    acc<S> m = largest_of_tile<S, false, true>(x, n, &bad);
    if (m == 0 && !bad && !std::is_integral<acc<S>>::value) m = largest_of_tile<S, true, true>(x, n, &bad);  // which zero?
    *nan = bad;
    return m;
}
// For softmax, where a NaN beside a finite maximum shows in the sum; beside an infinite one it is looked for.
template <class S> __attribute__((noinline)) double top_of_tile(const S *x, ptrdiff_t n) {
    bool nan = false;
    acc<S> m = largest_of_tile<S, false, false>(x, n, &nan);
    if (std::isfinite(m)) return m;
    m = largest_of_tile<S, false, true>(x, n, &nan);
    return nan ? (double)NAN : (double)m;
}
// Rows j0.. of columns: the running maximum m, and bad where a NaN was seen.  Eight rows at a time.
template <class S, bool SIGNED> __attribute__((noinline)) void max_columns_of(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, Lanes<S> *m, Mask<S> *bad) {
    const ptrdiff_t L = lanes<S>(), groups = (width + L - 1) / L;
    for (ptrdiff_t j = 0; j < n; j += 8) {
        const ptrdiff_t rows = n - j < 8 ? n - j : 8;
        for (ptrdiff_t i = 0; i < rows; i++)  // the next rows lie in other pages, where no hardware looks ahead
            for (ptrdiff_t g = 0; g < groups; g++) prefetch(row_at(x, stride, j + 8 + i) + g * L);
        for (ptrdiff_t g = 0; g < groups; g++) {
            const S *p = row_at(x, stride, j) + g * L;
            Lanes<S> a = m[g];
            Mask<S> b = bad[g];
            auto meet = [&](ptrdiff_t i) TERM {
                Lanes<S> v = load_some<S>(row_at(p, stride, i), width - g * L, 0);
                b = b | (v != v);
                a = SIGNED ? max(a, v) : greater(a, v);
            };
            if (rows == 8) { meet(0); meet(1); meet(2); meet(3); meet(4); meet(5); meet(6); meet(7); }
            else for (ptrdiff_t i = 0; i < rows; i++) meet(i);
            m[g] = a;
            bad[g] = b;
        }
    }
}
template <class S> INLINE void max_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, bool signed_zero, Lanes<S> *m, Mask<S> *bad) {
    if (signed_zero) max_columns_of<S, true>(x, stride, n, width, m, bad);
    else max_columns_of<S, false>(x, stride, n, width, m, bad);
}
// The running maximum with the row it came from, counted from `base` in lanes; exact while the count is.
template <class S> __attribute__((noinline)) void argmax_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, bool last, Lanes<S> *best, long long *index, ptrdiff_t base, bool first) {
    const ptrdiff_t L = lanes<S>(), groups = (width + L - 1) / L;
    Lanes<S> where[16], one = constant<Lanes<S>>(1);
    for (ptrdiff_t g = 0; g < groups; g++) {
        where[g] = constant<Lanes<S>>(-1);
        if (first) best[g] = load_some<S>(x + g * L, width - g * L, 0), where[g] = constant<Lanes<S>>(0);
    }
    Lanes<S> row = constant<Lanes<S>>(0);
    for (ptrdiff_t j = 0; j < n; j++, row = row + one)
        for (ptrdiff_t g = 0; g < groups; g++) {
            Lanes<S> v = load_some<S>(row_at(x, stride, j) + g * L, width - g * L, 0), m = best[g];
            Mask<S> hit = (last ? v >= m : v > m) | ((v != v) & (m == m));
            best[g] = select(hit, v, m);
            where[g] = select(hit, row, where[g]);
        }
    for (ptrdiff_t g = 0; g < groups; g++) {
        acc<S> a[lanes<S>()];
        store_pack(a, where[g]);
        for (ptrdiff_t i = 0; i < L && g * L + i < width; i++) if (a[i] >= 0) index[g * L + i] = base + (int64_t)a[i];
    }
}

}  // namespace
}  // namespace softcore
