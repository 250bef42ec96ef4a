// exp.h: exp and log in lanes, and the exact sums and products under them.
#pragma once
#include "simd.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- exact sums and products

// a + b = sum + error exactly (Knuth).
template <class P> INLINE P two_sum(P a, P b, P *error) {
    P s = a + b, v = s - a;
    *error = (a - (s - v)) + (b - v);
    return s;
}
// a * b = product + error exactly: one fused step, or Veltkamp's halves and Dekker's sum without it.
template <class P> INLINE P two_product(P a, P b, P *error) {
    P p = a * b;
#if SOFTCORE_FMA
    *error = mad(a, b, constant<P>(0) - p);
#else
    P split = constant<P>(sizeof(typename element<P>::type) == 4 ? 4097.0 : 134217729.0);
    P t = split * a, ah = t - (t - a), al = a - ah;
    P u = split * b, bh = u - (u - b), bl = b - bh;
    P e = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
    *error = select(e == e, e, constant<P>(0));  // the halves of a huge number overflow
#endif
    return p;
}

// ---------------------------------------------------------------- exp

// exp(t) = 2^(i / steps) (1 + s): i = round(t steps log2 e), r = t - i ln 2 / steps in two parts of which the first is exact,
// and 1 + s = exp(r) by a minimax polynomial.  i is read off the low bits of t steps log2 e + magic, which a compiler
// allowed to reassociate would fold away.  Floats have eight steps to a power of two, looked up by three bits of i: s is
// then so small that its rounding errors vanish beside that of the last addition, and the machine need not even fuse.
template <class A> struct Exp;
template <> struct Exp<float> {
    static constexpr double magic = 12582912.0, ln2_high = 0x1.62ep-4, ln2_low = 0x1.0bfbe8e7bcd5ep-18, steps = 8;
    static constexpr int mantissa = 23, bias = 127, headroom = 64, lowest = -189;
    static constexpr double near = 256;
};
template <> struct Exp<double> {
    static constexpr double magic = 6755399441055744.0, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40, steps = 1;
    static constexpr int mantissa = 52, bias = 1023, headroom = 300, lowest = -1320;
    static constexpr double near = 2048;
};
static constexpr double LOG2E = 1.4426950408889634074, LN2 = 0.69314718055994530942;

// 2^i, where `magical` is a sum whose low bits hold i + bias.  0 < i + bias < 2^(exponent bits).
template <class A, int N> INLINE Pack<A, N> power_of_two(Pack<A, N> magical) {
    return as<A>(shift_left(as<bits_t<A>>(magical), Exp<A>::mantissa));
}

// The bits of the eight powers 2^(j/8), less those of 1 and less j in the place where `i << 20` has it; and what each rounding
// to float lost, relative to it.  `tempered` are those of TEMPERED 2^(j/8), a factor at which all eight lie within 0.1 units of
// 2^-24 of a float, so that whoever divides by a sum of such exponentials, or can undo the factor, looks up once and not twice.
// Each stands twice because a 64-byte vector looks up by four bits.
static constexpr double TEMPERED = 0x1.691c8ap+0;
struct Powers { int32_t tempered[16], plain[16]; float lost[16]; };
#define EIGHT(a, b, c, d, e, f, g, h) {a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h}
alignas(64) static const Powers POWERS = {
    EIGHT(3444293, 3466686, 3586010, 3811038, 4151337, 3881534, 3658788, 3510786),
    EIGHT(0, -289342, -509968, -655657, -719629, -694486, -572163, -343865),
    EIGHT(0, -1.19921575e-08f, 3.19341815e-08f, -3.09907193e-08f, 1.71142709e-08f, 5.23333421e-09f, -1.47196051e-08f, -6.12825968e-09f),
};
#undef EIGHT
#if SOFTCORE_VECTOR == 64
INLINE Pack<int32_t, 1> look_up(const int32_t *table, Pack<int32_t, 1> i) { return {(vec<int32_t>)_mm512_permutexvar_epi32((__m512i)i.v, _mm512_load_si512(table))}; }
#elif SOFTCORE_VECTOR == 32
INLINE Pack<int32_t, 1> look_up(const int32_t *table, Pack<int32_t, 1> i) { return {(vec<int32_t>)_mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)table), (__m256i)i.v)}; }
#else
INLINE Pack<int32_t, 1> look_up(const int32_t *table, Pack<int32_t, 1> i) {
    return {vec<int32_t>{table[i.v[0] & 7], table[i.v[1] & 7], table[i.v[2] & 7], table[i.v[3] & 7]}};
}
#endif
template <int N> INLINE Pack<int32_t, N> look_up(const int32_t *table, Pack<int32_t, N> i) { return {look_up(table, i.lo), look_up(table, i.hi)}; }

// An exponential is found in two steps.  First a power of two and what is left of its logarithm, power exp(r);
template <class P, bool ROUNDED> struct Reduced { P power, r; };
// then power + a * b, not yet rounded,
template <class P> struct Term { P power, a, b; };
template <class P> INLINE P value(const Term<P> &x) { return mad(x.a, x.b, x.power); }
// or, for half types, rounded: to within 1.6 units of 2^-24 and 0.05 |t| more, of which x - max remains in a share.
template <class P> struct Rounded { P e; };
template <class P> INLINE P value(const Rounded<P> &x) { return x.e; }

// exp(t + t_low) 2^offset by its first step, where magic = Exp<A>::magic + steps (bias + offset); t_low is tiny.  The power of two must be a
// normal number, of t or of t's clamp.  NaN stays NaN.  `keep` may make it 0, and so the exponential: of what is lost anyway, where the
// product of numbers so small would take a hundred cycles.
struct Every { template <class P> INLINE P operator()(P power) const { return power; } };
template <class M> struct Where { M mask; template <class P> INLINE P operator()(P power) const { return select(mask, power, constant<P>(0)); } };
template <class M> INLINE Where<M> where(M mask) { return {mask}; }
template <bool TEMPER, bool LOW, int N, class F = Every> INLINE Reduced<Pack<float, N>, false> reduced(Pack<float, N> t, Pack<float, N> t_low, Pack<float, N> magic, F keep = F()) {
    typedef Pack<float, N> P;
    typedef Exp<float> E;
    P q = mad(t, constant<P>(E::steps * LOG2E), magic), n = q - magic;
    P r = mad(n, constant<P>(-E::ln2_low), mad(n, constant<P>(-E::ln2_high), t));
    Pack<int32_t, N> i = as<int32_t>(q);
    if (LOW) r = r + t_low;
    if (!TEMPER) r = r + as<float>(look_up((const int32_t *)POWERS.lost, i));
    return {keep(as<float>(shift_left(i, 20) + look_up(TEMPER ? POWERS.tempered : POWERS.plain, i))), r};
}
template <class P> INLINE Term<P> term(const Reduced<P, false> &x) {
    P p = mad(constant<P>(0.041660407011416018), x.r, constant<P>(0.1666803131575967));
    return {x.power, x.power * x.r, mad(mad(p, x.r, constant<P>(0.50000001285367041)), x.r, constant<P>(1))};
}
// Doubles have many more steps in the polynomial than before it, and take both at once.
template <bool TEMPER, bool LOW, int N, class F = Every> INLINE Term<Pack<double, N>> reduced(Pack<double, N> t, Pack<double, N> t_low, Pack<double, N> magic, F keep = F()) {
    typedef Pack<double, N> P;
    typedef Exp<double> E;
    P q = mad(t, constant<P>(LOG2E), magic), n = q - magic, power = keep(power_of_two(q));
    P high = mad(n, constant<P>(-E::ln2_high), t), low = n * constant<P>(-E::ln2_low);
    if (LOW) low = low + t_low;
    P r = high + low, g = constant<P>(2.5000062078258757146e-8);
    g = mad(g, r, constant<P>(2.7630387964068450876e-7));
    g = mad(g, r, constant<P>(2.7557587085889520721e-6));
    g = mad(g, r, constant<P>(0.000024801492734724736451));
    g = mad(g, r, constant<P>(0.00019841269504974927246));
    g = mad(g, r, constant<P>(0.00138888889439518383));
    g = mad(g, r, constant<P>(0.0083333333334955798717));
    g = mad(g, r, constant<P>(0.041666666666529068492));
    g = mad(g, r, constant<P>(0.16666666666666410171));
    g = mad(g, r, constant<P>(0.50000000000000107362));
    return {power, mad(r * r, g, low) + high, power};
}
template <class P> INLINE Term<P> term(const Term<P> &x) { return x; }
// What half types need of it: ln 2 / 8 in one part, which as a float is right to 2^-28, and a shorter polynomial.
template <bool LOW, int N, class F = Every> INLINE Reduced<Pack<float, N>, true> reduced_rounded(Pack<float, N> t, Pack<float, N> t_low, Pack<float, N> magic, F keep = F()) {
    typedef Pack<float, N> P;
    typedef Exp<float> E;
    P q = mad(t, constant<P>(E::steps * LOG2E), magic), n = q - magic;
#if SOFTCORE_FMA
    P r = mad(n, constant<P>(-LN2 / E::steps), t);
#else
    P r = mad(n, constant<P>(-E::ln2_low), mad(n, constant<P>(-E::ln2_high), t));
#endif
    if (LOW) r = r + t_low;
    Pack<int32_t, N> i = as<int32_t>(q);
    return {keep(as<float>(shift_left(i, 20) + look_up(POWERS.tempered, i))), r};
}
template <class P> INLINE Rounded<P> term(const Reduced<P, true> &x) {
    P p = mad(constant<P>(0.16666859111764457), x.r, constant<P>(0.5000647294878857));
    return {mad(x.power * x.r, mad(p, x.r, constant<P>(1)), x.power)};
}
template <bool TEMPER, bool LOW, class P, class F = Every> INLINE Term<P> exp_term(P t, P t_low, P magic, F keep = F()) { return term(reduced<TEMPER, LOW>(t, t_low, magic, keep)); }
template <class P> INLINE double tempered() { return sizeof(typename element<P>::type) == 4 ? TEMPERED : 1; }

// exp over its whole range, to subnormals and infinity: the power of two is kept in the middle of the exponents and moved
// by one exact step at the end.
template <class A, int N> INLINE Pack<A, N> exp(Pack<A, N> x, Pack<A, N> x_low) {
    typedef Pack<A, N> P;
    typedef Exp<A> E;
    const double far = E::bias / 2 + 1, edge = far * LN2, largest = 1.03 * 2 * edge;  // 2^far, and t beyond which to move
    P t = greater(constant<P>(-1.2 * 2 * edge), x);                                   // NaN stays: the second operand
    t = select(t > constant<P>(largest), constant<P>(largest), t);
    Pack<bits_t<A>, N> up = t > constant<P>(edge), down = t < constant<P>(-edge);
    P zero = constant<P>(0), step = constant<P>(E::steps * far), one = constant<P>(1);
    P magic = constant<P>(E::magic + E::steps * E::bias) + (select(down, step, zero) - select(up, step, zero));
    P back = select(down, constant<P>(std::ldexp(1.0, -(int)far)), select(up, constant<P>(std::ldexp(1.0, (int)far)), one));
    return value(exp_term<false, true>(t, x_low, magic)) * back;
}
template <class S> INLINE Lanes<S> exponential(Lanes<S> x) { return exp(x, constant<Lanes<S>>(0)); }

// ---------------------------------------------------------------- log

// (atanh(s) / s - 1) / s^2 as a polynomial in z = s^2: for z <= 1/9, and for z <= (3 - sqrt 8)^2.
template <class P> INLINE P atanh_tail(P z, float) {
    P g = constant<P>(0.140122962339);
    g = mad(g, z, constant<P>(0.139995540035));
    g = mad(g, z, constant<P>(0.200108508258));
    return mad(g, z, constant<P>(0.333332065349));
}
template <class P> INLINE P atanh_tail(P z, double) {
    P g = constant<P>(0.080279249766415460349);
    g = mad(g, z, constant<P>(0.028988373350345936795));
    g = mad(g, z, constant<P>(0.050471100088152583596));
    g = mad(g, z, constant<P>(0.052278451336423140534));
    g = mad(g, z, constant<P>(0.058852647034892638326));
    g = mad(g, z, constant<P>(0.066665033401744442764));
    g = mad(g, z, constant<P>(0.076923139155854067904));
    g = mad(g, z, constant<P>(0.090909089332440238883));
    g = mad(g, z, constant<P>(0.11111111113649264167));
    g = mad(g, z, constant<P>(0.14285714285690371437));
    g = mad(g, z, constant<P>(0.20000000000000112913));
    return mad(g, z, constant<P>(0.33333333333333333147));
}
template <class P> INLINE P atanh_tail_short(P z) {
    P g = constant<P>(0.073995452506158085802);
    g = mad(g, z, constant<P>(0.076568765531418918864));
    g = mad(g, z, constant<P>(0.090917876399234983777));
    g = mad(g, z, constant<P>(0.11111099188003490598));
    g = mad(g, z, constant<P>(0.1428571437208455868));
    g = mad(g, z, constant<P>(0.1999999999970366924));
    return mad(g, z, constant<P>(0.33333333333333677054));
}

// log(1 + z) for 0 <= z <= 1, from 2 atanh(z / (2 + z)): what is taken from z, which is exact, is small beside it, so that the
// smallest z are right to the last bits too.
template <class S> INLINE Lanes<S> log1p_unit(Lanes<S> z) {
    typedef Lanes<S> P;
    P s = z / (constant<P>(2) + z), w = s * s, half_square = constant<P>(0.5) * z * z;
    return z - (half_square - s * mad(constant<P>(2) * w, atanh_tail(w, acc<S>()), half_square));
}

}  // namespace
}  // namespace softcore
