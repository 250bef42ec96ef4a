// gates.h: gates, gated linear units and their gradients, element by element; sweeps that write several results; and sums of
// gradients over what was broadcast.
#pragma once
#include "elementwise.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- products that neither overflow nor vanish on the way

// What decays with exp(-u) is kept 2^headroom larger where it is far out, so that it has all its bits until the last
// multiplication, by `tail`: 2^-headroom there and 1 elsewhere.
template <class P> INLINE P magnitude(P a) {
    typedef typename element<P>::type A;
    decltype(as<bits_t<A>>(a)) all_but_sign;
    spread(std::numeric_limits<bits_t<A>>::max(), &all_but_sign);
    return as<A>(as<bits_t<A>>(a) & all_but_sign);
}
template <class P> INLINE P clamp(P a, double lowest, double highest) {  // NaN stays
    P low = constant<P>(lowest), high = constant<P>(highest);
    a = greater(low, a);
    return select(a > high, high, a);
}
// a * b * tail.  Where a is large it is brought down first, which is exact.
template <class P> INLINE P times_tail(P a, P b, P tail) {
    return select(magnitude(a) > constant<P>(1), (a * tail) * b, (a * b) * tail);
}
// 2 a b c * tail, for c of at most 1: the larger of a and b meets c, which cannot overflow; if that vanishes, so does the rest.
template <class P> INLINE P twice_product(P a, P b, P c, P tail) {
    auto first = magnitude(a) > magnitude(b);
    P m = times_tail(select(first, b, a), select(first, a, b) * c, tail);
    return m + m;
}

// c + a * b where the two nearly cancel.
template <class P> INLINE P near_cancel(P a, P b, P c) {
#if SOFTCORE_FMA
    return mad(a, b, c);
#else
    P error, p = two_product(a, b, &error);
    return (c + p) + error;
#endif
}

// ---------------------------------------------------------------- the two shares of a sigmoid

// exp(t + t_low) / tail in two parts, for t <= 0; 0 below the reach of the headroom.
template <class P> struct Decay { P high, low, tail; };
template <class S, bool LOW> INLINE Decay<Lanes<S>> decay_of(Lanes<S> t, Lanes<S> t_low) {
    typedef Exp<acc<S>> E;
    typedef Lanes<S> P;
    const P zero = constant<P>(0), lowest = constant<P>(E::lowest * LN2);
    const Mask<S> far = t < constant<P>(-E::headroom * LN2), gone = t < lowest;
    const P magic = constant<P>(E::magic + E::steps * E::bias) + select(far, constant<P>(E::steps * E::headroom), zero);
    const auto e = exp_term<false, LOW>(greater(lowest, t), t_low, magic);
    const P high = value(e);
    return {select(gone, zero, high), mad(e.a, e.b, e.power - high), select(far, constant<P>(std::ldexp(1.0, -E::headroom)), constant<P>(1))};
}
// sigmoid(|r|) and sigmoid(-|r|) / tail.
template <class P> struct SigmoidShares { P major, minor, tail; };
template <class S> INLINE SigmoidShares<Lanes<S>> shares_of(const Decay<Lanes<S>> &d) {
    typedef Lanes<S> P;
    const P one = constant<P>(1), zero = constant<P>(0), z = d.high * d.tail, sum = one + z, w = one / sum;
    const P sum_low = mad(d.low, d.tail, (one - sum) + z);
    const P major = mad(w, mad(zero - sum_low, w, near_cancel(zero - sum, w, one)), w);
    return {major, d.high * major, d.tail};
}
template <class S> INLINE SigmoidShares<Lanes<S>> shares(Lanes<S> r) {
    typedef Lanes<S> P;
    return shares_of<S>(decay_of<S, false>(constant<P>(0) - magnitude(r), constant<P>(0)));
}

// ---------------------------------------------------------------- gate

// The first number whose sigmoid rounds to 1, from log(2^25 - 1) on, and the last whose sigmoid rounds to 0, up to log(2^-150); in
// double from log(2^54 - 1) on and up to log(2^-1075).
template <class A> struct Ends;
template <> struct Ends<float> { static constexpr double one = 0x1.154246p+4, zero = -0x1.9fe36ap+6; };
template <> struct Ends<double> { static constexpr double one = 0x1.2b708872320e2p+5, zero = -0x1.74910d52d3052p+9; };
template <class S> struct Opening { SigmoidShares<Lanes<S>> s; Mask<S> low, settled; };
template <class S> INLINE Opening<S> opening_of(Lanes<S> r) {
    typedef Lanes<S> P;
    typedef Ends<acc<S>> E;
    return {shares<S>(magnitude(r)), r < constant<P>(0), (r >= constant<P>(E::one)) | (constant<P>(E::zero) >= r)};
}
// What is neither far open nor far closed takes a plain way, unless a product on it would overflow or vanish, and the rest a careful
// one.  They are told apart element by element, so that no result depends on its neighbours; and by signs: magnitudes order as their
// bits do, and the sign of a difference of those, or of several joined, costs less than a comparison.  The signs depend on what goes
// into a division, not on its result, which would hold the branch up.
template <class S> using Signs = Mask<S>;
template <class S> INLINE Signs<S> bits_of(Lanes<S> a) { return as<bits_t<acc<S>>>(magnitude(a)); }
template <class S> INLINE Signs<S> bits_of_number(acc<S> a) {
    bits_t<acc<S>> b;
    std::memcpy(&b, &a, sizeof a);
    return whole<S>(b);
}
template <class S> INLINE Signs<S> reaches(Lanes<S> a, double limit) { return bits_of_number<S>((acc<S>)limit) - whole<S>(1) - bits_of<S>(a); }
template <class S> INLINE Signs<S> is_below(Lanes<S> a, double limit) { return bits_of<S>(a) - bits_of_number<S>((acc<S>)limit); }
template <class S> INLINE Signs<S> is_nonzero(Lanes<S> a) { return whole<S>(0) - bits_of<S>(a); }
template <class S> INLINE bool any_sign(Signs<S> s) { return any(s & whole<S>(std::numeric_limits<bits_t<acc<S>>>::min())); }
template <class S> INLINE Signs<S> is_far(Lanes<S> u) { return reaches<S>(u, Ends<acc<S>>::one); }
// Of numbers from `least` on a share of a sigmoid that is not far, or the product of both, is no subnormal; `most` may be doubled.
template <class S> struct PlainRange {
    typedef std::numeric_limits<acc<S>> Limits;
    static double least() { return std::ldexp((double)Limits::min(), Limits::digits + 5); }
    static double most() { return Limits::max() / 8; }
};
template <class S> INLINE Signs<S> is_small(Lanes<S> a) { return is_below<S>(a, PlainRange<S>::least()); }
template <class S> INLINE Signs<S> is_large(Lanes<S> a) { return reaches<S>(a, PlainRange<S>::most()); }
// exp(-|r|) times `tempered` / 4, and the sum of that and of `tempered` / 4.
template <class P> struct Quarters { P z, one, sum; };
template <class A, class P> INLINE P quarter_of(P r) {
    typedef Exp<A> E;
    const P t = constant<P>(0) - magnitude(r);
    return value(exp_term<true, false>(t, t, constant<P>(E::magic + E::steps * (E::bias - 2))));
}
template <class P> INLINE Quarters<P> quarters_of(P z) {
    const P one = constant<P>(0.25 * tempered<P>());
    return {z, one, z + one};
}
// A function out of line takes Lanes from memory.  What it is given is copied there first, by registers: or else the compiler keeps the
// originals in memory as well, all through the loop that hardly ever calls it (glu_backward by silu on AVX2, in the first cache: 2.0
// instead of 1.0 ns an element).
// A result lies between the branches, and a rounding must not carry it beyond the largest number.
template <class S> __attribute__((noinline)) Lanes<S> careful_gate(const Lanes<S> *given, Signs<S> odd) {
    const Lanes<S> x = given[0], y = given[1], r = given[2], plain = given[3];
    const Opening<S> o = opening_of<S>(r);
    const Lanes<S> chosen = select(o.low, y, x), other = select(o.low, x, y);
    Lanes<S> f = mad(chosen, o.s.major, (other * o.s.minor) * o.s.tail);
    const Lanes<S> high = greater(chosen, other), low = select(chosen > other, other, chosen);
    f = select(f > high, high, select(f < low, low, f));
    return select(odd < whole<S>(0), select(o.settled, chosen, f), plain);
}
// (chosen + other exp(-u)) / (1 + exp(-u)), by quarters, which cannot overflow.
template <class S> INLINE Lanes<S> gate_of(Lanes<S> x, Lanes<S> y, Lanes<S> r, const Quarters<Lanes<S>> &q) {
    const Mask<S> low = r < constant<Lanes<S>>(0);
    const Lanes<S> u = magnitude(r);
    const Lanes<S> sum = mad(select(low, x, y), q.z, select(low, y, x) * q.one), f = sum / q.sum;
    const Signs<S> odd = is_far<S>(u) | is_large<S>(sum);
    if (__builtin_expect(any_sign<S>(odd), 0)) {
        const Lanes<S> given[] = {in_register(x), in_register(y), in_register(r), in_register(f)};
        return in_register(careful_gate<S>(given, in_register(odd)));
    }
    return f;
}
template <class S> struct GateGradients { Lanes<S> x, y, r; };
// A difference of huge numbers is halved, and the product is not doubled then.
template <class S> __attribute__((noinline)) void careful_gate_gradients(const Lanes<S> *given, Signs<S> odd, GateGradients<S> *d) {
    typedef Lanes<S> P;
    const P df = given[0], x = given[1], y = given[2], r = given[3];
    const Opening<S> o = opening_of<S>(r);
    const P one = constant<P>(1), half = constant<P>(0.5), zero = constant<P>(0), largest = constant<P>(std::numeric_limits<acc<S>>::max() / 4);
    const Mask<S> huge = (magnitude(x) > largest) | (magnitude(y) > largest), careful = odd < whole<S>(0);
    const P by = select(huge, half, one), product = o.s.major * o.s.minor;
    const P slope = twice_product(df, x * by - y * by, select(huge, product, product * half), o.s.tail);
    const P chosen = select(o.settled, df, df * o.s.major), other = select(o.settled, zero, (df * o.s.minor) * o.s.tail);
    d->x = select(careful, select(o.low, other, chosen), d->x);
    d->y = select(careful, select(o.low, chosen, other), d->y);
    d->r = select(careful, select(o.settled, zero, slope), d->r);
}
template <class S> INLINE GateGradients<S> gate_gradients(Lanes<S> df, Lanes<S> x, Lanes<S> y, Lanes<S> r, const Quarters<Lanes<S>> &q) {
    typedef Lanes<S> P;
    const Mask<S> low = r < constant<P>(0);
    const P u = magnitude(r), one = constant<P>(1);
    const P quotient = one / q.sum, rest = mad(q.sum - q.one - q.z, quotient, near_cancel(constant<P>(0) - q.sum, quotient, one));
    const P inverse = mad(quotient, rest, quotient), minor = q.z * inverse, chosen = df * (q.one * inverse), other = df * minor, share = chosen * minor;
    const P across = x - y;
    GateGradients<S> d = {select(low, other, chosen), select(low, chosen, other), share * across};
    const Signs<S> odd = is_far<S>(u) | (is_small<S>(df) & is_nonzero<S>(df)) | is_large<S>(df * across);
    if (__builtin_expect(any_sign<S>(odd), 0)) {
        const P given[] = {in_register(df), in_register(x), in_register(y), in_register(r)};
        GateGradients<S> g = {in_register(d.x), in_register(d.y), in_register(d.r)};
        careful_gate_gradients<S>(given, in_register(odd), &g);
        d = {in_register(g.x), in_register(g.y), in_register(g.r)};
    }
    return d;
}

// ---------------------------------------------------------------- activations and their slopes

enum Activation { BY_SIGMOID, BY_SILU, BY_GELU, BY_GELU_TANH, BY_RELU, BY_NOTHING };

static constexpr double FAR_OUT = 1e4;  // beyond it nothing bends

// The distribution function of the normal distribution at -u is exp(-u^2 / 2) times R(u), half the scaled complementary error
// function; and R(u) (u + c) is a polynomial in v = (u - c) / (u + c), to 2^-27 for floats and 2^-57 for doubles.
static constexpr double PER_ROOT_2PI = 0.39894228040143267794;
template <class P> struct Two { P high, low; };
template <class P, int N> INLINE Two<P> polynomial(P v, const double (&c)[N]) {
    P q = constant<P>(c[N - 1]), first = constant<P>(c[0]);
    for (int i = N - 2; i > 0; i--) q = mad(q, v, constant<P>(c[i]));
    const P p = mad(q, v, first);
    return {p, near_cancel(q, v, first - p)};
}
template <class P> INLINE Two<P> tail_polynomial(P v, float) {
    static constexpr double c[] = {
        0.733453631401062, -0.5249630212783813, 0.25266170501708984, -0.06382676959037781, -0.005330922082066536, 0.00800267979502678,
        -4.2819494410650805e-05, -0.0011472267797216773, -5.225466884439811e-05, 0.00016120023792609572, 3.751566691789776e-05};
    return polynomial(v, c);
}
template <class P> INLINE Two<P> tail_polynomial(P v, double) {
    static constexpr double c[] = {
        0.7334536297658464, -0.5249629920509298, 0.2526617700670369, -0.0638274204611504, -0.005330864627985874, 0.008007587896629411,
        -4.606988246335483e-05, -0.0011657495661675042, -4.348938329914707e-05, 0.00019828610030095937, 3.801199831041082e-05,
        -3.165309268371329e-05, -1.5464388517394268e-05, 2.5992198409914326e-06, 4.331790201465749e-06, 8.848427446479572e-07,
        -7.46177222667624e-07, -5.229176857088673e-07, -1.4136015809754943e-10, 1.384214831070801e-07, 3.848404484439806e-08,
        -1.9927121708432204e-08, -6.9746175675446796e-09, 2.3553185055055496e-09, -3.3172520909860533e-10, -6.223301747168558e-10};
    return polynomial(v, c);
}
static constexpr double CENTRE = 3.125;  // the polynomial is flat where v is least exact, and its first coefficients are nearly floats
// R(u) in two parts: the roundings after that of the polynomial are carried along.
template <class S> INLINE Two<Lanes<S>> scaled_tail(Lanes<S> u) {
    typedef Lanes<S> P;
    const P one = constant<P>(1), zero = constant<P>(0);
    P sum_low, low, sum = two_sum(u, constant<P>(CENTRE), &sum_low), w = one / sum;
    const P rest = mad(zero - sum_low, w, near_cancel(zero - sum, w, one)), twice = constant<P>(-2 * CENTRE);
    const Two<P> p = tail_polynomial<P>(mad(w * rest, twice, mad(w, twice, one)), acc<S>());
    const P high = two_product(p.high, w, &low);
    return {high, mad(high, rest, mad(p.low, w, low))};
}
// exp(-u^2 / 2) / tail, in two parts.
template <class S> INLINE Decay<Lanes<S>> bell(Lanes<S> u) {
    typedef Lanes<S> P;
    const P half = constant<P>(-0.5);
    P error, square = two_product(u, u, &error);
    return decay_of<S, true>(square * half, error * half);
}
// What the approximation of gelu by tanh takes the sigmoid of, u = 2 sqrt(2 / pi) (b + 0.044715 b^3), as b times this, in two
// parts: far out the exponential of a rounding error would show.
static constexpr double BEND = 0x1.9884533d43651p+0, BEND_LOW = -0x1.cbc0d30ebfd15p-54, CUBIC = 0x1.2444f2a4d8b4bp-4, CUBIC_LOW = -0x1.3023b0e5fbc6ep-58;
template <class S> INLINE Two<Lanes<S>> argument_of_tanh(Lanes<S> u) {
    typedef Lanes<S> P;
    typedef acc<S> A;
    const P one = constant<P>(BEND), three = constant<P>(CUBIC);
    P square_low, cube_low, sum_low, low, square = two_product(u, u, &square_low), cube = two_product(square, three, &cube_low);
    cube_low = mad(square_low, three, mad(square, constant<P>((CUBIC - (double)(A)CUBIC) + CUBIC_LOW), cube_low));
    const P sum = two_sum(cube, one, &sum_low), high = two_product(u, sum, &low);
    return {high, mad(u, (sum_low + cube_low) + constant<P>((BEND - (double)(A)BEND) + BEND_LOW), low)};
}
template <class S> INLINE SigmoidShares<Lanes<S>> shares_by_tanh(Lanes<S> u) {
    typedef Lanes<S> P;
    const Two<P> t = argument_of_tanh<S>(u);
    return shares_of<S>(decay_of<S, true>(constant<P>(0) - t.high, constant<P>(0) - t.low));
}

// value * tail.
template <class P> struct Tailed { P value, tail; };
// A decaying share for b < 0, a growing one elsewhere.
template <class S> INLINE Tailed<Lanes<S>> at_side(Lanes<S> b, Lanes<S> low, Lanes<S> high, Lanes<S> tail) {
    const Mask<S> below = b < constant<Lanes<S>>(0);
    return {select(below, low, high), select(below, tail, constant<Lanes<S>>(1))};
}
template <class S> INLINE Lanes<S> magnitude_within(Lanes<S> b) {
    typedef Lanes<S> P;
    const P u = magnitude(b), far = constant<P>(FAR_OUT);
    return select(u > far, far, u);
}
// The activation of b, at -inf its limit.
template <class S, int BY> INLINE Tailed<Lanes<S>> activation_of(Lanes<S> b) {
    typedef Lanes<S> P;
    const P one = constant<P>(1);
    if (BY == BY_NOTHING) return {b, one};
    if (BY == BY_RELU) return {greater(constant<P>(0), b) + constant<P>(0), one};  // -0 becomes 0
    const P u = magnitude_within<S>(b);
    Tailed<P> a;
    if (BY == BY_GELU) {  // u Phi(-u), or what is left of u without it
        const Decay<P> e = bell<S>(u);
        const Two<P> r = scaled_tail<S>(u);
        P low, high = two_product(r.high, e.high, &low);
        const P g = mad(u, high, u * mad(r.high, e.low, mad(r.low, e.high, low)));
        return at_side<S>(b, constant<P>(0) - g, b - g * e.tail, e.tail);
    } else {
        const SigmoidShares<P> s = BY == BY_GELU_TANH ? shares_by_tanh<S>(u) : shares<S>(u);
        a = at_side<S>(b, s.minor, s.major, s.tail);
    }
    return BY == BY_SIGMOID ? a : Tailed<P>{greater(constant<P>(-FAR_OUT), b) * a.value, a.tail};
}
// Half the derivative of the activation, at infinities its limit.
template <class S, int BY> INLINE Tailed<Lanes<S>> half_slope_of(Lanes<S> b) {
    typedef Lanes<S> P;
    const P zero = constant<P>(0), half = constant<P>(0.5), one = constant<P>(1);
    if (BY == BY_NOTHING) return {half, one};
    if (BY == BY_RELU) return {select(b > zero, half, select(b != b, b, zero)), one};
    const P u = magnitude_within<S>(b);
    if (BY == BY_GELU) {  // Phi + b phi, which at b and -b make 1
        const Decay<P> e = bell<S>(u);
        const Two<P> r = scaled_tail<S>(u);
        const P h = (e.high * half) * (mad(u, constant<P>(-PER_ROOT_2PI), r.high) + r.low);
        return at_side<S>(b, h, half - h * e.tail, e.tail);
    }
    if (BY == BY_SIGMOID) {
        const SigmoidShares<P> s = shares<S>(u);
        return {s.major * s.minor * half, s.tail};
    }
    // s + b s (1 - s) u', where u is what the sigmoid s is taken of
    const SigmoidShares<P> s = BY == BY_GELU_TANH ? shares_by_tanh<S>(u) : shares<S>(u);
    const P v = BY == BY_GELU_TANH ? u * mad(u * u, constant<P>(3 * CUBIC), constant<P>(BEND)) : u;
    return at_side<S>(b, (s.minor * half) * (one - v * s.major), (s.major * half) * mad(v, s.minor * s.tail, one), s.tail);
}
template <class S, int BY> INLINE Lanes<S> careful_glu(Lanes<S> a, Lanes<S> b) {
    const Tailed<Lanes<S>> f = activation_of<S, BY>(b);
    return BY == BY_RELU || BY == BY_NOTHING ? a * f.value : times_tail(a, f.value, f.tail);
}
template <class S, int BY> INLINE Lanes<S> careful_slope(Lanes<S> dy, Lanes<S> a, Lanes<S> b) {
    const Tailed<Lanes<S>> f = half_slope_of<S, BY>(b);
    return twice_product(dy, a, f.value, f.tail);
}
// A sigmoid that is neither far open nor far closed takes a plain way: see `is_far`.
INLINE constexpr bool by_quarters(int by) { return by == BY_SIGMOID || by == BY_SILU; }
template <class S, int BY> __attribute__((noinline)) Lanes<S> odd_glu(const Lanes<S> *given, Signs<S> odd) {
    const Lanes<S> a = given[0], b = given[1], plain = given[2];
    return select(odd < whole<S>(0), careful_glu<S, BY>(a, b), plain);
}
template <class S, int BY> INLINE Lanes<S> glu_of(Lanes<S> a, Lanes<S> b, const Quarters<Lanes<S>> &q) {
    if (!by_quarters(BY)) return careful_glu<S, BY>(a, b);
    const Lanes<S> u = magnitude(b), zero = constant<Lanes<S>>(0);
    const Lanes<S> product = BY == BY_SILU ? a * b : a, f = product * select(b < zero, q.z, q.one) / q.sum;
    const Signs<S> lost = is_small<S>(product) & is_nonzero<S>(a);
    const Signs<S> odd = is_far<S>(u) | (BY == BY_SILU ? (lost & is_nonzero<S>(b)) | is_large<S>(product) : lost);
    if (__builtin_expect(any_sign<S>(odd), 0)) {
        const Lanes<S> given[] = {in_register(a), in_register(b), in_register(f)};
        return in_register(odd_glu<S, BY>(given, in_register(odd)));
    }
    return f;
}
template <class S> struct GluGradients { Lanes<S> a, b; };
template <class S, int BY> __attribute__((noinline)) void odd_glu_gradients(const Lanes<S> *given, Signs<S> odd, GluGradients<S> *d) {
    const Lanes<S> dy = given[0], a = given[1], b = given[2];
    d->a = select(odd < whole<S>(0), careful_glu<S, BY>(dy, b), d->a);
    d->b = select(odd < whole<S>(0), careful_slope<S, BY>(dy, a, b), d->b);
}
template <class S, int BY> INLINE GluGradients<S> glu_gradients(Lanes<S> dy, Lanes<S> a, Lanes<S> b, const Quarters<Lanes<S>> &q) {
    if (!by_quarters(BY) || sizeof(acc<S>) == 8)  // of doubles the plain slope would be off by 4.6 units
        return {careful_glu<S, BY>(dy, b), careful_slope<S, BY>(dy, a, b)};
    const Lanes<S> u = magnitude(b), zero = constant<Lanes<S>>(0);
    const Mask<S> low = b < zero;
    const Lanes<S> share = select(low, q.z, q.one), other = select(low, q.one, q.z);
    // of b s(b): s + b s (1 - s)
    const Lanes<S> slope = share * (BY == BY_SILU ? mad(b, other, q.sum) : other) / (q.sum * q.sum);
    const Lanes<S> to_a = BY == BY_SILU ? dy * b : dy, to_b = dy * a;
    GluGradients<S> d = {to_a * share / q.sum, to_b * slope};
    const Signs<S> lost = is_small<S>(to_b) & is_nonzero<S>(a), lost_too = BY == BY_SILU ? is_small<S>(to_a) & is_nonzero<S>(b) : is_small<S>(to_a);
    const Signs<S> odd = is_far<S>(u) | ((lost | lost_too) & is_nonzero<S>(dy)) | is_large<S>(to_a) | is_large<S>(to_b);
    if (__builtin_expect(any_sign<S>(odd), 0)) {
        const Lanes<S> given[] = {in_register(dy), in_register(a), in_register(b)};
        GluGradients<S> g = {in_register(d.a), in_register(d.b)};
        odd_glu_gradients<S, BY>(given, in_register(odd), &g);
        d = {in_register(g.a), in_register(g.b)};
    }
    return d;
}

// ---------------------------------------------------------------- sweeps: several results, element by element

enum Sweep { MAXIMUM_BACKWARD = 1, GATE, GATE_BACKWARD, GLU, GLU_BACKWARD };
static constexpr int RESULTS = 3;  // of a sweep, at most

// y[i][j] = what f(j) puts as the i-th, for those y that are there.  An operand may be written over: all of
// an element's operands are read before.
template <class S, int N, class F, class Q> INLINE void over_tiles(S *const *results, ptrdiff_t n, bool streaming, ptrdiff_t most, Q prepare, F f) {
    const ptrdiff_t L = lanes<S>();
    S *y[N];  // which no store changes
    bool past[N];
    for (int i = 0; i < N; i++) y[i] = results[i];
    ptrdiff_t head = 0, j = 0;
    for (int i = 0; i < N && streaming && !head; i++) if (y[i] && to_alignment(y[i]) > 0) head = to_alignment(y[i]);
    head = head < n ? head : 0;
    for (int i = 0; i < N; i++) past[i] = streaming && y[i] && to_alignment(y[i]) == head;
    auto part = [&](ptrdiff_t m) TERM {
        f(j, m, [&](int i, Lanes<S> v) TERM { if (y[i]) store_part<S>(y[i] + j, v, m); });
        j += m;
    };
    if (head) {
        prepare(0, head);
        part(head);
    }
    while (j < n) {
        const ptrdiff_t end = std::min(n, j + most);
        prepare(j, end - j);
        for (; j + L <= end; j += L) f(j, L, [&](int i, Lanes<S> v) TERM { if (y[i]) put<S>(y[i] + j, v, past[i]); });
        if (j < end) part(end - j);
    }
}
template <class S, int N, class F> INLINE void over_tiles(S *const *y, ptrdiff_t n, bool streaming, F f) { over_tiles<S, N>(y, n, streaming, n, [](ptrdiff_t, ptrdiff_t) {}, f); }
#define LOAD(i) load_some<S>(x[i] + j, m, 0)
#define PREPARE QuarterTile<S>::LENGTH, [&](ptrdiff_t from, ptrdiff_t n) TERM { quarters.prepare(from, n); }
// The halves of rows are streams that begin anew with each row: they are not seen coming, and are asked for.
#define LOAD_HALF(i) (prefetch_near(x[i] + j + 1024), LOAD(i))
// quarter_of some elements.  Sixteen registers do not hold the constants of an exponential and of what follows it, so on AVX2 a loop of its
// own finds them first: two short chains of operations, of which a processor looks ahead over more elements than of one long chain.
template <class S> struct QuarterTile {
    static constexpr bool apart = SOFTCORE_VECTOR == 32;
    static constexpr ptrdiff_t LENGTH = apart ? 8 * lanes<S>() : TILE<S>();  // so that not for long but one operand is read
    const S *r;  // or null where they are not needed
    ptrdiff_t from = 0;
    alignas(64) acc<S> quarter[apart ? LENGTH : 1];
    INLINE explicit QuarterTile(const S *r) : r(r) {}
    INLINE void prepare(ptrdiff_t first, ptrdiff_t n) {  // up to LENGTH
        from = first;
        for (ptrdiff_t j = 0; apart && r && j < n; j += lanes<S>()) {
            Lanes<S> some = load_some<S>(r + from + j, n - j, 0);
            by_vector([=](ptrdiff_t k, Pack<acc<S>, 1> *x) TERM { store_pack(quarter + j + k * in_vector<acc<S>>(), quarter_of<acc<S>>(*x)); }, 0, &some);
        }
    }
    INLINE Quarters<Lanes<S>> operator()(Lanes<S> r, ptrdiff_t j, ptrdiff_t m) const {
        return apart ? quarters_of(load_some<acc<S>>(quarter + (j - from), m, 0)) : quarters_of(quarter_of<acc<S>>(r));
    }
};
template <class S> __attribute__((noinline)) void gate_tile(S *const *y, const S *const *x, ptrdiff_t n, bool streaming) {
    QuarterTile<S> quarters(x[2]);
    over_tiles<S, 1>(y, n, streaming, PREPARE, [&](ptrdiff_t j, ptrdiff_t m, auto put) TERM {
        const Lanes<S> r = LOAD(2);
        put(0, gate_of<S>(LOAD(0), LOAD(1), r, quarters(r, j, m)));
    });
}
template <class S> __attribute__((noinline)) void gate_backward_tile(S *const *y, const S *const *x, ptrdiff_t n, bool streaming) {
    QuarterTile<S> quarters(x[3]);
    over_tiles<S, 3>(y, n, streaming, PREPARE, [&](ptrdiff_t j, ptrdiff_t m, auto put) TERM {
        const Lanes<S> r = LOAD(3);
        const GateGradients<S> d = gate_gradients<S>(LOAD(0), LOAD(1), LOAD(2), r, quarters(r, j, m));
        put(0, d.x);
        put(1, d.y);
        put(2, d.r);
    });
}
template <class S, int BY> __attribute__((noinline)) void glu_tile(S *const *y, const S *const *x, ptrdiff_t n, bool streaming) {
    QuarterTile<S> quarters(by_quarters(BY) ? x[1] : nullptr);
    over_tiles<S, 1>(y, n, streaming, PREPARE, [&](ptrdiff_t j, ptrdiff_t m, auto put) TERM {
        const Lanes<S> a = in_register(LOAD_HALF(0)), b = in_register(LOAD_HALF(1));
        put(0, glu_of<S, BY>(a, b, quarters(b, j, m)));
    });
}
template <class S, int BY> __attribute__((noinline)) void glu_backward_tile(S *const *y, const S *const *x, ptrdiff_t n, bool streaming) {
    QuarterTile<S> quarters(by_quarters(BY) && sizeof(acc<S>) == 4 ? x[2] : nullptr);
    over_tiles<S, 2>(y, n, streaming, PREPARE, [&](ptrdiff_t j, ptrdiff_t m, auto put) TERM {
        const Lanes<S> dy = LOAD_HALF(0), a = LOAD_HALF(1), b = LOAD_HALF(2);
        const GluGradients<S> d = glu_gradients<S, BY>(dy, a, b, quarters(b, j, m));
        put(0, d.a);
        put(1, d.b);
    });
}
template <class S> void sweep_tile(int op, int by, S *const *y, const S *const *x, ptrdiff_t n, bool streaming) {
    switch (op) {
    case MAXIMUM_BACKWARD: return over_tiles<S, 2>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m, auto put) TERM {
        const Lanes<S> dy = LOAD(0), a = LOAD(1), b = LOAD(2);
        const Lanes<S> da = maximum_gradient<S>(dy, a, b), db = maximum_gradient<S>(dy, b, a);
        put(0, da);
        put(1, db);
    });
    case GATE: return gate_tile<S>(y, x, n, streaming);
    case GATE_BACKWARD: return gate_backward_tile<S>(y, x, n, streaming);
    case GLU: switch (by) {
        case BY_SIGMOID: return glu_tile<S, BY_SIGMOID>(y, x, n, streaming);
        case BY_SILU: return glu_tile<S, BY_SILU>(y, x, n, streaming);
        case BY_GELU: return glu_tile<S, BY_GELU>(y, x, n, streaming);
        case BY_GELU_TANH: return glu_tile<S, BY_GELU_TANH>(y, x, n, streaming);
        case BY_RELU: return glu_tile<S, BY_RELU>(y, x, n, streaming);
        case BY_NOTHING: return glu_tile<S, BY_NOTHING>(y, x, n, streaming);
        }
        return;
    case GLU_BACKWARD: switch (by) {
        case BY_SIGMOID: return glu_backward_tile<S, BY_SIGMOID>(y, x, n, streaming);
        case BY_SILU: return glu_backward_tile<S, BY_SILU>(y, x, n, streaming);
        case BY_GELU: return glu_backward_tile<S, BY_GELU>(y, x, n, streaming);
        case BY_GELU_TANH: return glu_backward_tile<S, BY_GELU_TANH>(y, x, n, streaming);
        case BY_RELU: return glu_backward_tile<S, BY_RELU>(y, x, n, streaming);
        case BY_NOTHING: return glu_backward_tile<S, BY_NOTHING>(y, x, n, streaming);
        }
    }
}
#undef LOAD_HALF
#undef PREPARE
#undef LOAD

// ---------------------------------------------------------------- sums of gradients over what was broadcast

// Elements are added as doubles, element j of a tile in lane j mod lanes; tiles are added in order, and so are chunks.
enum Gradients { OF_MAXIMUM = 1, OF_GATE = 3 };  // and the number of the operand

// The gradient of one operand from load(i), the Lanes of operand i, the incoming gradient first.
template <class S, int WHICH, class L> INLINE Lanes<S> gradient_of_operand(L load) {
    if (WHICH == OF_MAXIMUM) return maximum_gradient<S>(load(0), load(1), load(2));
    if (WHICH == OF_MAXIMUM + 1) return maximum_gradient<S>(load(0), load(2), load(1));
    const Lanes<S> r = load(3);
    const GateGradients<S> d = gate_gradients<S>(load(0), load(1), load(2), r, quarters_of(quarter_of<acc<S>>(r)));
    return WHICH == OF_GATE ? d.x : WHICH == OF_GATE + 1 ? d.y : d.r;
}
template <class S, int WHICH> __attribute__((noinline)) double sum_gradient_by(const S *const *x, ptrdiff_t n) {
    const ptrdiff_t L = lanes<S>();
    Doubles<S> sum = constant<Doubles<S>>(0);
    for (ptrdiff_t j = 0; j < n; j += L)
        sum = sum + doubles<S>(gradient_of_operand<S, WHICH>([=](int i) TERM { return load_some<S>(x[i] + j, n - j, 0); }));
    return tree(sum);
}
#define EACH_GRADIENT(call)                          \
    switch (which) {                                 \
    case OF_MAXIMUM: return call(OF_MAXIMUM);        \
    case OF_MAXIMUM + 1: return call(OF_MAXIMUM + 1); \
    case OF_GATE: return call(OF_GATE);              \
    case OF_GATE + 1: return call(OF_GATE + 1);      \
    default: return call(OF_GATE + 2);               \
    }
// The sum over a tile of a row.
template <class S> double sum_gradient(int which, const S *const *x, ptrdiff_t n) {
#define CALL(WHICH) sum_gradient_by<S, WHICH>(x, n)
    EACH_GRADIENT(CALL)
#undef CALL
}
// Columns: operand i starts at x[i], its rows are stride[i] bytes apart, and wide[i] says that neighbours lie side by side; otherwise
// all columns share one element.
template <class S, int WHICH> __attribute__((noinline)) void sum_gradient_columns_by(S *y, const char *const *x, const ptrdiff_t *stride, const int *wide, ptrdiff_t n, ptrdiff_t width) {
    constexpr ptrdiff_t L = lanes<S>(), MOST = 4;  // Lanes of columns
    const ptrdiff_t groups = (width + L - 1) / L;
    typedef Doubles<S> D;
    const D zero = constant<D>(0);
    D t[MOST][L];
    Sum<D> sum[MOST], chunk[MOST];
    for (ptrdiff_t g = 0; g < groups; g++) sum[g] = {zero, zero};
    for (ptrdiff_t first = 0; first < n; first += CHUNK<S>()) {
        const ptrdiff_t last = n - first < CHUNK<S>() ? n : first + CHUNK<S>();
        for (ptrdiff_t g = 0; g < groups; g++) chunk[g] = {zero, zero};
        for (ptrdiff_t from = first; from < last; from += TILE<S>()) {
            const ptrdiff_t rows = last - from < TILE<S>() ? last - from : TILE<S>();
            for (ptrdiff_t g = 0; g < groups; g++) for (ptrdiff_t i = 0; i < L; i++) t[g][i] = zero;
            for (ptrdiff_t j = 0; j < rows; j++)
                for (ptrdiff_t g = 0; g < groups; g++)
                    t[g][j % L] = t[g][j % L] + doubles<S>(gradient_of_operand<S, WHICH>([=](int i) TERM {
                        const S *p = (const S *)(x[i] + (from + j) * stride[i]);
                        return wide[i] ? load_some<S>(p + g * L, width - g * L, 0) : splat<S>(widen<S>(*p)); }));
            for (ptrdiff_t g = 0; g < groups; g++) {
                for (ptrdiff_t w = L / 2; w; w /= 2) for (ptrdiff_t i = 0; i < w; i++) t[g][i] = t[g][i] + t[g][i + w];
                add<S>(&chunk[g], t[g][0]);
            }
        }
        for (ptrdiff_t g = 0; g < groups; g++) {
            if (first) add<S>(&sum[g], chunk[g].high), sum[g].low = sum[g].low + chunk[g].low;
            else sum[g] = chunk[g];
        }
    }
    for (ptrdiff_t g = 0; g < groups; g++) store_some<S>(y + g * L, lanes_of<S>(total<S>(sum[g])), width - g * L);
}
template <class S> void sum_gradient_columns(int which, S *y, const char *const *x, const ptrdiff_t *stride, const int *wide, ptrdiff_t n, ptrdiff_t width) {
#define CALL(WHICH) sum_gradient_columns_by<S, WHICH>(y, x, stride, wide, n, width)
    EACH_GRADIENT(CALL)
#undef CALL
}
#undef EACH_GRADIENT

}  // namespace
}  // namespace softcore
