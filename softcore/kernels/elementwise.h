// elementwise.h: what happens to one element, in lanes, and the loops that carry it over a tile.
#pragma once
#include "convert.h"
#include "state.h"

namespace softcore {
namespace {

// How many elements of a long row are worth taking by themselves, so that the Lanes after them are aligned.
template <class S> INLINE ptrdiff_t lead(const S *x, ptrdiff_t n) {
    const ptrdiff_t past = (ptrdiff_t)((uintptr_t)x % (lanes<S>() * sizeof(S)));
    return n < 96 * lanes<S>() || past % (ptrdiff_t)sizeof(S) || !past ? 0 : lanes<S>() - past / (ptrdiff_t)sizeof(S);
}
// y[j] = f(j): whole Lanes, past the cache where asked for, and what is left at either end in part.
template <class S, class F> INLINE void over_tile(S *y, ptrdiff_t n, bool streaming, F f) {
    const ptrdiff_t L = lanes<S>();
    ptrdiff_t j = 0, head = streaming ? to_alignment(y) : lead(y, n);
    if (head >= 0 && head < n) {
        if (head) store_part<S>(y, f(0, head), head);
        j = head;
        if (streaming) for (; j + L <= n; j += L) stream<S>(y + j, f(j, L));
    }
    for (; j + L <= n; j += L) store<S>(y + j, f(j, L));
    if (j < n) store_part<S>(y + j, f(j, n - j), n - j);
}

// Writes past the cache, for rows that follow each other in memory: a line that two rows share is put together here and
// written once, since half a line would first have to be read.
template <class S> struct Streamed {
    alignas(64) S line[64 / sizeof(S)];
    S *next = nullptr;   // where the row before ended, within a line
    ptrdiff_t begun = 0; // elements of that line which are in `line`
};
template <class S> INLINE void finish_line(Streamed<S> *s) {
    if (s->begun) std::memcpy(s->next - s->begun, s->line, s->begun * sizeof(S));
    s->begun = 0;
}
// Changes an element of a row that was written, though its line may wait for the row after.
template <class S> INLINE void put_late(Streamed<S> *s, S *p, S value) {
    const S *line = s->next - s->begun;
    *(s->begun && p >= line && p < s->next ? s->line + (p - line) : p) = value;
}
// A row in three parts: up to the first line, the whole Lanes from there on, and what is left.  `past` the cache or not.
struct Writing { ptrdiff_t j; bool past; };
template <class S, class F> INLINE Writing begin_row(S *y, ptrdiff_t n, Streamed<S> *s, F f) {
    const ptrdiff_t L = lanes<S>(), head = s ? to_alignment(y) : -1;
    if (!s) return {0, false};
    if (head < 0 || head > n) {
        finish_line(s);
        return {0, false};
    }
    if (head) {
        Lanes<S> v = f(0, head);
        if (s->begun && s->next == y) {
            store_part<S>(s->line + (L - head), v, head);
            stream<S>(y - (L - head), load<S>(s->line));
            s->begun = 0;
        } else {
            store_part<S>(y, v, head);
        }
    }
    finish_line(s);
    return {head, true};
}
template <class S> INLINE void put(S *p, Lanes<S> v, bool past) {
    if (past) stream<S>(p, v); else store<S>(p, v);
}
template <class S, class F> INLINE void end_row(S *y, ptrdiff_t n, Streamed<S> *s, Writing w, F f) {
    const ptrdiff_t L = lanes<S>();
    for (; w.j + L <= n; w.j += L) put<S>(y + w.j, f(w.j, L), w.past);
    if (w.j == n) return;
    if (!w.past) return store_part<S>(y + w.j, f(w.j, n - w.j), n - w.j);
    store_part<S>(s->line, f(w.j, n - w.j), n - w.j);
    s->begun = n - w.j, s->next = y + n;
}
template <class S, class F> INLINE void write_row(S *y, ptrdiff_t n, Streamed<S> *s, F f) { end_row(y, n, s, begin_row(y, n, s, f), f); }
// y = f(v, g), Lanes g of a row of columns after another; `streaming` where y is made of whole lines.
template <class S, class F> INLINE void over_columns(S *y, ptrdiff_t y_stride, const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, bool streaming, F f) {
    const ptrdiff_t L = lanes<S>(), groups = (width + L - 1) / L;
    streaming = streaming && to_alignment(y) == 0 && y_stride % 64 == 0;
    for (ptrdiff_t start = 0; start < n; start += ROWS)
        for (ptrdiff_t g = 0; g < groups; g++)
            rows_of_columns(row_at(x, stride, start) + g * L, stride, std::min(ROWS, n - start), width - g * L, [&](ptrdiff_t j, auto v) TERM {
                v = f(v, g);
                for (ptrdiff_t i = 0; i < (ptrdiff_t)(sizeof v / sizeof(Lanes<S>)); i++) {
                    S *p = (S *)((char *)y + (start + j + i) * y_stride) + g * L;
                    if (streaming && width - g * L >= L) stream<S>(p, part<S>(&v, i)); else store_some<S>(p, part<S>(&v, i), width - g * L);
                }
            });
}
template <class S, int WAY> __attribute__((noinline)) void softmax_columns_by_way(S *y, ptrdiff_t y_stride, const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const Frame<S> *frame, const Inverse<S> *inverse, bool streaming) {
    over_columns<S>(y, y_stride, x, stride, n, width, streaming, [=](auto v, ptrdiff_t g) TERM {
        return times<S>(value(term_by_way<S, WAY>(v, frame[g])), inverse[g]); });
}
// y = exp(scale x) / l, for columns.
template <class S> INLINE void softmax_of_columns(S *y, ptrdiff_t y_stride, const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const Frame<S> *frame, const Inverse<S> *inverse, double scale, bool streaming) {
    switch (way_of_columns<S>(frame, (width + lanes<S>() - 1) / lanes<S>(), scale)) {
    case SCALED: return softmax_columns_by_way<S, SCALED>(y, y_stride, x, stride, n, width, frame, inverse, streaming);
    case FAR: return softmax_columns_by_way<S, FAR>(y, y_stride, x, stride, n, width, frame, inverse, streaming);
    default: return softmax_columns_by_way<S, NEAR>(y, y_stride, x, stride, n, width, frame, inverse, streaming);
    }
}
template <class S> __attribute__((noinline)) void log_softmax_of_columns(S *y, ptrdiff_t y_stride, const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const LogFrame<S> *frame, double scale, bool streaming) {
    if (scale == 1) over_columns<S>(y, y_stride, x, stride, n, width, streaming, [=](auto v, ptrdiff_t g) TERM { return log_softmax_by_way<S, false>(v, frame[g]); });
    else over_columns<S>(y, y_stride, x, stride, n, width, streaming, [=](auto v, ptrdiff_t g) TERM { return log_softmax_by_way<S, true>(v, frame[g]); });
}
template <class S, int WAY> __attribute__((noinline)) void softmax_row_by_way(S *y, const S *x, ptrdiff_t n, const RowFrame<S> *frame, const RowInverse<S> *inverse, bool streaming, const S *ahead) {
    const Frame<S> f = spread_frame<S>(*frame);
    const Inverse<S> r = spread_inverse<S>(*inverse);
    over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        prefetch(ahead + j);
        return times<S>(value(term_by_way<S, WAY>(load_some<S>(x + j, m, -INFINITY), f)), r); });
}
// y = exp(scale x) / l, for a row whose exponentials were not.
template <class S> INLINE void softmax_row(S *y, const S *x, ptrdiff_t n, const RowFrame<S> *frame, const RowInverse<S> *inverse, bool streaming, const S *ahead) {
    if (!ahead) ahead = x;
    if (frame->scale != 1 || frame->scale_low != 0) return softmax_row_by_way<S, SCALED>(y, x, n, frame, inverse, streaming, ahead);
    if (frame->origin != 0) return softmax_row_by_way<S, FAR>(y, x, n, frame, inverse, streaming, ahead);
    softmax_row_by_way<S, NEAR>(y, x, n, frame, inverse, streaming, ahead);
}
template <class S> __attribute__((noinline)) void log_softmax_row(S *y, const S *x, ptrdiff_t n, const LogFrame<S> *frame, double scale, Streamed<S> *streamed) {
    const LogFrame<S> f = spread_log<S>(row_of<S>(frame, 0));
    if (scale == 1) write_row<S>(y, n, streamed, [=](ptrdiff_t j, ptrdiff_t m) TERM { return log_softmax_by_way<S, false>(load_some<S>(x + j, m, 0), f); });
    else write_row<S>(y, n, streamed, [=](ptrdiff_t j, ptrdiff_t m) TERM { return log_softmax_by_way<S, true>(load_some<S>(x + j, m, 0), f); });
}

// The gradients of softmax and of log_softmax, LOG: scale y (dy - sum(y dy)) and scale (dy - exp(y) sum(dy)).
// part * unit is -total 2^-headroom, for the exponential with its headroom: a power of two that a small total would not survive.
template <class S> struct Gradient { Lanes<S> total, part, unit, scale; };
template <class S> INLINE Gradient<S> gradient_of(Lanes<S> total, double scale) {
    typedef Lanes<S> P;
    const P below = constant<P>(std::ldexp(1.0, -Exp<acc<S>>::headroom)), one = constant<P>(1), zero = constant<P>(0);
    const Mask<S> large = (total > one) | (total < zero - one);
    return {total, select(large, total * below, total), zero - select(large, one, below), splat<S>((acc<S>)scale)};
}
template <class S, bool LOG> INLINE Lanes<S> gradient(Lanes<S> dy, Lanes<S> y, const Gradient<S> &g) {
    typedef Exp<acc<S>> E;
    typedef Lanes<S> P;
    if (!LOG) return (y * (dy - g.total)) * g.scale;
    // A logarithm of a share is not above 0: its exponential keeps its bits in the headroom.  Whatever else y may be:
    const P zero = constant<P>(0), low = constant<P>(E::lowest * LN2), t = greater(low, y);
    const P e = value(exp_term<false, false>(t, t, constant<P>(E::magic + E::steps * (E::bias + E::headroom)), where(y > low)));
    P dx = mad(e * g.part, g.unit, dy);
    Mask<S> high = y > constant<P>(E::headroom / 2);
    if (__builtin_expect(any(high), 0)) dx = select(high, dy - exp(y, zero) * g.total, dx);
    return dx * g.scale;
}
// log_softmax's where the total is infinite: then so is its product with any share but 0, with which it is NaN.
template <class S> INLINE Lanes<S> gradient_of_infinite(Lanes<S> dy, Lanes<S> y, const Gradient<S> &g) {
    typedef Lanes<S> P;
    return (dy - select(y > constant<P>(-INFINITY), g.total, constant<P>(NAN))) * g.scale;
}
template <class S, bool LOG> INLINE double total_of_row(const S *dy, const S *y, ptrdiff_t n) {  // up to a chunk
    Sum<double> sum = {0, 0};
    for (ptrdiff_t j = 0; j < n; j += TILE<S>()) {
        const ptrdiff_t m = n - j < TILE<S>() ? n - j : TILE<S>();
        add<S>(&sum, LOG ? sum_row<S>(dy + j, m) : dot_row<S>(dy + j, y + j, m));
    }
    return total<S>(sum);
}
template <class S> __attribute__((noinline)) void gradient_row_of_infinite(S *dx, const S *dy, const S *y, ptrdiff_t n, double total, double scale, Streamed<S> *streamed) {
    const Gradient<S> g = gradient_of<S>(lanes_of<S>(total), scale);
    write_row<S>(dx, n, streamed, [=](ptrdiff_t j, ptrdiff_t m) TERM { return gradient_of_infinite<S>(load_some<S>(dy + j, m, 0), load_some<S>(y + j, m, 0), g); });
}
// What lies `ahead`, the next row, is asked for where exponentials are made meanwhile (log_softmax_backward of 4096 x 1024 on a Zen 3: 3.1 to
// 2.2 ms; not tried on AVX-512).  softmax_backward, which waits for nothing else, was slower for it.
template <class S, bool LOG> INLINE void gradient_row_by_way(S *dx, const S *dy, const S *y, ptrdiff_t n, double total, double scale, Streamed<S> *streamed, ptrdiff_t ahead = 0) {
    if (LOG && __builtin_expect(!std::isfinite((acc<S>)total), 0)) return gradient_row_of_infinite<S>(dx, dy, y, n, total, scale, streamed);
    const Gradient<S> g = gradient_of<S>(lanes_of<S>(total), scale);
    write_row<S>(dx, n, streamed, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        if (LOG && SOFTCORE_VECTOR < 64 && ahead) prefetch(dy + j + ahead), prefetch(y + j + ahead);
        return gradient<S, LOG>(load_some<S>(dy + j, m, 0), load_some<S>(y + j, m, 0), g); });
}
template <class S> __attribute__((noinline)) void gradient_row(bool log, S *dx, const S *dy, const S *y, ptrdiff_t n, const Sum<double> *sum, double scale, Streamed<S> *streamed) {
    if (log) gradient_row_by_way<S, true>(dx, dy, y, n, total<S>(*sum), scale, streamed);
    else gradient_row_by_way<S, false>(dx, dy, y, n, total<S>(*sum), scale, streamed);
}
template <class S> INLINE double total_of_tile(const S *dy, const S *y, ptrdiff_t n, bool log) {
    return log ? sum_row<S>(dy, n) : dot_row<S>(dy, y, n);
}
// Whole rows of up to a chunk, one after the other: each is still in the cache when it is read again.  The hardware sees three
// streams coming.
template <class S> void gradient_of_row(bool log, S *dx, const S *dy, const S *y, ptrdiff_t n, double scale, Streamed<S> *streamed) {
    if (log) gradient_row_by_way<S, true>(dx, dy, y, n, total_of_row<S, true>(dy, y, n), scale, streamed, n);
    else gradient_row_by_way<S, false>(dx, dy, y, n, total_of_row<S, false>(dy, y, n), scale, streamed);
}
// Columns, of which g has a Gradient for each Lanes.
template <class S, class F> INLINE void over_gradient_columns(S *dx, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, bool streaming, F f) {
    const ptrdiff_t L = lanes<S>();
    streaming = streaming && to_alignment(dx) == 0 && stride % 64 == 0;
    for (ptrdiff_t j = 0; j < n; j++, dx = (S *)((char *)dx + stride)) {
        ptrdiff_t i = 0;
        for (; i + L <= width; i += L) put<S>(dx + i, f(j, i, L), streaming);
        if (i < width) store_part<S>(dx + i, f(j, i, width - i), width - i);
    }
}
template <class S> __attribute__((noinline)) void gradient_columns_of(bool log, S *dx, ptrdiff_t dx_stride, const S *dy, ptrdiff_t dy_stride, const S *y, ptrdiff_t y_stride, ptrdiff_t n, ptrdiff_t width, const Gradient<S> *g, bool streaming) {
    const ptrdiff_t L = lanes<S>();
    Mask<S> infinite = constant<Mask<S>>(0);  // or NaN
    for (ptrdiff_t i = 0; i < width; i += L) infinite = infinite | ((g[i / L].total - g[i / L].total) != constant<Lanes<S>>(0));
    auto over = [=](auto f) TERM {
        over_gradient_columns<S>(dx, dx_stride, n, width, streaming, [=](ptrdiff_t j, ptrdiff_t i, ptrdiff_t m) TERM {
            prefetch(row_at(dy, dy_stride, j + ROWS_AHEAD) + i);
            prefetch(row_at(y, y_stride, j + ROWS_AHEAD) + i);
            return f(load_some<S>(row_at(dy, dy_stride, j) + i, m, 0), load_some<S>(row_at(y, y_stride, j) + i, m, 0), g[i / L]); });
    };
    if (!log) return over([](Lanes<S> dy, Lanes<S> y, const Gradient<S> &g) TERM { return gradient<S, false>(dy, y, g); });
    if (!any(infinite)) return over([](Lanes<S> dy, Lanes<S> y, const Gradient<S> &g) TERM { return gradient<S, true>(dy, y, g); });
    over([](Lanes<S> dy, Lanes<S> y, const Gradient<S> &g) TERM {
        return select((g.total - g.total) == constant<Lanes<S>>(0), gradient<S, true>(dy, y, g), gradient_of_infinite<S>(dy, y, g)); });
}

// exp(-|x|) times 2^headroom (times `tempered` if TEMPER), so that its small values have all their bits.
template <class S, bool TEMPER> INLINE Lanes<S> decay(Lanes<S> x) {
    typedef Exp<acc<S>> E;
    typedef Lanes<S> P;
    P t = as<acc<S>>(as<bits_t<acc<S>>>(x) | constant<Integers<S>>(std::numeric_limits<bits_t<acc<S>>>::min()));  // -|x|
    const P low = constant<P>(E::lowest * LN2), clamped = greater(low, t);
    return value(exp_term<TEMPER, false>(clamped, clamped, constant<P>(E::magic + E::steps * (E::bias + E::headroom)), where(t > low)));
}
template <class S> INLINE Lanes<S> sigmoid_of(Lanes<S> x) {
    typedef Lanes<S> P;
    const double unit = std::ldexp(1.0, Exp<acc<S>>::headroom), one = tempered<P>();
    P z = decay<S, true>(x), top = select(x < constant<P>(0), z, constant<P>(one * unit));
    return top / mad(z, constant<P>(1 / unit), constant<P>(one)) * constant<P>(1 / unit);
}
template <class S> INLINE Lanes<S> log1p_decay(Lanes<S> x) {
    Lanes<S> z = decay<S, false>(x) * constant<Lanes<S>>(std::ldexp(1.0, -Exp<acc<S>>::headroom));
    return log1p_unit<S>(z);
}
template <class S> INLINE Lanes<S> softplus_of(Lanes<S> x) {
    return select(x > constant<Lanes<S>>(0), x, constant<Lanes<S>>(0)) + log1p_decay<S>(x);
}
template <class S> INLINE Lanes<S> log_sigmoid_of(Lanes<S> x) {
    return select(x < constant<Lanes<S>>(0), x, constant<Lanes<S>>(0)) - log1p_decay<S>(x);
}
// dy * exp(x - y) of a logsumexp y; in a row of -inf no element has a share.
template <class S> INLINE Lanes<S> logsumexp_gradient(Lanes<S> dy, Lanes<S> x, Lanes<S> y) {
    typedef Lanes<S> P;
    P zero = constant<P>(0), error, t = two_sum(x, zero - y, &error);
    P e = exp(t, select(t > constant<P>(Exp<acc<S>>::lowest * LN2), error, zero));  // below, the error may be large itself
    return dy * select(y == constant<P>(-INFINITY), zero, e);
}
// The part of dy that goes to a: all of it where a is the maximum, half where both are.
template <class S> INLINE Lanes<S> maximum_gradient(Lanes<S> dy, Lanes<S> a, Lanes<S> b) {
    typedef Lanes<S> P;
    Mask<S> an = a != a, bn = b != b, one = (a > b) | (an & (b == b)), tie = (a == b) | (an & bn);
    return select(one, dy, select(tie, dy * constant<P>(0.5), constant<P>(0)));
}

enum Elementwise { RELU, STEP, SIGMOID, LOG_SIGMOID, SOFTPLUS, RELU_BACKWARD, SIGMOID_BACKWARD, LOG_SIGMOID_BACKWARD, SOFTPLUS_BACKWARD, MAXIMUM,
                   SOFTMAX_OF_ONE, LOG_SOFTMAX_OF_ONE, LOGSUMEXP_OF_ONE };

// One tile of an element-wise op.  Integers have only the choices.
template <class S> void choose_tile(int op, S *y, const S *a, const S *b, ptrdiff_t n, bool streaming) {
    typedef Lanes<S> P;
    const P zero = constant<P>(0);
#define LOAD(p) load_some<S>(p + j, m, 0)
#define OVER(expression) return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM { return expression; })
    switch (op) {
    case RELU: OVER((greater(zero, LOAD(a)) + zero));  // -0 becomes 0
    case RELU_BACKWARD: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P x = LOAD(b), dy = in_register(LOAD(a)); return select(x > zero, dy, select(x != x, x, zero)); });  // no load waits for a comparison
    case MAXIMUM: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P u = LOAD(a), v = LOAD(b); return select(u != u, u, select(v != v, v, max(u, v))); });
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
    // Of rows of one element: NaN where there is no softmax.
    case SOFTMAX_OF_ONE: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P x = LOAD(a); return (x - x) + one; });
    case LOG_SOFTMAX_OF_ONE: return over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P x = LOAD(a); return x - x; });
    case LOGSUMEXP_OF_ONE: OVER((LOAD(a)));
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

// ---------------------------------------------------------------- tiles, and the largest of one

template <class S> INLINE void copy_tile(S *y, const S *x, ptrdiff_t n) { std::memcpy(y, x, n * sizeof(S)); }
// One element of each row, n times.
template <class S> void repeat_elements_of(char *to, const char *from, ptrdiff_t step, ptrdiff_t n, ptrdiff_t rows) {
    for (S value; rows > 0; rows--, to += n * sizeof(S), from += step) {
        std::memcpy(&value, from, sizeof(S));
        for (ptrdiff_t i = 0; i < n; i++) std::memcpy(to + i * sizeof(S), &value, sizeof(S));
    }
}
INLINE void repeat_elements(char *to, const char *from, ptrdiff_t step, ptrdiff_t itemsize, ptrdiff_t n, ptrdiff_t rows) {
    switch (itemsize) {
    case 1: return repeat_elements_of<uint8_t>(to, from, step, n, rows);
    case 2: return repeat_elements_of<uint16_t>(to, from, step, n, rows);
    case 4: return repeat_elements_of<uint32_t>(to, from, step, n, rows);
    default: return repeat_elements_of<uint64_t>(to, from, step, n, rows);
    }
}
INLINE void put_index(char *p, long long i) { std::memcpy(p, &i, sizeof i); }
INLINE long long index_at(const char *p, int code) { long long i; gather<long long>(&i, p, 0, 1, code); return i; }
template <class S> INLINE double as_number(S s) { return (double)widen<S>(s); }

// logsumexp with weights: the largest element that has one. Returns whether an element with a weight, or a weight, is not finite, but for -inf.
template <class S> bool top_of_weighted(const S *x, const S *b, ptrdiff_t n, double *top) {
    typedef Lanes<S> P;
    const P zero = constant<P>(0), least = constant<P>(-INFINITY), most = constant<P>(INFINITY);
    P m = least;
    Mask<S> odd = whole<S>(0);
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        const P v = load_some<S>(x + j, n - j, -INFINITY), w = load_some<S>(b + j, n - j, 0);
        const Mask<S> none = w == zero, counts = (most > v) & ((w - w) == zero);
        m = greater(select(none | (counts == whole<S>(0)), least, v), m);
        odd = odd | ((none | counts) == whole<S>(0));
    }
    *top = (double)largest<S>(m);
    return any(odd);
}
// The sum of the weights of elements equal to the maximum, and of w exp(x - m) over the others, in lanes of doubles with what each addition
// lost.
template <class S> void add_weighted(const S *x, const S *b, ptrdiff_t n, double m, Sum<double> *at_top, Sum<double> *below) {
    typedef Doubles<S> D;
    const D zero = constant<D>(0), top = constant<D>(m), bottom = constant<D>(-2000);
    Sum<D> c = {zero, zero}, l = {zero, zero};
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        const D v = doubles<S>(load_some<S>(x + j, n - j, -INFINITY)), w = doubles<S>(load_some<S>(b + j, n - j, 0));
        const auto counts = w != zero, equal = v == top;
        const D t = greater(bottom, select(counts, v, top) - top);  // and with it -inf - m
        const D e = select(t > bottom, exp_double(t, zero), zero);
        add<double>(&c, select(counts & equal, w, zero));
        add<double>(&l, select(equal, zero, w * e));
    }
    for (ptrdiff_t i = 0; i < lanes<S>(); i++) {
        add<double>(at_top, number_at<S>(nullptr, &c.high, i) + number_at<S>(nullptr, &c.low, i));
        add<double>(below, number_at<S>(nullptr, &l.high, i));
        below->low += number_at<S>(nullptr, &l.low, i);
    }
}
// How many elements lie before the first Lanes that are aligned, at least one.
template <class S> INLINE ptrdiff_t to_line(const S *x) { return lanes<S>() - (ptrdiff_t)((uintptr_t)x / sizeof(S) % lanes<S>()); }
// The first Lanes; of fewer elements with the first of them in what is left, as it is: a double would round large integers.
template <class S> INLINE Lanes<S> first_lanes(const S *x, ptrdiff_t n) { return n >= lanes<S>() ? load<S>(x) : load_part<S>(x, n, widen<S>(x[0])); }
// A page on from four Lanes that are about to be read (of 100 MB: 35 to 51 GB/s).
template <class S> INLINE void ask_for_fours(const S *x) {
    for (ptrdiff_t i = 0; i < 4 * lanes<S>(); i += 64 / (ptrdiff_t)sizeof(S)) prefetch_near(x + 4096 / sizeof(S) + i);
}
// The largest of n elements, +0 above -0 if SIGNED (which only max itself needs), and whether a NaN is among them.  Both ends are met twice, so that what lies between is
// read in aligned Lanes; in order, because a machine that reads ahead is put off by a look at the end first.
// EXACT: *nan says whether one is NaN; otherwise whether one may be, since their sum is, as it is of infinities and after an overflow.
template <class S, bool SIGNED, bool EXACT> INLINE acc<S> largest_of_tile(const S *x, ptrdiff_t n, bool *nan) {
    typedef Lanes<S> P;
    const ptrdiff_t L = lanes<S>();
    auto larger = [](P u, P v) TERM { return SIGNED ? max(u, v) : greater(u, v); };
    P a = first_lanes(x, n), b = a, sum = a;
    Mask<S> bad = a != a;
    ptrdiff_t j = to_line(x);
    for (; j + 4 * L <= n; j += 4 * L) {
        ask_for_fours(x + j);
        P u = load<S>(x + j), v = load<S>(x + j + L), w = load<S>(x + j + 2 * L), z = load<S>(x + j + 3 * L);
        if (EXACT) bad = bad | unordered(u, v) | unordered(w, z);
        else sum = sum + ((u + v) + (w + z));
        a = larger(a, larger(u, w));
        b = larger(b, larger(v, z));
    }
    auto meet = [&](P u) TERM {
        if (EXACT) bad = bad | (u != u);
        else sum = sum + u;
        a = larger(a, u);
    };
    for (; j + L <= n; j += L) meet(load<S>(x + j));
    if (n > L) meet(load<S>(x + n - L));
    *nan = any(EXACT ? bad : sum != sum);
    return SIGNED ? largest_signed<S>(max(a, b)) : largest<S>(greater(a, b));
}
// For softmax: the largest of up to a frame, or NaN.  A NaN makes the sum of all elements NaN; so may infinities and an overflow,
// and then it is looked for.
template <class S> __attribute__((noinline)) double top_of_tile(const S *x, ptrdiff_t n) {
    typedef Lanes<S> P;
    const ptrdiff_t L = lanes<S>();
    P m[4], sum[2] = {constant<P>(0), constant<P>(0)};
    for (int i = 0; i < 4; i++) m[i] = constant<P>(-INFINITY);
    auto meet = [&](P v, int i) TERM {
        m[i] = greater(v, m[i]);
        sum[i & 1] = sum[i & 1] + v;
    };
    meet(load_some<S>(x, n, -INFINITY), 0);  // both ends are met twice, as in largest_of_tile
    ptrdiff_t j = to_line(x);
    for (; j + 4 * L <= n; j += 4 * L) {
        meet(load<S>(x + j), 0);
        meet(load<S>(x + j + L), 1);
        meet(load<S>(x + j + 2 * L), 2);
        meet(load<S>(x + j + 3 * L), 3);
    }
    for (; j + L <= n; j += L) meet(load<S>(x + j), 1);
    if (n > L) meet(load<S>(x + n - L), 0);
    const P all = sum[0] + sum[1];
    const double top = largest<S>(greater(greater(m[0], m[1]), greater(m[2], m[3])));
    if (__builtin_expect(any(all != all), 0)) {
        bool nan = false;
        largest_of_tile<S, false, true>(x, n, &nan);
        if (nan) return NAN;
    }
    return top;
}
// The maximum of what lies ahead, met while something else waits for multipliers as this waits for memory.
template <class S> struct Ahead {
    typedef typename Several<S>::type PP;
    static constexpr ptrdiff_t SEVERAL = sizeof(PP) / sizeof(acc<S>);
    Lanes<S> m = constant<Lanes<S>>(-INFINITY), sum = constant<Lanes<S>>(0);
    // Some Lanes of x, and as many of `next` met, of which what lies a frame on is asked for.
    INLINE PP meet(const S *x, const S *next) {
        PP v;
        for (ptrdiff_t i = 0; i < SEVERAL; i += lanes<S>()) {
            const Lanes<S> w = in_register(load<S>(next + i));
            m = greater(w, m), sum = sum + w;
            prefetch(next + FRAME<S>() + i);
            part<S>(&v, i) = in_register(load<S>(x + i));
        }
        return v;
    }
    // The maximum of n elements, of which those from `first` to `last` were met.
    INLINE double top(const S *next, ptrdiff_t n, ptrdiff_t first, ptrdiff_t last) const {
        if (__builtin_expect(any(sum != sum) || first == last, 0)) return top_of_tile<S>(next, n);
        double top = largest<S>(m);
        for (const double rest : {top_of_tile<S>(next, first), top_of_tile<S>(next + last, n - last)})
            if (rest > top || rest != rest) top = rest;
        return top;
    }
};
// The sum of the exponentials of up to a frame of a row, and what is returned, the maximum of what lies `next`, if anything does.
template <class S, int WAY> __attribute__((noinline)) double exp_and_top_by_way(const S *x, ptrdiff_t n, const RowFrame<S> *frame, Sum<double> *l, const S *next, ptrdiff_t next_n) {
    const ptrdiff_t L = lanes<S>(), LL = Ahead<S>::SEVERAL, both = std::min(n, next_n);
    const Frame<S> f = spread_frame<S>(*frame);
    Tally<S> tally = empty_tally<S>();
    Ahead<S> ahead;
    const ptrdiff_t head = std::min(to_line(x) % L, n), met = head + std::max<ptrdiff_t>(0, both - head) / LL * LL;
    if (head) count<S>(&tally, term_by_way<S, WAY>(load_part<S>(x, head, -INFINITY), f));  // lines that are read in two take twice as long
    ptrdiff_t vectors = head > 0;
    Piece<S> piece;
    for (ptrdiff_t from = head, end, j = head; from < n; from = end) {
        end = Piece<S>::end(from, n);
        auto take = [&](auto v) TERM {
            if constexpr (in_two_steps<S>()) put_reduced<S, WAY>(piece.power + (j - from), piece.left + (j - from), v, f);
            else count<S>(&tally, term_by_way<S, WAY>(v, f));
        };
        for (; j + LL <= std::min(end, met); j += LL) take(ahead.meet(x + j, next + j));
        for (; j < end; j += L) take(load_some<S>(x + j, n - j, -INFINITY));
        if constexpr (in_two_steps<S>()) add_reduced<S, false>(&tally, piece.power, piece.left, j - from, nullptr);
        vectors += (j - from) / L;
    }
    *l = sum_of_row(tally, vectors);
    return next_n ? ahead.top(next, next_n, head, met) : 0;
}
template <class S> INLINE double exp_and_top(const S *x, ptrdiff_t n, State<double> *s, double scale, const S *next, ptrdiff_t next_n) {
    const RowFrame<S> f = frame_of_row<S>(x, s, scale);
    if (!(s->m - s->m == 0)) {  // only the maximum counts
        s->l = {0, 0};
        return next_n ? top_of_tile<S>(next, next_n) : 0;
    }
    if (scale != 1) return exp_and_top_by_way<S, SCALED>(x, n, &f, &s->l, next, next_n);
    return f.origin != 0 ? exp_and_top_by_way<S, FAR>(x, n, &f, &s->l, next, next_n) : exp_and_top_by_way<S, NEAR>(x, n, &f, &s->l, next, next_n);
}
// The same of columns; `hidden` elements, if any, take no part.
template <class S> __attribute__((noinline)) void top_of_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, Lanes<S> *top, const Lanes<S> *hidden) {
    const ptrdiff_t L = lanes<S>(), groups = (width + L - 1) / L;
    const bool far = stride >= 1024;
    Lanes<S> sum[WIDE];
    for (ptrdiff_t j = 0; j < n; j += 8) {
        const ptrdiff_t rows = n - j < 8 ? n - j : 8;
        for (ptrdiff_t i = 0; far && i < rows; i++)  // the next rows lie in other pages, where no hardware looks ahead
            for (ptrdiff_t g = 0; g < groups; g++) prefetch(row_at(x, stride, j + 8 + i) + g * L);
        for (ptrdiff_t g = 0; g < groups; g++) {
            Lanes<S> a = j ? top[g] : constant<Lanes<S>>(-INFINITY), b = j ? sum[g] : constant<Lanes<S>>(0);
            for (ptrdiff_t i = 0; i < rows; i++) {
                Lanes<S> v = in_register(load_some<S>(row_at(x, stride, j + i) + g * L, width - g * L, 0));
                if (hidden) v = select(v == hidden[g], constant<Lanes<S>>(-INFINITY), v);
                b = b + v;
                a = greater(v, a);
            }
            top[g] = a;
            sum[g] = b;
        }
    }
    for (ptrdiff_t g = 0; g < groups; g++) {
        if (__builtin_expect(!any(sum[g] != sum[g]), 1)) continue;  // else there is NaN, or there are both infinities
        for (ptrdiff_t j = 0; j < n; j++) {
            const Lanes<S> v = load_some<S>(row_at(x, stride, j) + g * L, width - g * L, 0);
            top[g] = select(v != v, constant<Lanes<S>>(NAN), top[g]);
        }
    }
}
// A tile without its elements equal to `top`.
template <class S> void hide_top(S *tile, const S *x, ptrdiff_t n, double top) {
    const Lanes<S> t = splat<S>((acc<S>)top), low = constant<Lanes<S>>(-INFINITY);
    over_tile<S>(tile, n, false, [=](ptrdiff_t j, ptrdiff_t m) TERM { Lanes<S> v = load_some<S>(x + j, m, 0); return select(v == t, low, v); });
}
template <class S> void as_doubles(double *y, const S *x, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) y[j] = (double)widen<S>(x[j]);
}

}  // namespace
}  // namespace softcore
