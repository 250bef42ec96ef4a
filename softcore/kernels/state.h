// state.h: the (m, l) state of softmax and logsumexp, for one row or for lanes of columns.
//
//   empty    m = -inf, l = 0
//   absorb   m = max of the tile; l = sum of the exponentials in the tile's frame
//   merge    the frame of the larger m; the other l is rescaled into it
//   finish   softmax: 1 / l;  logsumexp: m + log(l)
//
// A frame says in what unit the exponentials are summed: exp(x - origin) 2^(headroom - k).  Where |m| is small
// the origin is 0 and k alone follows m, so x itself is reduced by multiples of ln 2 and no bit is lost in
// forming x - m; and rescaling is by a power of two, which is exact.  Where |m| is large the origin is m and
// x - m is exact by Sterbenz for every x that matters.  The headroom keeps the small terms normal numbers
// until the last multiplication, whose rounding then is the only one, into the subnormals too.
//
// For logsumexp and log_softmax the elements equal to m are counted in c and left out of l, because
// log(c + l) of a row with one large element is log1p of something tiny.
//
// D is double for a row and lanes of double for columns: the same text, hence the same bits.
#pragma once
#include "simd.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- sizes that decide the order of additions

// TREE elements are added lane by lane in a tree of eight Lanes; TILE elements share a frame; CHUNK elements
// are one thread's at least.  They depend on the storage alone.
template <class S> INLINE constexpr ptrdiff_t TREE() { return 8 * lanes<S>(); }
template <class S> INLINE constexpr ptrdiff_t TILE() { return 64 * lanes<S>(); }
template <class S> INLINE constexpr ptrdiff_t CHUNK() { return 16 * TILE<S>(); }

template <class S, int N> INLINE Pack<double, 2 * N> doubles(Pack<float, N> x) { return to_double(x); }
template <class S, int N> INLINE Pack<double, N> doubles(Pack<double, N> x) { return x; }
template <class S> using Doubles = Pack<double, (sizeof(acc<S>) == 4 ? 128 : 64) / SOFTCORE_VECTOR>;

INLINE Lanes<float> accumulators_of(float, Doubles<float> x) { return to_float<64 / SOFTCORE_VECTOR>(x); }
INLINE Lanes<double> accumulators_of(double, Doubles<double> x) { return x; }

// Eight exponentials, products or whatever of one lane, by the same tree everywhere.
template <class P> INLINE P tree8(const P *e) {
    return ((e[0] + e[1]) + (e[2] + e[3])) + ((e[4] + e[5]) + (e[6] + e[7]));
}

// A running sum of trees.  Doubles that add floats need no care; doubles that add doubles carry their error.
template <class D> struct Sum { D high, low; };
template <class S, class D> INLINE void add(Sum<D> *s, D x) {
    if (sizeof(acc<S>) == 4) { s->high = s->high + x; return; }
    D error;
    s->high = two_sum(s->high, x, &error);
    s->low = s->low + error;
}

// ---------------------------------------------------------------- frames

// m is scale * (largest x), low what its rounding left.
template <class D> struct State { D m, low, origin, k; Sum<D> l; D c; };

// What exp_of needs of a frame, in the accumulator's type and spread over lanes.
template <class S> struct Frame { Lanes<S> low, magic, origin, origin_low, scale, scale_low; bool scaled; };

template <class S> INLINE double rounded(double x) { return (double)(acc<S>)x; }
template <class S> INLINE Doubles<S> rounded(Doubles<S> x) { return doubles<S>(accumulators_of(acc<S>(), x)); }
template <class S> INLINE Lanes<S> lanes_of(double x) { return splat<S>((acc<S>)x); }
template <class S> INLINE Lanes<S> lanes_of(Doubles<S> x) { return accumulators_of(acc<S>(), x); }

template <class D> INLINE State<D> empty_state() {
    D zero = constant<D>(0);
    return {constant<D>(-INFINITY), zero, zero, zero, {zero, zero}, zero};
}
// An infinite or NaN maximum has the frame of 0; the finish looks at m alone then.
template <class S, class D> INLINE State<D> state_of_max(D m, D low) {
    const double round = 6755399441055744.0;
    D zero = constant<D>(0), size = select(m < zero, zero - m, m);
    D small = select(size < constant<D>(Exp<acc<S>>::near), m, zero);
    D large = select(size < constant<D>(INFINITY), m - small, zero);  // 0 or m
    D n = small * constant<D>(LOG2E) + constant<D>(round);
    return {m, low, large, n - constant<D>(round), {zero, zero}, zero};
}
template <class S, class D> INLINE Frame<S> frame_of(const State<D> &s, double scale) {
    typedef Exp<acc<S>> E;
    Frame<S> f;
    f.low = lanes_of<S>((s.k + constant<D>(E::lowest)) * constant<D>(LN2));
    f.magic = lanes_of<S>(constant<D>(E::magic + E::bias + E::headroom) - s.k);
    D high = rounded<S>(s.origin);
    f.origin = lanes_of<S>(high);
    f.origin_low = lanes_of<S>(select(s.origin == constant<D>(0), constant<D>(0), (s.origin - high) + s.low));
    f.scale = lanes_of<S>(scale);
    f.scale_low = lanes_of<S>(scale - (double)(acc<S>)scale);
    f.scaled = scale != 1;
    return f;
}

// scale * x - origin in two parts, of which the second is small.  Beside an infinite product there is no rest.
template <class S> INLINE Lanes<S> scaled_part(Lanes<S> x, const Frame<S> &f, Lanes<S> *low) {
    Lanes<S> error, t = two_product(x, f.scale, &error) - f.origin;
    Lanes<S> rest = mad(x, f.scale_low, error) - f.origin_low;
    rest = select((t - t) == constant<Lanes<S>>(0), rest, constant<Lanes<S>>(0));
    Lanes<S> sum = t + rest;
    *low = rest - (sum - t);
    return sum;
}
// scale * top as the elements themselves are multiplied, so that the largest less the maximum is exactly 0.
template <class S> INLINE double product_of_max(double top, double scale, double *low) {
    typedef acc<S> A;
    *low = 0;
    if (scale == 1 || !std::isfinite(top)) return top;
    A error, p = two_product((A)top, (A)scale, &error);
    error = mad((A)top, (A)(scale - (double)(A)scale), error);
    if (!(error == error)) error = 0;
    if (sizeof(A) == 4) return (double)p + (double)error;
    *low = error;
    return p;
}
// An exponential e for the result, and the same value as q + r for the sum: q is e on a grid so coarse that eight of
// them (in double all sixty-four of a tree) add without rounding, r what is left, e's own rounding error included.  Added in float as they are, one large
// exponential and seven small ones would lose more than the 2 ulp that softmax promises.
template <class S> struct Split { Lanes<S> e, q, r; };
template <class S> INLINE Split<S> exp_split(Reduced<Lanes<S>> x, Lanes<S> sum) {
    const Lanes<S> grid = constant<Lanes<S>>(1.5 * std::ldexp(1.0, Exp<acc<S>>::headroom + (sizeof(acc<S>) == 4 ? 3 : 6)));
    Lanes<S> s = exp_minus_one(x), two_n = power_of_two(sum), e = mad(s, two_n, two_n), q = (e + grid) - grid;
    return {e, q, mad(s, two_n, two_n - q)};
}
template <class S> INLINE Split<S> operator+(const Split<S> &a, const Split<S> &b) { return {a.e, a.q + b.q, a.r + b.r}; }
template <class S> INLINE Split<S> nothing() { Lanes<S> zero = constant<Lanes<S>>(0); return {zero, zero, zero}; }
template <class S> INLINE Doubles<S> doubles(const Split<S> &a) { return doubles<S>(a.q) + doubles<S>(a.r); }
template <class S> INLINE double sum_lanes(const Split<S> &a) {
    return sizeof(acc<S>) == 4 ? tree(doubles<S>(a)) : tree(doubles<S>(a.q)) + tree(doubles<S>(a.r));
}

// exp(scale * x) in the frame.  What lies too low for it, -inf too, comes out so small that it vanishes from
// sums and results alike.
// Three ways to the same bits: x as it is, x less an origin, scale * x less an origin.
enum Way { NEAR, FAR, SCALED };
template <class S, int WAY> INLINE Split<S> split_by_way(Lanes<S> x, const Frame<S> &f) {
    typedef Lanes<S> P;
    P error, t = WAY == NEAR ? x : WAY == FAR ? x - f.origin : scaled_part<S>(x, f, &error);
    if (WAY == SCALED) error = select(t > f.low, error, constant<P>(0));
    t = greater(f.low, t);
    P sum = mad(t, constant<P>(LOG2E), f.magic);
    Reduced<P> r = reduce(t, sum - f.magic);
    if (WAY == SCALED) r.low = r.low + error;
    return exp_split<S>(r, sum);
}
template <class S> INLINE Split<S> split_of(Lanes<S> x, const Frame<S> &f) {
    return __builtin_expect(!f.scaled, 1) ? split_by_way<S, FAR>(x, f) : split_by_way<S, SCALED>(x, f);
}
template <class S> INLINE Lanes<S> exp_of(Lanes<S> x, const Frame<S> &f) { return split_of<S>(x, f).e; }

// ---------------------------------------------------------------- absorb

template <class S> INLINE double count_hits(Mask<S> hits) {
    bits_t<acc<S>> h[lanes<S>()], sum = 0;
    store_pack(h, hits);
    for (ptrdiff_t i = 0; i < lanes<S>(); i++) sum += h[i];
    return (double)sum;
}

#define TERM __attribute__((always_inline))

// Room for the exponentials of a row that is read once from memory: they are scaled, not computed again.
template <class S> struct Kept {
    static constexpr ptrdiff_t room = 4 * TILE<S>();
    alignas(64) acc<S> e[room];
};

// A row's frame is one number for all lanes: kept so, it takes one register and not one for each native vector.
template <class S> struct RowFrame { acc<S> low, magic, origin, origin_low, scale, scale_low; bool scaled; };
template <class S> INLINE RowFrame<S> frame_of_row(const S *, const State<double> *s, double scale) {
    typedef Exp<acc<S>> E;
    return {(acc<S>)((s->k + E::lowest) * LN2), (acc<S>)((E::magic + E::bias + E::headroom) - s->k), (acc<S>)s->origin,
            (acc<S>)(s->origin == 0 ? 0 : (s->origin - (double)(acc<S>)s->origin) + s->low), (acc<S>)scale, (acc<S>)(scale - (double)(acc<S>)scale), scale != 1};
}
template <class S> INLINE Frame<S> spread_frame(const RowFrame<S> &f) {
    return {splat<S>(f.low), splat<S>(f.magic), splat<S>(f.origin), splat<S>(f.origin_low), splat<S>(f.scale), splat<S>(f.scale_low), f.scaled};
}
// One tree of up to eight Lanes of exponentials, left in `kept` if that is asked for; `ahead` is what this thread
// reads next, or x itself.
template <class S, int WAY, bool KEEP> __attribute__((noinline)) double exp_tree_by_way(const S *x, ptrdiff_t n, const RowFrame<S> *frame, acc<S> *kept, const S *ahead) {
    const Frame<S> f = spread_frame<S>(*frame);
    const ptrdiff_t L = lanes<S>();
    auto term = [&](int i) TERM {
        prefetch(ahead + i * L);
        Split<S> e = split_by_way<S, WAY>(load<S>(x + i * L), f);
        if (KEEP) store_pack(kept + i * L, e.e);
        return e;
    };
    if (__builtin_expect(n >= TREE<S>(), 1)) {
        Split<S> a = term(0) + term(1);
        a = a + (term(2) + term(3));
        Split<S> b = term(4) + term(5);
        return sum_lanes<S>(a + (b + (term(6) + term(7))));
    }
    Split<S> e[8];
    for (int i = 0; i < 8; i++) e[i] = nothing<S>();
    int i = 0;
    for (; i < n / L; i++) e[i] = term(i);
    if (n % L) {
        const Mask<S> here = first<S>(n % L);
        const Split<S> last = split_by_way<S, WAY>(load_part<S>(x + i * L, n % L, 0), f);
        e[i] = {last.e, select(here, last.q, e[i].q), select(here, last.r, e[i].r)};
        if (KEEP) store_pack(kept + i * L, last.e);
    }
    return sum_lanes<S>(tree8(e));
}
template <class S, bool KEEP> INLINE double exp_tree_kept(const S *x, ptrdiff_t n, const RowFrame<S> *frame, acc<S> *kept, const S *ahead) {
    if (frame->scaled) return exp_tree_by_way<S, SCALED, KEEP>(x, n, frame, kept, ahead);
    if (frame->origin != 0) return exp_tree_by_way<S, FAR, KEEP>(x, n, frame, kept, ahead);
    return exp_tree_by_way<S, NEAR, KEEP>(x, n, frame, kept, ahead);
}
template <class S> INLINE double exp_tree(const S *x, ptrdiff_t n, const RowFrame<S> *frame, acc<S> *kept, const S *ahead) {
    if (!ahead) ahead = x;
    return kept ? exp_tree_kept<S, true>(x, n, frame, kept, ahead) : exp_tree_kept<S, false>(x, n, frame, kept, ahead);
}
// The same without the elements equal to `top`, which are counted.
template <class S, int WAY> __attribute__((noinline)) double exp_tree_below_by_way(const S *x, ptrdiff_t n, const RowFrame<S> *frame, double top, double *count, ptrdiff_t ahead) {
    const Frame<S> f = spread_frame<S>(*frame);
    const ptrdiff_t L = lanes<S>();
    const Lanes<S> zero = constant<Lanes<S>>(0), tops = lanes_of<S>(top);
    Mask<S> hits = constant<Mask<S>>(0);  // a hit is -1
    auto meet = [&](Lanes<S> v) TERM {
        Mask<S> hit = v == tops;
        hits = hits + hit;
        return select(hit, zero, split_by_way<S, WAY>(v, f).e);
    };
    auto term = [&](int i) TERM { prefetch(x + ahead + i * L); return meet(load<S>(x + i * L)); };
    double total;
    if (__builtin_expect(n >= TREE<S>(), 1)) {
        Lanes<S> a = term(0) + term(1);
        a = a + (term(2) + term(3));
        Lanes<S> b = term(4) + term(5);
        total = sum_lanes<S>(a + (b + (term(6) + term(7))));
    } else {
        Lanes<S> e[8];
        for (int i = 0; i < 8; i++) e[i] = zero;
        int i = 0;
        for (; i < n / L; i++) e[i] = term(i);
        if (n % L) e[i] = select(first<S>(n % L), meet(load_part<S>(x + i * L, n % L, -INFINITY)), zero);
        total = sum_lanes<S>(tree8(e));
    }
    *count -= count_hits<S>(hits);
    return total;
}
template <class S> INLINE double exp_tree_below(const S *x, ptrdiff_t n, const RowFrame<S> *frame, double top, double *count, ptrdiff_t ahead) {
    if (frame->scaled) return exp_tree_below_by_way<S, SCALED>(x, n, frame, top, count, ahead);
    if (frame->origin != 0) return exp_tree_below_by_way<S, FAR>(x, n, frame, top, count, ahead);
    return exp_tree_below_by_way<S, NEAR>(x, n, frame, top, count, ahead);
}

// Columns: up to TREE rows, `stride` bytes apart, of a Lanes of columns.  Row j goes to residue j mod lanes, whose
// eight rows are one tree8, and the residues are added as sum_lanes adds lanes.
template <class S> INLINE Doubles<S> sum_residues(Doubles<S> *t, ptrdiff_t n) {
    for (ptrdiff_t w = lanes<S>() / 2; w; w /= 2)
        for (ptrdiff_t i = 0; i < w && i + w < n; i++) t[i] = t[i] + t[i + w];
    return t[0];
}
template <class S> INLINE void keep_parts(Lanes<S> a, Doubles<S> *t, Doubles<S> *) { *t = doubles<S>(a); }
template <class S> INLINE void keep_parts(const Split<S> &a, Doubles<S> *t, Doubles<S> *u) {
    *t = sizeof(acc<S>) == 4 ? doubles<S>(a) : doubles<S>(a.q);
    *u = doubles<S>(a.r);
}
template <class S, class T, class F> INLINE Doubles<S> tree_of_columns(ptrdiff_t n, T zero, F term) {
    const ptrdiff_t L = lanes<S>();
    Doubles<S> t[lanes<S>()], u[lanes<S>()];
    for (ptrdiff_t i = 0; i < L && i < n; i++) {
        if (n == TREE<S>()) {
            T a = term(i) + term(i + L);
            a = a + (term(i + 2 * L) + term(i + 3 * L));
            T b = term(i + 4 * L) + term(i + 5 * L);
            keep_parts<S>(a + (b + (term(i + 6 * L) + term(i + 7 * L))), t + i, u + i);
            continue;
        }
        if (n <= L) { keep_parts<S>(term(i), t + i, u + i); continue; }
        T e[8];
        for (int b = 0; b < 8; b++) e[b] = i + b * L < n ? term(i + b * L) : zero;
        keep_parts<S>(tree8(e), t + i, u + i);
    }
    if (sizeof(T) == sizeof(Lanes<S>) || sizeof(acc<S>) == 4) return sum_residues<S>(t, n);
    return sum_residues<S>(t, n) + sum_residues<S>(u, n);
}
template <class S> INLINE const S *row_at(const S *x, ptrdiff_t stride, ptrdiff_t j) { return (const S *)((const char *)x + stride * j); }
template <class S> __attribute__((noinline)) void exp_tree_columns(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const Frame<S> *frame, Doubles<S> *sum) {
    const Frame<S> f = *frame;
    *sum = tree_of_columns<S>(n, nothing<S>(), [&](ptrdiff_t j) TERM { return split_of<S>(load_some<S>(row_at(x, stride, j), width, 0), f); });
}
// The same with the exponentials left in `kept`, rows of which are kept_stride bytes apart.
template <class S> __attribute__((noinline)) void exp_tree_columns_kept(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const Frame<S> *frame, acc<S> *kept, Doubles<S> *sum) {
    const Frame<S> f = *frame;
    *sum = tree_of_columns<S>(n, nothing<S>(), [&](ptrdiff_t j) TERM {
        Split<S> e = split_of<S>(load_some<S>(row_at(x, stride, j), width, 0), f);
        store_pack(kept + j * lanes<S>(), e.e);
        return e;
    });
}
template <class S> __attribute__((noinline)) void exp_tree_columns_below(const S *x, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t width, const Frame<S> *frame, const Lanes<S> *top, Doubles<S> *sum, Lanes<S> *hits) {
    const Frame<S> f = *frame;
    const Lanes<S> zero = constant<Lanes<S>>(0), one = constant<Lanes<S>>(1), tops = *top;
    Lanes<S> count = *hits;
    *sum = tree_of_columns<S>(n, constant<Lanes<S>>(0), [&](ptrdiff_t j) TERM {
        Lanes<S> v = load_some<S>(row_at(x, stride, j), width, 0);
        Mask<S> hit = v == tops;
        count = count + select(hit, one, zero);
        return select(hit, zero, exp_of<S>(v, f));
    });
    *hits = count;
}

// The sum of a tree of a, of a times b, or of columns of them; `ahead` elements on lies what is read next.
template <class S, class F> INLINE double tree_of_row(ptrdiff_t n, F term) {  // term(j, count)
    const ptrdiff_t L = lanes<S>();
    if (n >= TREE<S>()) {
        Lanes<S> a = term(0, L) + term(L, L);
        a = a + (term(2 * L, L) + term(3 * L, L));
        Lanes<S> b = term(4 * L, L) + term(5 * L, L);
        return sum_lanes<S>(a + (b + (term(6 * L, L) + term(7 * L, L))));
    }
    Lanes<S> e[8];
    for (int i = 0; i < 8; i++) e[i] = i * L < n ? term(i * L, n - i * L) : constant<Lanes<S>>(0);
    return sum_lanes<S>(tree8(e));
}
template <class S> __attribute__((noinline)) double sum_tree(const S *a, ptrdiff_t n, ptrdiff_t ahead) {
    return tree_of_row<S>(n, [=](ptrdiff_t j, ptrdiff_t m) TERM { prefetch(a + ahead + j); return load_some<S>(a + j, m, 0); });
}
template <class S> __attribute__((noinline)) double dot_tree(const S *a, const S *b, ptrdiff_t n, ptrdiff_t ahead) {
    return tree_of_row<S>(n, [=](ptrdiff_t j, ptrdiff_t m) TERM { prefetch(a + ahead + j); prefetch(b + ahead + j); return load_some<S>(a + j, m, 0) * load_some<S>(b + j, m, 0); });
}
template <class S> __attribute__((noinline)) void sum_tree_columns(const S *a, ptrdiff_t as, ptrdiff_t n, ptrdiff_t width, Doubles<S> *sum) {
    *sum = tree_of_columns<S>(n, constant<Lanes<S>>(0), [=](ptrdiff_t j) TERM { return load_some<S>(row_at(a, as, j), width, 0); });
}
template <class S> __attribute__((noinline)) void dot_tree_columns(const S *a, ptrdiff_t as, const S *b, ptrdiff_t bs, ptrdiff_t n, ptrdiff_t width, Doubles<S> *sum) {
    *sum = tree_of_columns<S>(n, constant<Lanes<S>>(0), [=](ptrdiff_t j) TERM { return load_some<S>(row_at(a, as, j), width, 0) * load_some<S>(row_at(b, bs, j), width, 0); });
}

// ---------------------------------------------------------------- merge and finish

// The way of a plain double through code for lanes.
typedef Pack<double, 1> One;
template <int N> INLINE Pack<double, N> exp_double(Pack<double, N> x) { return exp(x, constant<Pack<double, N>>(0)); }
INLINE double exp_double(double x) { return exp_double(constant<One>(x)).v[0]; }
template <int N> INLINE Pack<double, N> exp_magic(Pack<double, N> t, Pack<double, N> magic) { return exp_scaled(t, magic); }
INLINE double exp_magic(double t, double magic) { return exp_scaled(constant<One>(t), constant<One>(magic)).v[0]; }

// exp of the state's maximum in its own frame: about 2^headroom.
template <class S, class D> INLINE D weight_of_max(const State<D> &s) {
    return exp_magic((s.m - s.origin), constant<D>(Exp<double>::magic + Exp<double>::bias + Exp<acc<S>>::headroom) - s.k);
}
// What takes a sum into a frame with a larger maximum: a power of two where both have one origin.  It may be below
// the smallest double although the sum it scales, with its headroom, is not: hence two factors.
template <class S, class D> INLINE void rescale(State<D> *s, const State<D> &to) {
    D zero = constant<D>(0), steps = s->k - to.k, unit = constant<D>(Exp<double>::magic + Exp<double>::bias);
    auto same = s->origin == to.origin;
    D power = select(same, steps, zero), lost = select(same, zero, ((s->origin - to.origin) + (s->low - to.low)) + steps * constant<D>(LN2));
    power = select(power < constant<D>(-2000), constant<D>(-2000), power);
    D some = select(power < constant<D>(-1000), constant<D>(-1000), power);
    D first = exp_magic(zero, unit + some), second = exp_magic(zero, unit + (power - some)) * exp_double(lost);
    auto lower = s->m < to.m;
    D joining = select(lower, s->c * weight_of_max<S>(*s), zero);
    auto empty = s->m == constant<D>(-INFINITY);
    s->l.high = select(empty, zero, (s->l.high + joining) * first * second);
    s->l.low = select(empty, zero, s->l.low * first * second);
    s->c = select(lower, zero, s->c);
}
// a then b, in the order of the reduction.  A NaN stays.
template <class S, class D> INLINE void merge(State<D> *a, State<D> b) {
    auto other = ((b.m > a->m) | (b.m != b.m)) & (a->m == a->m);
    State<D> to = *a;
    to.m = select(other, b.m, a->m);
    to.low = select(other, b.low, a->low);
    to.origin = select(other, b.origin, a->origin);
    to.k = select(other, b.k, a->k);
    rescale<S>(a, to);
    rescale<S>(&b, to);
    add<S>(&a->l, b.l.high);
    a->l.low = a->l.low + b.l.low;
    a->c = a->c + b.c;
    a->m = to.m, a->low = to.low, a->origin = to.origin, a->k = to.k;
}
// Merging into the empty state is most of the work of short rows.
template <class S> INLINE void merge_row(State<double> *a, const State<double> &b) {
    if (a->m == -INFINITY) *a = b; else if (b.m != -INFINITY) merge<S>(a, b);
}

// 1 / l as high + low, so that the product with an exponential is rounded once.
template <class S> struct Inverse { Lanes<S> high, low; };
template <class S, class D> INLINE Inverse<S> inverse_of(const Sum<D> &l) {
    D one = constant<D>(1), r = one / (l.high + l.low), error;
    D product = two_product(r, l.high, &error);
    D rest = r * (((one - product) - error) - r * l.low), high = rounded<S>(r);
    return {lanes_of<S>(high), lanes_of<S>((r - high) + rest)};
}
template <class S> INLINE Inverse<S> uniform(const Inverse<S> &r) {  // a row's is one number, as its frame is
    acc<S> high, low;
    std::memcpy(&high, &r.high, sizeof high);
    std::memcpy(&low, &r.low, sizeof low);
    return {splat<S>(high), splat<S>(low)};
}
template <class S> INLINE Lanes<S> times(Lanes<S> e, const Inverse<S> &r) {
#if SOFTCORE_FMA
    return mad(e, r.high, e * r.low);
#else
    Lanes<S> error, product = two_product(e, r.high, &error);
    return product + (error + e * r.low);
#endif
}

// log(c + u) for c >= 1 and u >= 0, or c = 0 and u > 0 not subnormal; right for the smallest u when c is 1.
template <int N> INLINE Pack<double, N> log_of(Pack<double, N> c, Pack<double, N> u) {
    typedef Pack<double, N> P;
    typedef Pack<int64_t, N> I;
    P v = c + u, zero = constant<P>(0);
    I above = as<int64_t>(v) - as<int64_t>(constant<P>(0.70710678118654752440));
    I e = shift_right(above, 52);
    P n = as<double>(e + as<int64_t>(constant<P>(6755399441055744.0))) - constant<P>(6755399441055744.0);
    P f = as<double>(as<int64_t>(v) - shift_left(e, 52));
    P w = select(n == zero, (c - constant<P>(1)) + u, f - constant<P>(1));
    P s = w / (constant<P>(2) + w), z = s * s, d = s + s;
    P tail = mad(d * z, atanh_tail_short(z), n * constant<P>(1.9082149292705877e-10));
    return mad(n, constant<P>(0.69314718036912381649), d + tail);
}
INLINE double log_of(double c, double u) { return log_of(constant<One>(c), constant<One>(u)).v[0]; }

// log of (sum / exp(m)).  Both fields of l are below 2^headroom times the length.
template <class S, class D> INLINE D log_of_sum(const State<D> &s) { return log_of(s.c, (s.l.high + s.l.low) / weight_of_max<S>(s)); }

// ---------------------------------------------------------------- what the kernels call

template <class S> INLINE State<double> state_of_row_max(const S *, double top, double scale) {
    double low, m = product_of_max<S>(top, scale, &low);
    return state_of_max<S, double>(m, low);
}
template <class S> INLINE State<Doubles<S>> state_of_column_max(const S *, Lanes<S> top, double scale) {
    acc<S> x[lanes<S>()];
    double m[lanes<S>()], low[lanes<S>()];
    Doubles<S> zero = constant<Doubles<S>>(0);
    if (scale == 1) return state_of_max<S>(doubles<S>(top), zero);
    store_pack(x, top);
    for (ptrdiff_t i = 0; i < lanes<S>(); i++) m[i] = product_of_max<S>((double)x[i], scale, low + i);
    Doubles<S> ms, lows;
    load_pack(m, &ms);
    load_pack(low, &lows);
    return state_of_max<S>(ms, lows);
}
template <class S> INLINE Frame<S> frame_of_columns(const S *, const State<Doubles<S>> *s, double scale) { return frame_of<S>(*s, scale); }

template <class S> INLINE void add_row(const S *, Sum<double> *s, double x) { add<S>(s, x); }
template <class S> INLINE void add_columns(const S *, Sum<Doubles<S>> *s, const Doubles<S> *x) { add<S>(s, *x); }
template <class S> INLINE void merge_sums(const S *, Sum<double> *a, const Sum<double> *b) { add<S>(a, b->high); a->low += b->low; }
template <class S> INLINE void merge_sum_columns(const S *, Sum<Doubles<S>> *a, const Sum<Doubles<S>> *b) {
    add<S>(a, b->high);
    a->low = a->low + b->low;
}
template <class S> INLINE void merge_rows(const S *, State<double> *a, const State<double> *b) { merge_row<S>(a, *b); }
template <class S> INLINE void merge_columns(const S *, State<Doubles<S>> *a, const State<Doubles<S>> *b) { merge<S>(a, *b); }
// How many exponentials of a state's frame are in one of `to`: 1 or less, and 0 if they must be computed again.
template <class S> INLINE double carried(const S *, const State<double> *from, const State<double> *to) {
    double steps = from->k - to->k;
    if (from->origin != to->origin || steps < 2 - Exp<acc<S>>::bias) return 0;
    return steps == 0 ? 1 : std::ldexp(1.0, (int)steps);
}
template <class S> INLINE Inverse<S> inverse_of_row(const S *, const State<double> *s) { return inverse_of<S>(s->l); }
template <class S> INLINE Inverse<S> inverse_of_columns(const S *, const State<Doubles<S>> *s) {
    Inverse<S> r = inverse_of<S>(s->l);
    Doubles<S> zero = s->m - s->m;  // NaN where m is not finite, and then the whole column is
    r.high = r.high + lanes_of<S>(zero);
    return r;
}
// log_softmax is (scale x - m) - log(sum of exp(scale x - m)); m and the logarithm in two parts.
template <class S> struct LogFrame { Lanes<S> m, m_low, log, scale, scale_low; bool scaled; };
template <class S, class D> INLINE LogFrame<S> log_frame(const S *, const State<D> *s, double scale) {
    LogFrame<S> f;
    D high = rounded<S>(s->m);
    f.m = lanes_of<S>(high);
    f.m_low = lanes_of<S>((s->m - high) + s->low);
    f.log = lanes_of<S>(log_of_sum<S>(*s) + (s->m - s->m));
    f.scale = lanes_of<S>(scale);
    f.scale_low = lanes_of<S>(scale - (double)(acc<S>)scale);
    f.scaled = scale != 1;
    return f;
}
template <class S> INLINE LogFrame<S> log_frame_of_row(const S *tag, const State<double> *s, double scale) { return log_frame(tag, s, scale); }
template <class S> INLINE LogFrame<S> log_frame_of_columns(const S *tag, const State<Doubles<S>> *s, double scale) { return log_frame(tag, s, scale); }
template <class S> INLINE Lanes<S> log_softmax_of(Lanes<S> x, const LogFrame<S> *f) {
    if (!f->scaled) return ((x - f->m) - f->m_low) - f->log;
    Lanes<S> error, t = two_product(x, f->scale, &error) - f->m;
    error = mad(x, f->scale_low, error) - f->m_low;
    error = select((t - t) == constant<Lanes<S>>(0), error, constant<Lanes<S>>(0));  // -inf times anything stays -inf
    return (t + error) - f->log;
}
template <class S> INLINE double logsumexp_of_row(const S *, const State<double> *s) {
    return std::isfinite(s->m) ? s->m + log_of_sum<S>(*s) : s->m;
}
template <class S> INLINE Lanes<S> logsumexp_of_columns(const S *, const State<Doubles<S>> *s) {
    Doubles<S> zero = constant<Doubles<S>>(0);
    auto finite = (s->m - s->m) == zero;
    return lanes_of<S>(select(finite, s->m + log_of_sum<S>(*s), s->m));
}
template <class S> INLINE Lanes<S> lanes_of_sum(const S *, const Sum<double> *s) { return lanes_of<S>(s->high + s->low); }
template <class S> INLINE Lanes<S> lanes_of_sum_columns(const S *, const Sum<Doubles<S>> *s) { return lanes_of<S>(s->high + s->low); }
template <class S> INLINE Lanes<S> with_nan(Lanes<S> x, Mask<S> nan) { return select(nan, constant<Lanes<S>>(NAN), x); }
// The state of a tile of columns whose maxima are m, before its exponentials are added.
template <class S> INLINE void add_tile_columns(const S *, State<Doubles<S>> *s, const Doubles<S> *x) { add<S>(&s->l, *x); }
template <class S> INLINE void close_columns(const S *, State<Doubles<S>> *s, Lanes<S> hits) {
    Doubles<S> zero = constant<Doubles<S>>(0);
    auto empty = s->m == constant<Doubles<S>>(-INFINITY);
    s->c = select(empty, zero, doubles<S>(hits));
    s->l.high = select(empty, zero, s->l.high);
    s->l.low = select(empty, zero, s->l.low);
}
template <class S> INLINE Sum<Doubles<S>> empty_sum_columns(const S *) { return {constant<Doubles<S>>(0), constant<Doubles<S>>(0)}; }
INLINE State<double> empty_row() { return empty_state<double>(); }
template <class S> INLINE ptrdiff_t tree_size(const S *) { return TREE<S>(); }
template <class S> INLINE ptrdiff_t tile_size(const S *) { return TILE<S>(); }
template <class S> INLINE ptrdiff_t chunk_size(const S *) { return CHUNK<S>(); }
template <class S> INLINE ptrdiff_t kept_size(const S *) { return Kept<S>::room; }
template <class S> INLINE Lanes<S> kept_times(const acc<S> *kept, const Inverse<S> *r) { return times<S>(load<acc<S>>(kept), *r); }
template <class S> INLINE Lanes<S> softmax_of(Lanes<S> x, const Frame<S> *f, const Inverse<S> *r) { return times<S>(exp_of<S>(x, *f), *r); }

}  // namespace
}  // namespace softcore
