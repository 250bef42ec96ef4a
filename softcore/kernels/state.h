// state.h: the (m, l) state of softmax and logsumexp, for one row or for lanes of rows or columns.
//
//   empty    m = -inf, l = 0
//   absorb   m = max of some elements; l = sum of their exponentials in the frame of m
//   merge    the frame of the larger m; the other l is rescaled into it
//   finish   softmax: 1 / l;  logsumexp: m + log(l)
//
// A frame says in what unit the exponentials are summed: exp(scale (x - origin)) 2^(headroom - k).  Where |scale m| is
// small the origin is 0 and k alone follows m, so x itself is reduced by multiples of ln 2 and no bit is lost in forming
// x - m; and rescaling is by a power of two, which is exact.  Where |scale m| is large the origin is m, and x - m is exact
// by Sterbenz for every x that matters.  The headroom keeps the small terms normal numbers until the last multiplication,
// whose rounding then is the only one, into the subnormals too.
//
// Within a frame exponentials are added exactly, as integers on a fixed grid (Tally), so it does not matter which lane or
// which loop an element went through: rows, columns and every instruction set come to the same sum.  Frames are merged in
// order.
//
// D is double for a row and lanes of double for many rows or columns: the same text, hence the same bits.
#pragma once
#include <algorithm>
#include "exp.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- sizes that decide the order of additions

// TILE elements are walked at once, FRAME elements share a frame, CHUNK elements are one thread's at least.  They depend on
// the storage alone.
template <class S> INLINE constexpr ptrdiff_t TILE() { return 64 * lanes<S>(); }
template <class S> INLINE constexpr ptrdiff_t FRAME() { return 4 * TILE<S>(); }
template <class S> INLINE constexpr ptrdiff_t CHUNK() { return 16 * TILE<S>(); }
// The Lanes of a frame: as many as a Tally can count.
static constexpr ptrdiff_t COUNT = 256;
// Columns: the most Lanes of them side by side, and the rows that are taken of one Lanes before the next.
static constexpr ptrdiff_t WIDE = 64, ROWS = 4;

template <class S, int N> INLINE Pack<double, 2 * N> doubles(Pack<float, N> x) { return to_double(x); }
template <class S, int N> INLINE Pack<double, N> doubles(Pack<double, N> x) { return x; }
template <class S> using Doubles = Pack<double, (sizeof(acc<S>) == 4 ? 128 : 64) / SOFTCORE_VECTOR>;
template <class S> using Counts = Pack<int64_t, (sizeof(acc<S>) == 4 ? 128 : 64) / SOFTCORE_VECTOR>;

INLINE Lanes<float> accumulators_of(float, Doubles<float> x) { return to_float<64 / SOFTCORE_VECTOR>(x); }
INLINE Lanes<double> accumulators_of(double, Doubles<double> x) { return x; }

// 1 / x as a float.
INLINE double reciprocal_as_float(double x) { return (double)(1 / (float)x); }
INLINE Doubles<float> reciprocal_as_float(Doubles<float> x) { return doubles<float>(constant<Lanes<float>>(1) / accumulators_of(0.0f, x)); }

// A sum in two doubles, of which the second is small.  Doubles that add floats need no second.
template <class D> struct Sum { D high, low; };
template <class S, class D> INLINE void add(Sum<D> *s, D x) {
    if (sizeof(acc<S>) == 4) { s->high = s->high + x; return; }
    D error;
    s->high = two_sum(s->high, x, &error);
    s->low = s->low + error;
}
// The sum of the lanes.
template <class S> INLINE Sum<double> across_lanes(const Sum<Doubles<S>> &s) {
    double high[128 / sizeof(acc<S>) / 2], low[128 / sizeof(acc<S>) / 2];
    static_assert(sizeof high >= sizeof s.high, "one double to a lane");
    std::memcpy(high, &s.high, sizeof s.high);
    std::memcpy(low, &s.low, sizeof s.low);
    Sum<double> total = {0, 0};
    for (unsigned i = 0; i < sizeof s.high / sizeof(double); i++) {
        add<double>(&total, high[i]);
        total.low += low[i];
    }
    return total;
}
// What a sum comes to.  Of an infinite one the second double is inf - inf, which is none of its terms.
template <class S, class D> INLINE D total(const Sum<D> &s) {
    return sizeof(acc<S>) == 4 ? s.high : select((s.low - s.low) == constant<D>(0), s.high + s.low, s.high);
}

// ---------------------------------------------------------------- exact sums of exponentials

// Exponentials below 2^(headroom + 1), each in two integers: how many steps of 2^(headroom + 1 - mantissa) it has, read
// off its sum with `grid`, and how many much smaller steps the rest has.  Integers add without rounding in any order.
// The rest includes what the exponential lost when it was rounded itself, but for half types.
template <class S> using Integers = Pack<bits_t<acc<S>>, 64 / SOFTCORE_VECTOR>;
template <class S> struct Tally { Integers<S> coarse, fine; };
template <class S> struct Grid {
    typedef Exp<acc<S>> E;
    static constexpr int fine_bits = E::mantissa - 1;  // a coarse step in fine ones
    static INLINE acc<S> coarse() { return (acc<S>)std::ldexp(1.0, E::headroom + 1); }
    static INLINE acc<S> fine() { return (acc<S>)std::ldexp(1.5, E::headroom + 2 - E::mantissa); }
    // The value of a fine step.
    static INLINE double unit() { return std::ldexp(1.0, E::headroom + 2 - 2 * E::mantissa); }
};
template <class S> INLINE Tally<S> empty_tally() { return {constant<Integers<S>>(0), constant<Integers<S>>(0)}; }
template <class I> INLINE void add_integers(I *sum, I x) { *sum = *sum + x; }
template <class A, int N> INLINE void add_integers(Pack<A, N> *sum, Pack<A, 2 * N> x) { *sum = *sum + (x.lo + x.hi); }
template <class P> INLINE P less(const Term<P> &x, P counted) { return mad(x.a, x.b, x.power - counted); }
template <class P> INLINE P less(const Rounded<P> &x, P counted) { return x.e - counted; }
template <class P> struct Grids { P coarse, fine; };
template <class I, class X, class P> INLINE P count(I *coarse, I *fine, const X &x, const Grids<P> &grids) {
    typedef typename element<I>::type B;
    const P e = value(x), c = e + grids.coarse, rest = less(x, c - grids.coarse) + grids.fine;
    add_integers(coarse, as<B>(c));
    add_integers(fine, as<B>(rest));
    return e;
}
template <class S, class X> INLINE auto count(Tally<S> *t, const X &x) {
    typedef decltype(value(x)) P;
    return count(&t->coarse, &t->fine, x, Grids<P>{constant<P>(Grid<S>::coarse()), constant<P>(Grid<S>::fine())});
}
// The counts of a tally after n vectors, without the bits of the grids themselves.
template <class S> INLINE Tally<S> counted(const Tally<S> &t, ptrdiff_t n) {
    typedef typename std::conditional<sizeof(acc<S>) == 8, uint64_t, uint32_t>::type U;
    const acc<S> coarse = Grid<S>::coarse(), fine = Grid<S>::fine();
    U c, f;
    std::memcpy(&c, &coarse, sizeof c);
    std::memcpy(&f, &fine, sizeof f);
    return {t.coarse - whole<S>((bits_t<acc<S>>)(c * (U)n)), t.fine - whole<S>((bits_t<acc<S>>)(f * (U)n))};
}
// In sixteen lanes, as doubles: the number of fine steps, which 64 bits hold for floats; for doubles two parts.
INLINE Sum<Doubles<float>> sums_of(Counts<float> fine_steps) {
    return {number(fine_steps) * constant<Doubles<float>>(Grid<float>::unit()), constant<Doubles<float>>(0)};
}
INLINE Counts<float> steps_of(const Tally<float> &t) { return shift_left(widen_unsigned(t.coarse), Grid<float>::fine_bits) + widen_signed(t.fine); }
template <class D> INLINE Sum<D> normal(D high, D low) {  // |high| >= |low|
    D sum = high + low;
    return {sum, low - (sum - high)};
}
template <class D, class I> INLINE Sum<D> sum_of_doubles(I coarse, I fine) {
    const D unit = constant<D>(Grid<double>::unit()), step = constant<D>(std::ldexp(Grid<double>::unit(), Grid<double>::fine_bits)), high = number(coarse);
    return normal(high * step, number(coarse - whole_number(high)) * step + number(fine) * unit);
}
// The sum over all lanes, for a row, after n vectors.
INLINE Sum<double> sum_of_row(const Tally<float> &t, ptrdiff_t n) {
#if SOFTCORE_VECTOR == 32
    if (n <= 16) {  // 32 bits hold what all lanes come to
        const Tally<float> none = counted<float>(empty_tally<float>(), 16 * n);
        const __m256i counts = _mm256_hadd_epi32((__m256i)(t.coarse.lo + t.coarse.hi).v, (__m256i)(t.fine.lo + t.fine.hi).v), both = _mm256_hadd_epi32(counts, counts);
        const int64_t sums = _mm_cvtsi128_si64(_mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
        const uint32_t coarse = (uint32_t)sums + (uint32_t)none.coarse.lo.v[0];
        const int32_t fine = (int32_t)((uint32_t)(sums >> 32) + (uint32_t)none.fine.lo.v[0]);
        return {(double)(((int64_t)coarse << Grid<float>::fine_bits) + fine) * Grid<float>::unit(), 0};
    }
#endif
    return {(double)sum_integers(steps_of(counted(t, n))) * Grid<float>::unit(), 0};
}
INLINE Sum<double> sum_of_row(const Tally<double> &t, ptrdiff_t n) {
    Tally<double> c = counted(t, n);
    return sum_of_doubles<double>(sum_integers(c.coarse), sum_integers(c.fine));
}
INLINE Sum<double> sum_of_row(const Tally<half> &t, ptrdiff_t n) { return sum_of_row(Tally<float>{t.coarse, t.fine}, n); }
INLINE Sum<double> sum_of_row(const Tally<bfloat16> &t, ptrdiff_t n) { return sum_of_row(Tally<float>{t.coarse, t.fine}, n); }

// ---------------------------------------------------------------- frames

template <class D> struct State { D m, origin, k; Sum<D> l; };

template <class S> INLINE double rounded(double x) { return (double)(acc<S>)x; }
template <class S> INLINE Doubles<S> rounded(Doubles<S> x) { return doubles<S>(accumulators_of(acc<S>(), x)); }
template <class S> INLINE Lanes<S> lanes_of(double x) { return splat<S>((acc<S>)x); }
template <class S> INLINE Lanes<S> lanes_of(Doubles<S> x) { return accumulators_of(acc<S>(), x); }

template <class D> INLINE State<D> empty_state() {
    D zero = constant<D>(0);
    return {constant<D>(-INFINITY), zero, zero, {zero, zero}};
}
// The power of two that exp(x) is nearest to.
template <class D> INLINE D rounded_steps(D x) {
    const D round = constant<D>(6755399441055744.0);
    return (x * constant<D>(LOG2E) + round) - round;
}
// An infinite or NaN maximum has the frame of 0; the finish looks at m alone then.
template <class S, class D> INLINE State<D> state_of_max(D m, double scale) {
    D zero = constant<D>(0), size = select(m < zero, zero - m, m);
    D scaled = m * constant<D>(scale), scaled_size = size * constant<D>(scale);
    D small = select(scaled_size < constant<D>(Exp<acc<S>>::near), scaled, zero);
    D origin = select((size < constant<D>(INFINITY)) & (scaled_size >= constant<D>(Exp<acc<S>>::near)), m, zero);
    return {m, origin, rounded_steps(small), {zero, zero}};
}

// What the exponentials of a row need of its frame, as numbers, and spread over lanes.  For columns each lane has its own.
enum Way { NEAR, FAR, SCALED, SHALLOW };  // x as it is, x less an origin, scale (x less an origin), x of which little is lost
template <class S> struct RowFrame { acc<S> low, magic, origin, scale, scale_low; };
template <class S> struct Frame { Lanes<S> low, magic, origin, scale, scale_low; };
template <class S> INLINE Frame<S> spread_frame(const RowFrame<S> &f) {
    return {splat<S>(f.low), splat<S>(f.magic), splat<S>(f.origin), splat<S>(f.scale), splat<S>(f.scale_low)};
}
template <class S, class D> INLINE Frame<S> frame_of(const State<D> &s, double scale) {
    typedef Exp<acc<S>> E;
    return {lanes_of<S>((s.k + constant<D>(E::lowest)) * constant<D>(LN2)),
            lanes_of<S>(constant<D>(E::magic + E::steps * (E::bias + E::headroom)) - s.k * constant<D>(E::steps)),
            lanes_of<S>(s.origin), lanes_of<S>(scale), lanes_of<S>(scale - (double)(acc<S>)scale)};
}
template <class S> INLINE RowFrame<S> row_of(const Frame<S> *f, ptrdiff_t i) {
    return {lane<S>(f->low, i), lane<S>(f->magic, i), lane<S>(f->origin, i), lane<S>(f->scale, i), lane<S>(f->scale_low, i)};
}

// exp(scale x) in the frame, by its first step.  What lies too low for it, -inf too, is 0; if SHALLOW so small that it vanishes from
// sums and shares.
template <class S, bool LOW, class P, class F = Every> INLINE auto reduced_of(P t, P t_low, P magic, F keep = F()) {
    if constexpr (is_half<S>()) return reduced_rounded<LOW>(t, t_low, magic, keep);
    else return reduced<true, LOW>(t, t_low, magic, keep);
}
template <class S, int WAY, class P, class F> INLINE auto reduced_by_way(P x, const F &f) {
    const P low = repeat<P>(f.low), magic = repeat<P>(f.magic);
    if constexpr (WAY == SHALLOW) return reduced_of<S, false>(greater(low, x), x, magic);
    P t = WAY == NEAR ? x : x - repeat<P>(f.origin), error = constant<P>(0);
    if (WAY == SCALED) {
        const P product = two_product(t, repeat<P>(f.scale), &error);  // t is exact if it matters
        error = select(product > low, mad(t, repeat<P>(f.scale_low), error), constant<P>(0));
        t = product;
    }
    return reduced_of<S, WAY == SCALED>(greater(low, t), error, magic, where(t > low));
}
template <class S, int WAY, class P> INLINE auto term_by_way(P x, const Frame<S> &f) { return term(reduced_by_way<S, WAY>(x, f)); }

// Sixteen registers do not hold the constants of both steps and of the sum, and a loop that loads them again for each vector waits for its
// loads.  So on AVX2 one loop takes the first step of many elements, whose powers and remainders wait in the first cache, and another the
// second (softmax of 4096 x 1024 on a Zen 3: 0.58 to 0.48 ns an element).  SSE, which does not fuse either, is up to a tenth slower in two.
template <class S> INLINE constexpr bool in_two_steps() { return SOFTCORE_VECTOR == 32 && sizeof(acc<S>) == 4; }
// What waits for its second step, and how far a piece goes that begins at an element of a row of n: no piece is shorter than LENGTH but
// that of a shorter row.
template <class S> struct Piece {
    static constexpr ptrdiff_t LENGTH = 512, MOST = in_two_steps<S>() ? 2 * LENGTH : 1;
    alignas(64) acc<S> power[MOST], left[MOST];
    static ptrdiff_t end(ptrdiff_t from, ptrdiff_t n) { return in_two_steps<S>() && n - from >= 2 * LENGTH ? from + LENGTH : n; }
};
// A frame of one native vector.
template <class S> struct FrameVector { Pack<acc<S>, 1> low, magic, origin, scale, scale_low; };
template <class S, int WAY> INLINE void put_reduced(acc<S> *power, acc<S> *left, Lanes<S> v, const Frame<S> &frame) {
    typedef Pack<acc<S>, 1> V;
    Frame<S> f = frame;
    by_vector([=](ptrdiff_t k, V *x, V *low, V *magic, V *origin, V *scale, V *scale_low) TERM {
        const auto r = reduced_by_way<S, WAY>(*x, FrameVector<S>{*low, *magic, *origin, *scale, *scale_low});
        store_pack(power + k * in_vector<acc<S>>(), r.power);
        store_pack(left + k * in_vector<acc<S>>(), r.r);
    }, 0, &v, &f.low, &f.magic, &f.origin, &f.scale, &f.scale_low);
}
// Of n elements, whole Lanes of them; their exponentials are kept, if they are to be, in Lanes so far `apart`.
template <class S, bool KEEP> INLINE void add_reduced(Tally<S> *tally, const acc<S> *power, const acc<S> *left, ptrdiff_t n, acc<S> *kept, ptrdiff_t apart = lanes<S>()) {
    typedef Pack<acc<S>, 1> V;
    typedef Pack<bits_t<acc<S>>, 1> I;
    const Grids<V> grids = {in_register(constant<V>(Grid<S>::coarse())), in_register(constant<V>(Grid<S>::fine()))};
    Tally<S> t = *tally;
    for (ptrdiff_t j = 0; j < n; j += lanes<S>(), kept += apart)
        by_vector([=](ptrdiff_t k, I *coarse, I *fine) TERM {
            const ptrdiff_t i = k * in_vector<acc<S>>();
            Reduced<V, is_half<S>()> x;
            load_pack(power + j + i, &x.power);
            load_pack(left + j + i, &x.r);
            x.power = in_register(x.power);
            const V e = count(coarse, fine, term(x), grids);
            if (KEEP) store_pack(kept + i, e);
        }, 0, &t.coarse, &t.fine);
    *tally = t;
}

// ---------------------------------------------------------------- absorb

// The sum of the exponentials of a row of up to FRAME elements, which are kept in whole Lanes if there is room.
template <class S, int WAY, bool KEEP> INLINE Sum<double> exp_row_by_way(const S *x, ptrdiff_t n, const Frame<S> &f, acc<S> *kept, acc<S> *left) {
    const ptrdiff_t L = lanes<S>(), whole = (n + L - 1) / L * L;
    Tally<S> tally = empty_tally<S>();
    for (ptrdiff_t j = 0; j < n; j += L) {
        const Lanes<S> v = load_some<S>(x + j, n - j, -INFINITY);
        if constexpr (in_two_steps<S>()) {
            put_reduced<S, WAY>(kept + j, left + j, v, f);
        } else {
            const Lanes<S> e = count<S>(&tally, term_by_way<S, WAY>(v, f));
            if (KEEP) store_pack(kept + j, e);
        }
    }
    if constexpr (in_two_steps<S>()) add_reduced<S, KEEP>(&tally, kept, left, whole, kept);
    return sum_of_row(tally, whole / L);
}
template <class S> INLINE Way way_of(const Frame<S> &f, double scale) {
    return scale != 1 ? SCALED : any(f.origin != constant<Lanes<S>>(0)) ? FAR : NEAR;
}
template <class S> INLINE const S *row_at(const S *x, ptrdiff_t stride, ptrdiff_t j) { return (const S *)((const char *)x + stride * j); }
template <class S> struct Columns {  // the sums of columns, a block of COUNT rows at a time
    Counts<float> steps = constant<Counts<float>>(0);
    INLINE void take(const Tally<S> &t, ptrdiff_t n) {
        Tally<S> c = counted<S>(t, n);
        steps = steps + steps_of(Tally<float>{c.coarse, c.fine});
    }
    INLINE Sum<Doubles<float>> sums() const { return sums_of(steps); }
};
template <> struct Columns<double> {
    Tally<double> total = empty_tally<double>();
    INLINE void take(const Tally<double> &t, ptrdiff_t n) {
        Tally<double> c = counted<double>(t, n);
        total.coarse = total.coarse + c.coarse;
        total.fine = total.fine + c.fine;
    }
    INLINE Sum<Doubles<double>> sums() const {
        return sum_of_doubles<Doubles<double>>(total.coarse, total.fine);
    }
};
template <class S> INLINE Way way_of_columns(const Frame<S> *frame, ptrdiff_t groups, double scale) {
    if (scale != 1) return SCALED;
    Mask<S> far = constant<Mask<S>>(0);
    for (ptrdiff_t g = 0; g < groups; g++) far = far | (frame[g].origin != constant<Lanes<S>>(0));
    return any(far) ? FAR : NEAR;
}
// Several rows of one Lanes of columns: f(rows, Lanes of each) and then the rest of them one by one.
template <class S, class F> INLINE void rows_of_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, F f) {
    typedef typename Several<S>::type P;
    const ptrdiff_t several = sizeof(P) / sizeof(Lanes<S>);
    ptrdiff_t j = 0;
    for (; width >= lanes<S>() && j + several <= n; j += several) {
        P v;
        for (ptrdiff_t i = 0; i < several; i++) part<S>(&v, i) = load<S>(row_at(x, stride, j + i));
        f(j, v);
    }
    for (; j < n; j++) f(j, load_some<S>(row_at(x, stride, j), width, 0));
}
template <class S, int WAY, bool HIDE> __attribute__((noinline)) void exp_columns_by_way(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const Frame<S> *frame, const Lanes<S> *hidden, Sum<Doubles<S>> *sum) {
    const ptrdiff_t L = lanes<S>(), groups = (width + L - 1) / L;
    Tally<S> tally[WIDE];
    Columns<S> columns[WIDE];
    for (ptrdiff_t start = 0; start < n; start += COUNT) {
        const ptrdiff_t end = std::min(n, start + COUNT);
        for (ptrdiff_t g = 0; g < groups; g++) tally[g] = empty_tally<S>();
        for (ptrdiff_t j = start; j < end; j += ROWS)
            for (ptrdiff_t g = 0; g < groups; g++) {
                const Frame<S> f = frame[g];
                Tally<S> t = tally[g];
                rows_of_columns(row_at(x, stride, j) + g * L, stride, std::min(ROWS, end - j), width - g * L, [&](ptrdiff_t, auto v) TERM {
                    if (HIDE) v = select(v == repeat<decltype(v)>(hidden[g]), constant<decltype(v)>(-INFINITY), v);
                    count<S>(&t, term_by_way<S, WAY>(v, f));
                });
                tally[g] = t;
            }
        for (ptrdiff_t g = 0; g < groups; g++) columns[g].take(tally[g], end - start);
    }
    for (ptrdiff_t g = 0; g < groups; g++) sum[g] = columns[g].sums();
}
// The sums of up to FRAME rows of columns, `stride` bytes apart; `hidden` elements, where given, take no part.
template <class S> INLINE void exp_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const Frame<S> *frame, double scale, const Lanes<S> *hidden, Sum<Doubles<S>> *sum) {
    switch (way_of_columns<S>(frame, (width + lanes<S>() - 1) / lanes<S>(), scale)) {
    case SCALED: return hidden ? exp_columns_by_way<S, SCALED, true>(x, stride, n, width, frame, hidden, sum) : exp_columns_by_way<S, SCALED, false>(x, stride, n, width, frame, hidden, sum);
    case FAR: return hidden ? exp_columns_by_way<S, FAR, true>(x, stride, n, width, frame, hidden, sum) : exp_columns_by_way<S, FAR, false>(x, stride, n, width, frame, hidden, sum);
    default: return hidden ? exp_columns_by_way<S, NEAR, true>(x, stride, n, width, frame, hidden, sum) : exp_columns_by_way<S, NEAR, false>(x, stride, n, width, frame, hidden, sum);
    }
}
// ---------------------------------------------------------------- merge

// The way of a plain double through code for lanes.
typedef Pack<double, 1> One;
template <int N> INLINE Pack<double, N> exp_double(Pack<double, N> x, Pack<double, N> low) { return exp(x, low); }
INLINE double exp_double(double x, double low) { return exp(constant<One>(x), constant<One>(low)).v[0]; }
template <int N> INLINE Pack<double, N> exp_magic(Pack<double, N> t, Pack<double, N> low, Pack<double, N> magic, Pack<double, N> *rest) {
    const Term<Pack<double, N>> x = exp_term<false, true>(t, low, magic);
    Pack<double, N> e = value(x);
    *rest = mad(x.a, x.b, x.power - e);
    return e;
}
INLINE double exp_magic(double t, double low, double magic, double *rest) {
    One r, e = exp_magic(constant<One>(t), constant<One>(low), constant<One>(magic), &r);
    *rest = r.v[0];
    return e.v[0];
}
template <class D> INLINE D exp_magic(D magic) { D rest; return exp_magic(constant<D>(0), constant<D>(0), magic, &rest); }

// scale (a - b), as product + low.
template <class D> INLINE D scaled_difference(D a, D b, double scale, D *low) {
    D rest, error, d = two_sum(a, constant<D>(0) - b, &rest), p = two_product(d, constant<D>(scale), &error);
    *low = mad(rest, constant<D>(scale), error);
    return p;
}
// The common way of a row: within one origin, by a power of two.
template <class D> INLINE bool moved(State<D> *, const State<D> &) { return false; }
INLINE double power_of_two(double n) { return from_bits<double>((uint64_t)((int64_t)n + Exp<double>::bias) << Exp<double>::mantissa); }
INLINE bool moved(State<double> *s, const State<double> &to) {
    const double power = std::max(s->k - to.k, -2000.0), some = std::max(power, -1000.0);
    if (s->origin != to.origin || s->m == -INFINITY) return false;
    s->l.high = s->l.high * power_of_two(some) * power_of_two(power - some);
    s->l.low = s->l.low * power_of_two(some) * power_of_two(power - some);
    return true;
}
// What takes a sum into a frame with a larger maximum: a power of two where both have one origin.  It may be below
// the smallest double although the sum it scales, with its headroom, is not: hence two factors.
template <class D> INLINE void rescale(State<D> *s, const State<D> &to, double scale) {
    D zero = constant<D>(0), steps = s->k - to.k, unit = constant<D>(Exp<double>::magic + Exp<double>::bias), low;
    auto same = s->origin == to.origin;
    if (moved(s, to)) return;
    D power = select(same, steps, zero);
    D apart = scaled_difference(s->origin, to.origin, scale, &low) + steps * constant<D>(Exp<double>::ln2_high);
    D lost = select(same, zero, apart), lost_low = select(same, zero, mad(steps, constant<D>(Exp<double>::ln2_low), low));
    lost_low = select(lost > constant<D>(-2000), lost_low, zero);  // below, the error may be large itself, or no number
    power = select(power < constant<D>(-2000), constant<D>(-2000), power);
    D some = select(power < constant<D>(-1000), constant<D>(-1000), power);
    D first = exp_magic(unit + some), second = exp_magic(unit + (power - some)) * exp_double(lost, lost_low);
    auto empty = s->m == constant<D>(-INFINITY);
    s->l.high = select(empty, zero, s->l.high * first * second);
    s->l.low = select(empty, zero, s->l.low * first * second);
}
// a then b, in the order of the reduction.  A NaN stays.
template <class S, class D> INLINE void merge(State<D> *a, State<D> b, double scale) {
    auto other = ((b.m > a->m) | (b.m != b.m)) & (a->m == a->m);
    State<D> to = *a;
    to.m = select(other, b.m, a->m);
    to.origin = select(other, b.origin, a->origin);
    to.k = select(other, b.k, a->k);
    rescale(a, to, scale);
    rescale(&b, to, scale);
    add<S>(&a->l, b.l.high);
    a->l.low = a->l.low + b.l.low;
    a->m = to.m, a->origin = to.origin, a->k = to.k;
}

// ---------------------------------------------------------------- finish

// 1 / l as high + low, so that the product with an exponential is rounded once.  Of a row that has no softmax it is NaN.
template <class S> struct RowInverse { acc<S> high, low; };
template <class S> struct Inverse { Lanes<S> high, low; };
template <class S, class D> INLINE Inverse<S> inverse_of(const State<D> &s) {
    if constexpr (sizeof(acc<S>) == 4) {
        const D high = reciprocal_as_float(s.l.high);
        return {lanes_of<S>(high + (s.m - s.m)), lanes_of<S>(high * mad(constant<D>(0) - s.l.high, high, constant<D>(1)))};
    }
    D one = constant<D>(1), r = one / (s.l.high + s.l.low), error;
    D product = two_product(r, s.l.high, &error);
    D rest = r * (((one - product) - error) - r * s.l.low), high = rounded<S>(r);
    return {lanes_of<S>(high + (s.m - s.m)), lanes_of<S>((r - high) + rest)};
}
template <class S> INLINE RowInverse<S> row_of(const Inverse<S> *r, ptrdiff_t i) { return {lane<S>(r->high, i), lane<S>(r->low, i)}; }
template <class S> INLINE Inverse<S> spread_inverse(const RowInverse<S> &r) { return {splat<S>(r.high), splat<S>(r.low)}; }
// e (high + low), of which the first product is taken exactly: well above the subnormals, where its parts would be lost.
template <class P> INLINE P unfused(P e, P high, P low) {
    const double up = sizeof(typename element<P>::type) == 4 ? 0x1p40 : 0x1p300;
    P error, product = two_product(e, high * constant<P>(up), &error);
    return (product + (error + e * (low * constant<P>(up)))) * constant<P>(1 / up);
}
template <class P> INLINE P times(P e, P high, P low) {
#if SOFTCORE_FMA
    return mad(e, high, e * low);
#else
    // The product in power + a * b was rounded too, which is enough to lift a share of almost 1 above it.
    const P share = unfused(e, high, low), one = constant<P>(1);
    return select(share > one, one, share);
#endif
}
template <class S, class P> INLINE P times(P e, const Inverse<S> &r) {  // of half types the first part will do
    const P high = repeat<P>(r.high);
    return is_half<S>() ? e * high : times(e, high, repeat<P>(r.low));
}

// log(c + (u + low)) for c = 1 and u >= 0, or c = 0 and u > 0 not subnormal; right for the smallest u when c is 1.  After
// fdlibm (Sun Microsystems, 1993): what is added to w, which is exact, is small beside it.
template <bool LOW, int N> INLINE Pack<double, N> log_of(Pack<double, N> c, Pack<double, N> u, Pack<double, N> low) {
    typedef Pack<double, N> P;
    typedef Pack<int64_t, N> I;
    P v = c + u, one = constant<P>(1);
    I above = as<int64_t>(v) - as<int64_t>(constant<P>(0.70710678118654752440));
    I e = shift_right(above, 52);
    P n = as<double>(e + as<int64_t>(constant<P>(6755399441055744.0))) - constant<P>(6755399441055744.0);
    P f = as<double>(as<int64_t>(v) - shift_left(e, 52));
    P w = select(n == constant<P>(0), (c - one) + u, f - one);
    P s = w / (constant<P>(2) + w), z = s * s, half_square = constant<P>(0.5) * w * w;
    P odd = constant<P>(2) * z * atanh_tail_short(z);
    P rest = n * constant<P>(1.9082149292705877e-10), small = mad(s, half_square + odd, LOW ? rest + low / v : rest);
    return mad(n, constant<P>(0.69314718036912381649), w - (half_square - small));
}

template <bool LOW> INLINE double log_of(double c, double u, double low) { return log_of<LOW>(constant<One>(c), constant<One>(u), constant<One>(low)).v[0]; }

// exp(scale (m - origin)) in the frame, the largest element's: high + low.
template <class S, class D> INLINE Sum<D> weight_of_max(const State<D> &s, double scale) {
    D low, zero = constant<D>(0), t = scaled_difference(s.m, s.origin, scale, &low);
    auto same = s.m == s.origin;  // inf - inf
    t = select(same, zero, t);
    low = select(same | (low != low), zero, low);
    D rest, error, e = exp_magic(t, low, constant<D>(Exp<double>::magic + Exp<double>::bias + Exp<acc<S>>::headroom) - s.k, &rest);
    const D temper = constant<D>(tempered<Lanes<S>>());
    e = two_product(e, temper, &error);
    return {e, mad(rest, temper, error)};
}
// (a.high + a.low) / (b.high + b.low).
template <class D> INLINE Sum<D> quotient(const Sum<D> &a, const Sum<D> &b) {
    D error, q = a.high / b.high, p = two_product(q, b.high, &error);
    return {q, (((a.high - p) - error) + (a.low - q * b.low)) / b.high};
}
// The sum of exp(scale (x - m)) over a row, 1 or more, and over the row without one maximum.  A row with a spike has a sum
// so near to 1 that the logarithm is log1p of the rest.
template <class D> struct Mass { D sum, sum_low, rest, rest_low; };
static constexpr double SPIKE = 1.5;
// The rest is the sum less what the maximum was counted as, which is exact.  The steps that were counted are a 2^-45th of the
// maximum for floats: where the rest of n elements is too thin to be measured in them, it must be summed alone.
template <class S> INLINE Mass<Doubles<S>> mass_of(const State<Doubles<S>> &s, double scale) {
    const Frame<S> f = frame_of<S>(s, scale);
    Tally<S> t = empty_tally<S>();
    count<S>(&t, scale == 1 ? term_by_way<S, FAR>(lanes_of<S>(s.m), f) : term_by_way<S, SCALED>(lanes_of<S>(s.m), f));
    Columns<S> top;
    top.take(t, 1);
    const Sum<Doubles<S>> counted = top.sums();
    // Of floats the maximum as it was counted will do, and in doubles nothing is lost.
    if (sizeof(acc<S>) == 4) {
        const Doubles<S> zero = constant<Doubles<S>>(0), share = constant<Doubles<S>>(1) / counted.high;
        return {s.l.high * share, zero, (s.l.high - counted.high) * share, zero};
    }
    const Sum<Doubles<S>> weight = weight_of_max<S>(s, scale), sum = quotient(s.l, weight);
    const Sum<Doubles<S>> rest = quotient({s.l.high - counted.high, s.l.low - counted.low}, weight);  // near, so exact
    return {sum.high, sum.low, rest.high, rest.low};
}
template <class S, class D> INLINE auto thin(const Mass<D> &mass, ptrdiff_t n) {
    const double steps = (double)(n < FRAME<S>() ? n : FRAME<S>()) * (sizeof(acc<S>) == 4 ? 0x1p-18 : 0x1p-46);
    return (mass.sum < constant<D>(SPIKE)) & (mass.rest < constant<D>(steps));
}
// The rest of a row, from its state without the maximum m.
template <class S, class D> INLINE D rest_from(const State<D> &rest, D m, double scale) {
    D zero = constant<D>(0), bottom = constant<D>(-2000), low, t = scaled_difference(rest.m, m, scale, &low);
    auto some = t > bottom;
    const Sum<D> q = quotient(rest.l, weight_of_max<S>(rest, scale));
    // What is far below is taken 2^512 times as large, so that only the last product is rounded to a subnormal number.
    auto deep = t < constant<D>(-300);
    D error, lifted = two_sum(t, constant<D>(512 * LN2), &error);
    low = select(deep, low + (error + constant<D>(512 * 2.3190468138462996e-17)), low);
    t = select(deep, lifted, t);
    D u = (q.high + q.low) * exp_double(select(some, t, bottom), select(some, low, zero));
    return select(some, u * select(deep, constant<D>(0x1p-512), constant<D>(1)), zero);
}
template <class S, class D> INLINE D log_of_mass(const Mass<D> &m) {
    auto spike = m.sum < constant<D>(SPIKE);
    return log_of<sizeof(acc<S>) == 8>(select(spike, constant<D>(1), constant<D>(0)), select(spike, m.rest, m.sum), select(spike, m.rest_low, m.sum_low));
}

// log_softmax is scale (x - m) - log(sum of exp(scale (x - m))).
template <class S> struct RowLog { acc<S> m, log, scale, scale_low; };
template <class S> struct LogFrame { Lanes<S> m, log, scale, scale_low; };
template <class S, class D> INLINE LogFrame<S> log_frame_of(D m, D log, double scale) {  // NaN for a row that has no softmax
    return {lanes_of<S>(m), lanes_of<S>(log + (m - m)), lanes_of<S>(scale), lanes_of<S>(scale - (double)(acc<S>)scale)};
}
template <class S> INLINE RowLog<S> row_of(const LogFrame<S> *f, ptrdiff_t i) {
    return {lane<S>(f->m, i), lane<S>(f->log, i), lane<S>(f->scale, i), lane<S>(f->scale_low, i)};
}
template <class S> INLINE LogFrame<S> spread_log(const RowLog<S> &f) { return {splat<S>(f.m), splat<S>(f.log), splat<S>(f.scale), splat<S>(f.scale_low)}; }
template <class S, bool SCALE, class P> INLINE P log_softmax_by_way(P x, const LogFrame<S> &f) {
    const P m = repeat<P>(f.m), log = repeat<P>(f.log), scale = repeat<P>(f.scale), scale_low = repeat<P>(f.scale_low);
    if (!SCALE) return (x - m) - log;
    P zero = constant<P>(0), rest, error, t = two_sum(x, zero - m, &rest), p = two_product(t, scale, &error);
    error = mad(t, scale_low, mad(rest, scale, error));
    auto finite = (p - p) == zero;
    p = select((t - t) == zero, p, x * scale - m * scale);  // the difference of huge numbers may overflow, a part of it not
    return (p - log) + select(finite, error, zero);
}

// logsumexp.  Where the maximum and the logarithm cancel, little is left of what either is good for: the row is then
// summed again in wider arithmetic.  The sum of floats has an error below 2^-25, so little is less than an eighth.
template <class S, class D> INLINE auto cancels(D m, D log) {
    const bool single = sizeof(acc<S>) == 4;
    const double most = single ? 0.125 : INFINITY;
    D sum = m + log, size = select(sum < constant<D>(0), constant<D>(0) - sum, sum), limit = log * constant<D>(single ? 0.25 : 0.5);
    return size < select(limit < constant<D>(most), limit, constant<D>(most));
}
template <class S, class D> INLINE D logsumexp_of(const State<D> &s, const Mass<D> &mass) {
    return select((s.m - s.m) == constant<D>(0), s.m + log_of_mass<S>(mass), s.m);
}
// The logarithm of a sum of exponentials that is about 1: of a million, what is lost to each addition would add up.
struct LongSum { long double high, low; };
INLINE double log_of_long(const LongSum *s) { return (double)std::log1p((s->high - 1) + s->low); }
INLINE void add_exponentials(LongSum *s, const double *x, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) {
        const long double e = std::exp((long double)x[j]), sum = s->high + e, v = sum - s->high;
        s->low += (s->high - (sum - v)) + (e - v);
        s->high = sum;
    }
}

// ---------------------------------------------------------------- sums of anything

// The sums of backwards: TILE elements are added in the lanes of four accumulators, whose lanes then become doubles.
// Columns keep the order: row j goes to lane j mod lanes.
template <class P> INLINE P tree4(const P *e) { return (e[0] + e[1]) + (e[2] + e[3]); }
template <class S, class F> INLINE double sum_tile(ptrdiff_t n, F term) {  // term(j, count, sum): sum + the element
    const ptrdiff_t L = lanes<S>();
    Lanes<S> e[4];
    for (int i = 0; i < 4; i++) e[i] = constant<Lanes<S>>(0);
    ptrdiff_t j = 0;
    for (; j + 4 * L <= n; j += 4 * L)
        for (int i = 0; i < 4; i++) e[i] = term(j + i * L, L, e[i]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        if (j + i * L < n) e[i] = term(j + i * L, n - j - i * L, e[i]);
    return sum_lanes<S>(tree4(e));
}
// The same of a Lanes of columns no longer than a Lanes, whose elements each have a lane of their own: what becomes of lanes I, I + STEP, ..
template <class S, int I, int STEP, class F> INLINE Doubles<S> sum_short_columns(ptrdiff_t n, F term) {  // term(j)
    if constexpr (STEP == lanes<S>()) return doubles<S>(term(I));
    else {
        const Doubles<S> sum = sum_short_columns<S, I, 2 * STEP>(n, term);
        return I + STEP < n ? sum + sum_short_columns<S, I + STEP, 2 * STEP>(n, term) : sum;
    }
}
// The sums of up to SUMS Lanes of columns, side by side: term(j, g, sum).  Row by row, as they lie in memory, into as many sums as a row
// has places.
static constexpr ptrdiff_t SUMS = 8;
template <class S, class F> INLINE void sum_tile_columns(ptrdiff_t n, ptrdiff_t groups, Doubles<S> *sum, F term) {
    const ptrdiff_t L = lanes<S>();
    if (n <= L) {
        for (ptrdiff_t g = 0; g < groups; g++) sum[g] = sum_short_columns<S, 0, 1>(n, [&](ptrdiff_t j) TERM { return term(j, g, constant<Lanes<S>>(0)); });
        return;
    }
    Lanes<S> e[4 * lanes<S>()][SUMS];
    for (ptrdiff_t j = 0; j < 4 * L; j++)
        for (ptrdiff_t g = 0; g < groups; g++) {
            e[j][g] = constant<Lanes<S>>(0);
            if (j < n) e[j][g] = term(j, g, e[j][g]);
        }
    for (ptrdiff_t start = 4 * L; start < n; start += 4 * L)
        for (ptrdiff_t i = 0; i < 4 * L && start + i < n; i++)
            for (ptrdiff_t g = 0; g < groups; g++) e[i][g] = term(start + i, g, e[i][g]);
    for (ptrdiff_t g = 0; g < groups; g++) {
        Doubles<S> t[lanes<S>()];
        for (ptrdiff_t i = 0; i < L; i++) t[i] = doubles<S>((e[i][g] + e[i + L][g]) + (e[i + 2 * L][g] + e[i + 3 * L][g]));
        for (ptrdiff_t w = L / 2; w; w /= 2)
            for (ptrdiff_t i = 0; i < w; i++) t[i] = t[i] + t[i + w];
        sum[g] = t[0];
    }
}
template <class S> __attribute__((noinline)) double sum_row(const S *a, ptrdiff_t n) {
    return sum_tile<S>(n, [=](ptrdiff_t j, ptrdiff_t m, Lanes<S> sum) TERM { return sum + load_some<S>(a + j, m, 0); });
}
template <class S> __attribute__((noinline)) double dot_row(const S *a, const S *b, ptrdiff_t n) {
    return sum_tile<S>(n, [=](ptrdiff_t j, ptrdiff_t m, Lanes<S> sum) TERM { return mad(load_some<S>(a + j, m, 0), load_some<S>(b + j, m, 0), sum); });
}
// Of a row to come, which lies in another page where no hardware looks ahead, each line is asked for.
static constexpr ptrdiff_t ROWS_AHEAD = 16;
template <class S> __attribute__((noinline)) void sum_columns_of(const S *a, ptrdiff_t as, ptrdiff_t n, ptrdiff_t width, Doubles<S> *sum) {
    const ptrdiff_t L = lanes<S>();
    sum_tile_columns<S>(n, (width + L - 1) / L, sum, [=](ptrdiff_t j, ptrdiff_t g, Lanes<S> s) TERM {
        prefetch(row_at(a, as, j + ROWS_AHEAD) + g * L);
        return s + load_some<S>(row_at(a, as, j) + g * L, width - g * L, 0); });
}
template <class S> __attribute__((noinline)) void dot_columns_of(const S *a, ptrdiff_t as, const S *b, ptrdiff_t bs, ptrdiff_t n, ptrdiff_t width, Doubles<S> *sum) {
    const ptrdiff_t L = lanes<S>();
    sum_tile_columns<S>(n, (width + L - 1) / L, sum, [=](ptrdiff_t j, ptrdiff_t g, Lanes<S> s) TERM {
        prefetch(row_at(a, as, j + ROWS_AHEAD) + g * L);
        prefetch(row_at(b, bs, j + ROWS_AHEAD) + g * L);
        return mad(load_some<S>(row_at(a, as, j) + g * L, width - g * L, 0), load_some<S>(row_at(b, bs, j) + g * L, width - g * L, 0), s); });
}

// ---------------------------------------------------------------- what the kernels call

template <class S> INLINE ptrdiff_t tile_size(const S *) { return TILE<S>(); }
template <class S> INLINE ptrdiff_t chunk_size(const S *) { return CHUNK<S>(); }
template <class S> INLINE ptrdiff_t frame_size(const S *) { return FRAME<S>(); }
INLINE State<double> empty_row() { return empty_state<double>(); }

template <class S> INLINE double number_at(const S *, const Doubles<S> *d, ptrdiff_t i) { double v; std::memcpy(&v, (const char *)d + i * sizeof v, sizeof v); return v; }
template <class S> INLINE void set_number(const S *, Doubles<S> *d, ptrdiff_t i, double v) { std::memcpy((char *)d + i * sizeof v, &v, sizeof v); }

// One row.
template <class S> INLINE State<double> state_of_row_max(const S *, double top, double scale) { return state_of_max<S, double>(top, scale); }
template <class S> INLINE RowFrame<S> frame_of_row(const S *, const State<double> *s, double scale) { Frame<S> f = frame_of<S>(*s, scale); return row_of<S>(&f, 0); }
template <class S> INLINE void merge_rows(const S *, State<double> *a, const State<double> *b, double scale) {
    if (a->m == -INFINITY) *a = *b; else if (b->m != -INFINITY) merge<S>(a, *b, scale);
}
template <class S> INLINE RowInverse<S> inverse_of_row(const S *, const State<double> *s) { Inverse<S> r = inverse_of<S>(*s); return row_of<S>(&r, 0); }
template <class S> INLINE Mass<double> mass_of_row(const S *, const State<double> *s, double scale) {
    State<Doubles<S>> many = {constant<Doubles<S>>(s->m), constant<Doubles<S>>(s->origin), constant<Doubles<S>>(s->k), {constant<Doubles<S>>(s->l.high), constant<Doubles<S>>(s->l.low)}};
    Mass<Doubles<S>> mass = mass_of<S>(many, scale);
    const S *t = nullptr;
    return {number_at(t, &mass.sum, 0), number_at(t, &mass.sum_low, 0), number_at(t, &mass.rest, 0), number_at(t, &mass.rest_low, 0)};
}
template <class S> INLINE bool is_thin(const S *, const Mass<double> *mass, ptrdiff_t n) { return thin<S>(*mass, n); }
template <class S> INLINE double rest_from_row(const S *, const State<double> *rest, double m, double scale) { return rest_from<S>(*rest, m, scale); }
template <class S> INLINE double log_of_mass_of(const S *, const Mass<double> *mass) { return log_of_mass<S>(*mass); }
template <class S> INLINE LogFrame<S> log_of_row(const S *, double m, double log, double scale) { return log_frame_of<S>(m, log, scale); }
template <class S> INLINE double logsumexp_of_row(const S *, const State<double> *s, const Mass<double> *mass) { return logsumexp_of<S>(*s, *mass); }
template <class S> INLINE bool cancelled(const S *, double m, double result) { return cancels<S>(m, result - m); }
template <class S> INLINE double total_of_sum(const S *, const Sum<double> *s) { return total<S>(*s); }
template <class S> INLINE void add_row(const S *, Sum<double> *s, double x) { add<S>(s, x); }
template <class S> INLINE void merge_sums(const S *, Sum<double> *a, const Sum<double> *b) { add<S>(a, b->high); a->low += b->low; }

// Lanes of rows or columns.
template <class S> INLINE State<Doubles<S>> states_of_max(const S *, Lanes<S> top, double scale) {
    const Lanes<S> near_ = constant<Lanes<S>>(Exp<acc<S>>::near);
    const Doubles<S> m = doubles<S>(top), zero = constant<Doubles<S>>(0);
    if (scale == 1 && all((top < near_) & (top > constant<Lanes<S>>(0) - near_))) return {m, zero, rounded_steps(m), {zero, zero}};
    return state_of_max<S>(m, scale);
}
template <class S> INLINE Frame<S> frames_of(const S *, const State<Doubles<S>> *s, double scale) { return frame_of<S>(*s, scale); }
template <class S> INLINE Inverse<S> inverses_of(const S *, const State<Doubles<S>> *s) { return inverse_of<S>(*s); }
template <class S> INLINE Mass<Doubles<S>> masses_of(const S *, const State<Doubles<S>> *s, double scale) { return mass_of<S>(*s, scale); }
template <class S> INLINE bool any_thin(const S *, const Mass<Doubles<S>> *mass, ptrdiff_t n) { return any(thin<S>(*mass, n)); }
template <class S> INLINE void set_thin(const S *, Mass<Doubles<S>> *mass, ptrdiff_t n, const State<Doubles<S>> *rest, const State<Doubles<S>> *s, double scale) {
    auto few = thin<S>(*mass, n);
    mass->rest = select(few, rest_from<S>(*rest, s->m, scale), mass->rest);
    mass->rest_low = select(few, constant<Doubles<S>>(0), mass->rest_low);
}
template <class S> INLINE LogFrame<S> logs_of(const S *, const State<Doubles<S>> *s, const Mass<Doubles<S>> *mass, double scale) { return log_frame_of<S>(s->m, log_of_mass<S>(*mass), scale); }
template <class S> INLINE Doubles<S> logs_of_masses(const S *, const Mass<Doubles<S>> *mass) { return log_of_mass<S>(*mass); }
template <class S> INLINE Doubles<S> logsumexps_of(const S *, const State<Doubles<S>> *s, const Mass<Doubles<S>> *mass) { return logsumexp_of<S>(*s, *mass); }
template <class S> INLINE void merge_columns(const S *, State<Doubles<S>> *a, const State<Doubles<S>> *b, double scale) { merge<S>(a, *b, scale); }
// Columns of nothing but -inf have the empty state.
template <class S> INLINE void close_columns(const S *, State<Doubles<S>> *s) {
    Doubles<S> zero = constant<Doubles<S>>(0);
    auto empty = s->m == constant<Doubles<S>>(-INFINITY);
    if (!any(empty)) return;
    s->l.high = select(empty, zero, s->l.high);
    s->l.low = select(empty, zero, s->l.low);
}
template <class S> INLINE bool any_cancelled(const S *, const State<Doubles<S>> *s, const Doubles<S> *result) { return any(cancels<S>(s->m, *result - s->m)); }
template <class S> INLINE Lanes<S> lanes_of_doubles(const S *, const Doubles<S> *d) { return lanes_of<S>(*d); }
template <class S> INLINE void add_columns(const S *, Sum<Doubles<S>> *s, const Doubles<S> *x) { add<S>(s, *x); }
template <class S> INLINE void merge_sum_columns(const S *, Sum<Doubles<S>> *a, const Sum<Doubles<S>> *b) { add<S>(a, b->high); a->low = a->low + b->low; }
template <class S> INLINE Sum<Doubles<S>> empty_sum_columns(const S *) { return {constant<Doubles<S>>(0), constant<Doubles<S>>(0)}; }
template <class S> INLINE Lanes<S> lanes_of_sum_columns(const S *, const Sum<Doubles<S>> *s) { return lanes_of<S>(total<S>(*s)); }

}  // namespace
}  // namespace softcore
