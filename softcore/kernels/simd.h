// simd.h: the lanes every kernel is written in.
//
// `Lanes<S>` are 64 bytes of accumulators for the storage type S: sixteen floats for float, half and
// bfloat16, eight doubles for double, and so on for the integers.  They are 64 bytes on every machine, held
// as one, two or four native vectors, so that element j of a reduction meets the same partners whatever the
// width of the machine: that is why the AVX2 and AVX-512 builds agree bit for bit.
//
// In this order: storage types, native vectors, operators, loads and stores, folds across lanes.
// What Cython calls is a template with explicit arguments, because it writes `load<half>(p)`; and what the
// state needs once a row and once a lane (`state.h`) is overloaded for a plain number, so that both do the
// same arithmetic.  Nothing here validates, allocates or throws.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if !defined(__GNUC__)
#error "softcore needs GCC or Clang: its lanes are GNU vector types"
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SOFTCORE_VECTOR 64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SOFTCORE_VECTOR 32
#else
#define SOFTCORE_VECTOR 16
#endif
#if defined(__FMA__) || defined(__aarch64__)
#define SOFTCORE_FMA 1
#else
#define SOFTCORE_FMA 0
#endif
#define INLINE inline __attribute__((always_inline))
#define TERM __attribute__((always_inline))  // for lambdas

namespace softcore {
namespace {  // each ISA's module keeps its own copies: a symbol shared between them would mix machines

// ---------------------------------------------------------------- storage and accumulators

struct half { uint16_t bits; };
struct bfloat16 { uint16_t bits; };
struct widened { float value; };  // a half that lies as a float: in columns that are copied

template <class S> struct accumulator { typedef S type; };
template <> struct accumulator<half> { typedef float type; };
template <> struct accumulator<bfloat16> { typedef float type; };
template <> struct accumulator<widened> { typedef float type; };
template <class S> using acc = typename accumulator<S>::type;
// What a copy of S in accumulators is, and whether it is one of the half types, of whose arithmetic less is asked.
template <class S> struct copy_type { typedef S type; };
template <> struct copy_type<half> { typedef widened type; };
template <> struct copy_type<bfloat16> { typedef widened type; };
template <class S> using copy_of = typename copy_type<S>::type;
template <class S> INLINE constexpr bool is_half() { return std::is_same<copy_of<S>, widened>::value; }

template <class T> INLINE T from_bits(typename std::conditional<sizeof(T) == 8, uint64_t, uint32_t>::type b) {
    T value; std::memcpy(&value, &b, sizeof value); return value;
}
INLINE uint32_t bits_of(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }

// Scalar conversions.  They serve tails, gathers and machines without the instruction; the wide ones below
// give the same bits.
template <class S> INLINE acc<S> widen(S s) { return s; }
template <> INLINE float widen<widened>(widened s) { return s.value; }
template <> INLINE float widen<bfloat16>(bfloat16 s) { return from_bits<float>((uint32_t)s.bits << 16); }
template <> INLINE float widen<half>(half s) {
#if defined(__F16C__)
    return _cvtsh_ss(s.bits);
#else
    // The exponent moves by 112; a multiplication does so for subnormals too, infinity and NaN keep theirs.
    uint32_t magnitude = (uint32_t)(s.bits & 0x7fff) << 13, sign = (uint32_t)(s.bits & 0x8000) << 16;
    uint32_t b = bits_of(from_bits<float>(magnitude) * 0x1p112f);
    if (magnitude >= 0x0f800000) b = magnitude | 0x7f800000 | (magnitude > 0x0f800000 ? 0x400000 : 0);
    return from_bits<float>(b | sign);
#endif
}

template <class S> INLINE S narrow(acc<S> a) { return a; }
template <> INLINE widened narrow<widened>(float a) { return {a}; }
template <> INLINE bfloat16 narrow<bfloat16>(float a) {
    uint32_t b = bits_of(a);
    if (a != a) return bfloat16{(uint16_t)((b >> 16) | 0x40)};  // rounding would carry a NaN into infinity
    return bfloat16{(uint16_t)((b + 0x7fff + ((b >> 16) & 1)) >> 16)};
}
template <> INLINE half narrow<half>(float a) {
#if defined(__F16C__)
    return half{(uint16_t)_cvtss_sh(a, _MM_FROUND_TO_NEAREST_INT)};
#else
    uint32_t b = bits_of(a), sign = (b >> 16) & 0x8000, magnitude = b & 0x7fffffff;
    uint16_t h;
    if (magnitude > 0x7f800000) h = 0x7e00 | ((magnitude >> 13) & 0x3ff);
    else if (magnitude >= 0x477ff000) h = 0x7c00;
    else if (magnitude < 0x38800000)  // subnormal: adding 0.5 lets the hardware round to units of 2^-24
        h = (uint16_t)(bits_of(from_bits<float>(magnitude) + 0.5f) - 0x3f000000);
    else h = (uint16_t)((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13);
    return half{(uint16_t)(h | sign)};
#endif
}

// ---------------------------------------------------------------- native vectors

template <class A> struct Native { typedef A type __attribute__((vector_size(SOFTCORE_VECTOR))); };
template <class A> using vec = typename Native<A>::type;
template <class A> using bits_t = typename std::conditional<sizeof(A) == 8, int64_t,
      typename std::conditional<sizeof(A) == 4, int32_t,
      typename std::conditional<sizeof(A) == 2, int16_t, int8_t>::type>::type>::type;

// A Pack is a binary tree of native vectors and operations walk the tree: plain recursion leaves the compiler
// nothing to unroll and nothing to put in memory.
template <class A, int N> struct Pack { Pack<A, N / 2> lo, hi; };
template <class A> struct Pack<A, 1> { vec<A> v; };

template <class S> using Lanes = Pack<acc<S>, 64 / SOFTCORE_VECTOR>;
template <class S> using Mask = Pack<bits_t<acc<S>>, 64 / SOFTCORE_VECTOR>;
template <class S> INLINE constexpr ptrdiff_t lanes() { return 64 / sizeof(acc<S>); }

template <class R, class F, class A>
INLINE Pack<R, 1> each(F f, Pack<A, 1> a) { return {f(a.v)}; }
template <class R, class F, class A, int N>
INLINE Pack<R, N> each(F f, Pack<A, N> a) { return {each<R>(f, a.lo), each<R>(f, a.hi)}; }
template <class R, class F, class A, class B>
INLINE Pack<R, 1> each(F f, Pack<A, 1> a, Pack<B, 1> b) { return {f(a.v, b.v)}; }
template <class R, class F, class A, class B, int N>
INLINE Pack<R, N> each(F f, Pack<A, N> a, Pack<B, N> b) { return {each<R>(f, a.lo, b.lo), each<R>(f, a.hi, b.hi)}; }
template <class R, class F, class A, class B, class C>
INLINE Pack<R, 1> each(F f, Pack<A, 1> a, Pack<B, 1> b, Pack<C, 1> c) { return {f(a.v, b.v, c.v)}; }
template <class R, class F, class A, class B, class C, int N>
INLINE Pack<R, N> each(F f, Pack<A, N> a, Pack<B, N> b, Pack<C, N> c) {
    return {each<R>(f, a.lo, b.lo, c.lo), each<R>(f, a.hi, b.hi, c.hi)};
}

// Instructions that the language has no operator for.  On x86 `greater(a, b)` is exactly a > b ? a : b, so a NaN
// in either gives b; GCC does not form it from the ternary because it must keep that promise.
#if SOFTCORE_VECTOR == 64
#define X86(name, suffix) _mm512_##name##_##suffix
typedef __m512 m_ps; typedef __m512d m_pd; typedef __m512i m_si;
INLINE bool any_bit(m_si m) { return _mm512_test_epi64_mask(m, m) != 0; }
#elif SOFTCORE_VECTOR == 32
#define X86(name, suffix) _mm256_##name##_##suffix
typedef __m256 m_ps; typedef __m256d m_pd; typedef __m256i m_si;
INLINE bool any_bit(m_si m) { return !_mm256_testz_si256(m, m); }
#elif defined(__SSE4_1__)
#define X86(name, suffix) _mm_##name##_##suffix
typedef __m128 m_ps; typedef __m128d m_pd; typedef __m128i m_si;
INLINE bool any_bit(m_si m) { return !_mm_testz_si128(m, m); }
#endif

template <class A> INLINE vec<A> greater(vec<A> a, vec<A> b) { return a > b ? a : b; }
template <class A> INLINE void stream_vector(A *p, vec<A> v) { std::memcpy(p, &v, sizeof v); }
#if defined(X86)
template <> INLINE vec<float> greater<float>(vec<float> a, vec<float> b) { return (vec<float>)X86(max, ps)((m_ps)a, (m_ps)b); }
template <> INLINE vec<double> greater<double>(vec<double> a, vec<double> b) { return (vec<double>)X86(max, pd)((m_pd)a, (m_pd)b); }
template <> INLINE void stream_vector<float>(float *p, vec<float> v) { X86(stream, ps)(p, (m_ps)v); }
template <> INLINE void stream_vector<double>(double *p, vec<double> v) { X86(stream, pd)(p, (m_pd)v); }
INLINE void fence() { _mm_sfence(); }
#else
typedef vec<int64_t> m_si;
INLINE bool any_bit(m_si m) { return (m[0] | m[1]) != 0; }
INLINE void fence() {}
#endif

// mad is a * b + c, fused where the machine can.  The kernels use it where the difference is below their
// error; where the product must be exact they ask for two_product.
#if SOFTCORE_FMA && defined(X86)
INLINE vec<float> mad_vector(vec<float> a, vec<float> b, vec<float> c) { return (vec<float>)X86(fmadd, ps)((m_ps)a, (m_ps)b, (m_ps)c); }
INLINE vec<double> mad_vector(vec<double> a, vec<double> b, vec<double> c) { return (vec<double>)X86(fmadd, pd)((m_pd)a, (m_pd)b, (m_pd)c); }
#elif SOFTCORE_FMA
template <class V> INLINE V mad_vector(V a, V b, V c) {
    for (unsigned i = 0; i < sizeof(V) / sizeof(c[0]); i++) c[i] = std::fma(a[i], b[i], c[i]);
    return c;
}
#else
template <class V> INLINE V mad_vector(V a, V b, V c) { return a * b + c; }
#endif

// ---------------------------------------------------------------- a plain number in the place of lanes

INLINE double mad(double a, double b, double c) { return SOFTCORE_FMA ? __builtin_fma(a, b, c) : a * b + c; }
INLINE float mad(float a, float b, float c) { return SOFTCORE_FMA ? __builtin_fmaf(a, b, c) : a * b + c; }
INLINE double select(bool m, double a, double b) { return m ? a : b; }
INLINE float select(bool m, float a, float b) { return m ? a : b; }
INLINE void spread(float a, float *p) { *p = a; }
INLINE void spread(double a, double *p) { *p = a; }
template <class P> struct element { typedef P type; };

// ---------------------------------------------------------------- operators

#define OPERATOR(name, expression)                                                                      \
    template <class A, int N> INLINE Pack<A, N> name(Pack<A, N> a, Pack<A, N> b) {                       \
        return each<A>([](vec<A> x, vec<A> y) { return (vec<A>)(expression); }, a, b);                  \
    }
OPERATOR(operator+, x + y)
OPERATOR(operator-, x - y)
OPERATOR(operator*, x * y)
OPERATOR(operator/, x / y)
OPERATOR(operator|, x | y)
OPERATOR(operator&, x & y)
OPERATOR(greater, greater<A>(x, y))
#undef OPERATOR
#define COMPARISON(name, expression)                                                                    \
    template <class A, int N> INLINE Pack<bits_t<A>, N> name(Pack<A, N> a, Pack<A, N> b) {               \
        return each<bits_t<A>>([](vec<A> x, vec<A> y) { return (vec<bits_t<A>>)(expression); }, a, b);  \
    }
COMPARISON(operator>, x > y)
COMPARISON(operator>=, x >= y)
COMPARISON(operator<, x < y)
COMPARISON(operator==, x == y)
COMPARISON(operator!=, x != y)
COMPARISON(unordered, (x != x) | (y != y))
#undef COMPARISON
template <class A, int N> INLINE Pack<A, N> mad(Pack<A, N> a, Pack<A, N> b, Pack<A, N> c) {
    return each<A>([](vec<A> x, vec<A> y, vec<A> z) { return mad_vector(x, y, z); }, a, b, c);
}
template <class A, int N> INLINE Pack<A, N> select(Pack<bits_t<A>, N> m, Pack<A, N> a, Pack<A, N> b) {
    return each<A>([](vec<bits_t<A>> c, vec<A> x, vec<A> y) { return (vec<A>)(c ? x : y); }, m, a, b);
}
template <class B, class A, int N> INLINE Pack<B, N> as(Pack<A, N> a) {  // the same bits
    return each<B>([](vec<A> x) { return (vec<B>)x; }, a);
}
template <class A, int N> INLINE Pack<A, N> shift_left(Pack<A, N> a, int bits) {
    return each<A>([bits](vec<A> x) { return (vec<A>)(x << bits); }, a);
}
template <class A, int N> INLINE Pack<A, N> shift_right(Pack<A, N> a, int bits) {
    return each<A>([bits](vec<A> x) { return (vec<A>)(x >> bits); }, a);
}
template <class A> INLINE bool any(Pack<A, 1> m) { return any_bit((m_si)m.v); }
template <class A, int N> INLINE bool any(Pack<A, N> m) { return any(m.lo | m.hi); }
template <class A> INLINE bool all(Pack<A, 1> m) { return !any_bit((m_si)~m.v); }
template <class A, int N> INLINE bool all(Pack<A, N> m) { return all(m.lo & m.hi); }

template <class A> INLINE void spread(A a, Pack<A, 1> *p) { p->v = a - vec<A>{}; }  // a - 0 keeps the sign of -0
template <class A, int N> INLINE void spread(A a, Pack<A, N> *p) { spread(a, &p->lo); spread(a, &p->hi); }
template <class A, int N> struct element<Pack<A, N>> { typedef A type; };
template <class P> INLINE P constant(double a) { P p; spread((typename element<P>::type)a, &p); return p; }
template <class S> INLINE Lanes<S> splat(acc<S> a) { Lanes<S> p; spread(a, &p); return p; }

// f(k, &part, ...) for each native vector k of some Packs, one after the other.  Operators take all vectors of a Pack a step further before
// they take the next step; where sixteen registers do not hold the constants of many steps as well, this needs fewer.
template <class F, class... A> INLINE void by_vector(F f, ptrdiff_t k, Pack<A, 1> *...x) { f(k, x...); }
template <class F, int N, class... A> INLINE void by_vector(F f, ptrdiff_t k, Pack<A, N> *...x) {
    by_vector(f, k, &x->lo...);
    by_vector(f, k + N / 2, &x->hi...);
}
template <class A> INLINE constexpr ptrdiff_t in_vector() { return SOFTCORE_VECTOR / sizeof(A); }

// One lane of many.
template <class S> INLINE acc<S> lane(const Lanes<S> &x, ptrdiff_t i) { acc<S> a; std::memcpy(&a, (const char *)&x + i * sizeof a, sizeof a); return a; }

// Integers: one in every lane; the sum of all lanes; to and from doubles; and 32 bits to 64, as signed or unsigned numbers.
template <class S> INLINE Pack<bits_t<acc<S>>, 64 / SOFTCORE_VECTOR> whole(bits_t<acc<S>> a) { Pack<bits_t<acc<S>>, 64 / SOFTCORE_VECTOR> p; spread(a, &p); return p; }
template <int N> INLINE Pack<double, N> number(Pack<int64_t, N> a) { return each<double>([](vec<int64_t> x) { return __builtin_convertvector(x, vec<double>); }, a); }
template <int N> INLINE Pack<int64_t, N> whole_number(Pack<double, N> a) { return each<int64_t>([](vec<double> x) { return __builtin_convertvector(x, vec<int64_t>); }, a); }
INLINE double number(int64_t a) { return (double)a; }
INLINE int64_t whole_number(double a) { return (int64_t)a; }
INLINE int64_t sum_integers(Pack<int64_t, 1> a) {
#if SOFTCORE_VECTOR == 64
    return _mm512_reduce_add_epi64((__m512i)a.v);
#elif SOFTCORE_VECTOR == 32
    __m128i b = _mm_add_epi64(_mm256_castsi256_si128((__m256i)a.v), _mm256_extracti128_si256((__m256i)a.v, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(b, _mm_unpackhi_epi64(b, b)));
#else
    return a.v[0] + a.v[1];
#endif
}
template <int N> INLINE int64_t sum_integers(Pack<int64_t, N> a) { return sum_integers(a.lo + a.hi); }
#if SOFTCORE_VECTOR == 64
INLINE Pack<int64_t, 2> widen_signed(Pack<int32_t, 1> a) {
    return {{(vec<int64_t>)_mm512_cvtepi32_epi64(_mm512_castsi512_si256((m_si)a.v))}, {(vec<int64_t>)_mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64((m_si)a.v, 1))}};
}
INLINE Pack<int64_t, 2> widen_unsigned(Pack<int32_t, 1> a) {
    return {{(vec<int64_t>)_mm512_cvtepu32_epi64(_mm512_castsi512_si256((m_si)a.v))}, {(vec<int64_t>)_mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64((m_si)a.v, 1))}};
}
#elif SOFTCORE_VECTOR == 32
INLINE Pack<int64_t, 2> widen_signed(Pack<int32_t, 1> a) {
    return {{(vec<int64_t>)_mm256_cvtepi32_epi64(_mm256_castsi256_si128((m_si)a.v))}, {(vec<int64_t>)_mm256_cvtepi32_epi64(_mm256_extracti128_si256((m_si)a.v, 1))}};
}
INLINE Pack<int64_t, 2> widen_unsigned(Pack<int32_t, 1> a) {
    return {{(vec<int64_t>)_mm256_cvtepu32_epi64(_mm256_castsi256_si128((m_si)a.v))}, {(vec<int64_t>)_mm256_cvtepu32_epi64(_mm256_extracti128_si256((m_si)a.v, 1))}};
}
#else
INLINE Pack<int64_t, 2> widen_signed(Pack<int32_t, 1> a) { return {{vec<int64_t>{a.v[0], a.v[1]}}, {vec<int64_t>{a.v[2], a.v[3]}}}; }
INLINE Pack<int64_t, 2> widen_unsigned(Pack<int32_t, 1> a) {
    return {{vec<int64_t>{(uint32_t)a.v[0], (uint32_t)a.v[1]}}, {vec<int64_t>{(uint32_t)a.v[2], (uint32_t)a.v[3]}}};
}
#endif
template <int N> INLINE Pack<int64_t, 2 * N> widen_signed(Pack<int32_t, N> a) { return {widen_signed(a.lo), widen_signed(a.hi)}; }
template <int N> INLINE Pack<int64_t, 2 * N> widen_unsigned(Pack<int32_t, N> a) { return {widen_unsigned(a.lo), widen_unsigned(a.hi)}; }

// Cython picks the storage from an argument, so what has none takes a pointer that is never followed.
template <class S> INLINE constexpr ptrdiff_t lanes(const S *) { return lanes<S>(); }

// max(a, b) of zeros is +0 if either is, whatever their order: bits may not depend on who met whom first.
template <class A, int N> INLINE Pack<A, N> max(Pack<A, N> a, Pack<A, N> b) { return greater(a, b); }
template <int N> INLINE Pack<float, N> max(Pack<float, N> a, Pack<float, N> b) {
    return as<float>(as<int32_t>(greater(a, b)) & as<int32_t>(greater(b, a)));
}
template <int N> INLINE Pack<double, N> max(Pack<double, N> a, Pack<double, N> b) {
    return as<double>(as<int64_t>(greater(a, b)) & as<int64_t>(greater(b, a)));
}

// float lanes to twice as many double lanes, and back.
template <int N> INLINE Pack<double, 2 * N> to_double(Pack<float, N> a) { return {to_double(a.lo), to_double(a.hi)}; }
template <> INLINE Pack<double, 2> to_double(Pack<float, 1> a) {
#if SOFTCORE_VECTOR == 64
    return {{(vec<double>)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)a.v))}, {(vec<double>)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)a.v, 1))}};
#elif SOFTCORE_VECTOR == 32
    return {{(vec<double>)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)a.v))}, {(vec<double>)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)a.v, 1))}};
#elif defined(X86)  // by an instruction: from elements on their way there and back gcc 12 takes the rounding
    return {{(vec<double>)_mm_cvtps_pd((__m128)a.v)}, {(vec<double>)_mm_cvtps_pd(_mm_movehl_ps((__m128)a.v, (__m128)a.v))}};
#else
    return {{vec<double>{(double)a.v[0], (double)a.v[1]}}, {vec<double>{(double)a.v[2], (double)a.v[3]}}};
#endif
}
template <int N> INLINE Pack<float, N> to_float(Pack<double, 2 * N> a);
template <> INLINE Pack<float, 1> to_float<1>(Pack<double, 2> a) {
#if SOFTCORE_VECTOR == 64
    return {(vec<float>)_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)a.lo.v)), _mm512_cvtpd_ps((__m512d)a.hi.v), 1)};
#elif SOFTCORE_VECTOR == 32
    return {(vec<float>)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)a.hi.v), _mm256_cvtpd_ps((__m256d)a.lo.v))};
#elif defined(X86)
    return {(vec<float>)_mm_movelh_ps(_mm_cvtpd_ps((__m128d)a.lo.v), _mm_cvtpd_ps((__m128d)a.hi.v))};
#else
    return {vec<float>{(float)a.lo.v[0], (float)a.lo.v[1], (float)a.hi.v[0], (float)a.hi.v[1]}};
#endif
}
template <int N> INLINE Pack<float, N> to_float(Pack<double, 2 * N> a) { return {to_float<N / 2>(a.lo), to_float<N / 2>(a.hi)}; }

// ---------------------------------------------------------------- loads and stores

template <class A> INLINE void load_pack(const A *p, Pack<A, 1> *x) { std::memcpy(&x->v, p, sizeof x->v); }
template <class A, int N> INLINE void load_pack(const A *p, Pack<A, N> *x) {
    load_pack(p, &x->lo);
    load_pack((const A *)((const char *)p + sizeof x->lo), &x->hi);
}
template <class A> INLINE void store_pack(A *p, Pack<A, 1> x) { std::memcpy(p, &x.v, sizeof x.v); }
template <class A, int N> INLINE void store_pack(A *p, Pack<A, N> x) {
    store_pack(p, x.lo);
    store_pack((A *)((char *)p + sizeof x.lo), x.hi);
}
template <class A> INLINE void stream_pack(A *p, Pack<A, 1> x) { stream_vector<A>(p, x.v); }
template <class A, int N> INLINE void stream_pack(A *p, Pack<A, N> x) {
    stream_pack(p, x.lo);
    stream_pack((A *)((char *)p + sizeof x.lo), x.hi);
}

// load<S>, store<S>: one Lanes of storage; no alignment is asked for.
template <class S> INLINE Lanes<S> load(const S *p) { Lanes<S> x; load_pack((const acc<S> *)p, &x); return x; }
template <class S> INLINE void store(S *p, Lanes<S> x) { store_pack((acc<S> *)p, x); }
template <class S> INLINE Lanes<S> load_scalars(const S *p) {
    acc<S> a[lanes<S>()];
    for (ptrdiff_t i = 0; i < lanes<S>(); i++) a[i] = widen<S>(p[i]);
    Lanes<S> x; load_pack(a, &x); return x;
}
template <class S> INLINE void store_scalars(S *p, Lanes<S> x) {
    acc<S> a[lanes<S>()];
    store_pack(a, x);
    for (ptrdiff_t i = 0; i < lanes<S>(); i++) p[i] = narrow<S>(a[i]);
}
#if SOFTCORE_VECTOR == 64
template <> INLINE Lanes<half> load<half>(const half *p) { return {(vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))}; }
template <> INLINE Lanes<bfloat16> load<bfloat16>(const bfloat16 *p) {
    return {(vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16)};
}
template <> INLINE void store<half>(half *p, Lanes<half> x) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)x.v, _MM_FROUND_TO_NEAREST_INT)); }
#elif SOFTCORE_VECTOR == 32
INLINE Pack<float, 1> load_half8(const half *p) { return {(vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p))}; }
INLINE Pack<float, 1> load_bfloat8(const bfloat16 *p) {
    return {(vec<float>)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16)};
}
template <> INLINE Lanes<half> load<half>(const half *p) { return {load_half8(p), load_half8(p + 8)}; }
template <> INLINE Lanes<bfloat16> load<bfloat16>(const bfloat16 *p) { return {load_bfloat8(p), load_bfloat8(p + 8)}; }
template <> INLINE void store<half>(half *p, Lanes<half> x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)x.lo.v, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph((__m256)x.hi.v, _MM_FROUND_TO_NEAREST_INT));
}
#else
template <> INLINE Lanes<half> load<half>(const half *p) { return load_scalars<half>(p); }
template <> INLINE Lanes<bfloat16> load<bfloat16>(const bfloat16 *p) { return load_scalars<bfloat16>(p); }
template <> INLINE void store<half>(half *p, Lanes<half> x) { store_scalars<half>(p, x); }
#endif
#if SOFTCORE_VECTOR == 16
template <> INLINE void store<bfloat16>(bfloat16 *p, Lanes<bfloat16> x) { store_scalars<bfloat16>(p, x); }
#else
// To the nearest, ties to even.  A NaN that was widened or that arithmetic made has nothing in the bits that are cut off, and so
// stays one, where narrow<bfloat16> takes any.
INLINE __m256i rounded_to_bfloat16(__m256i b) {
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(b, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
#if SOFTCORE_VECTOR == 64
alignas(64) static const uint16_t HIGH_HALVES[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};  // the words of sixteen floats
template <> INLINE void store<bfloat16>(bfloat16 *p, Lanes<bfloat16> x) {
    const __m512i b = (__m512i)x.v, up = _mm512_mask_blend_epi32(_mm512_test_epi32_mask(b, _mm512_set1_epi32(0x10000)), _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000));
    _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_load_si512(HIGH_HALVES), _mm512_add_epi32(b, up))));
}
#else
template <> INLINE void store<bfloat16>(bfloat16 *p, Lanes<bfloat16> x) {
    const __m256i low = rounded_to_bfloat16((__m256i)x.lo.v), high = rounded_to_bfloat16((__m256i)x.hi.v);
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8));
}
#endif
#endif

// The ends of rows: n < lanes, the other lanes take `fill`, and no byte past the n-th is touched.
template <class S> INLINE Lanes<S> load_part(const S *p, ptrdiff_t n, acc<S> fill) {
    acc<S> a[lanes<S>()];
    store_pack(a, splat<S>(fill));
    for (ptrdiff_t i = 0; i < n; i++) a[i] = widen<S>(p[i]);
    Lanes<S> x; load_pack(a, &x); return x;
}
template <class S> INLINE void store_part(S *p, Lanes<S> x, ptrdiff_t n) {
    acc<S> a[lanes<S>()];
    store_pack(a, x);
    for (ptrdiff_t i = 0; i < n; i++) p[i] = narrow<S>(a[i]);
}
template <class A> INLINE Pack<bits_t<A>, 1> first_of(Pack<A, 1> *, ptrdiff_t n, ptrdiff_t start) {
    vec<bits_t<A>> index;
    for (unsigned i = 0; i < sizeof index / sizeof(A); i++) index[i] = (bits_t<A>)i;
    return {(vec<bits_t<A>>)(index < ((bits_t<A>)(n - start) - vec<bits_t<A>>{}))};
}
template <class A, int N> INLINE Pack<bits_t<A>, N> first_of(Pack<A, N> *p, ptrdiff_t n, ptrdiff_t start) {
    return {first_of(&p->lo, n, start), first_of(&p->hi, n, start + (ptrdiff_t)(sizeof p->lo / sizeof(A)))};
}
template <class S> INLINE Mask<S> first(ptrdiff_t n) { Lanes<S> *p = nullptr; return first_of(p, n, 0); }
template <class S> INLINE Mask<S> first(const S *, ptrdiff_t n) { return first<S>(n); }
#if SOFTCORE_VECTOR == 32
INLINE Pack<float, 1> load_masked(const float *p, Pack<int32_t, 1> m, Pack<float, 1> other) { return select(m, Pack<float, 1>{(vec<float>)_mm256_maskload_ps(p, (__m256i)m.v)}, other); }
INLINE Pack<double, 1> load_masked(const double *p, Pack<int64_t, 1> m, Pack<double, 1> other) { return select(m, Pack<double, 1>{(vec<double>)_mm256_maskload_pd(p, (__m256i)m.v)}, other); }
INLINE void store_masked(float *p, Pack<int32_t, 1> m, Pack<float, 1> x) { _mm256_maskstore_ps(p, (__m256i)m.v, (__m256)x.v); }
INLINE void store_masked(double *p, Pack<int64_t, 1> m, Pack<double, 1> x) { _mm256_maskstore_pd(p, (__m256i)m.v, (__m256d)x.v); }
#elif SOFTCORE_VECTOR == 64
INLINE Pack<float, 1> load_masked(const float *p, Pack<int32_t, 1> m, Pack<float, 1> other) { return {(vec<float>)_mm512_mask_loadu_ps((__m512)other.v, _mm512_movepi32_mask((__m512i)m.v), p)}; }
INLINE Pack<double, 1> load_masked(const double *p, Pack<int64_t, 1> m, Pack<double, 1> other) { return {(vec<double>)_mm512_mask_loadu_pd((__m512d)other.v, _mm512_movepi64_mask((__m512i)m.v), p)}; }
INLINE void store_masked(float *p, Pack<int32_t, 1> m, Pack<float, 1> x) { _mm512_mask_storeu_ps(p, _mm512_movepi32_mask((__m512i)m.v), (__m512)x.v); }
INLINE void store_masked(double *p, Pack<int64_t, 1> m, Pack<double, 1> x) { _mm512_mask_storeu_pd(p, _mm512_movepi64_mask((__m512i)m.v), (__m512d)x.v); }
#endif
#if SOFTCORE_VECTOR >= 32
template <class A, class B, int N> INLINE Pack<A, N> load_masked(const A *p, Pack<B, N> m, Pack<A, N> other) {  // other lanes are those of `other`
    return {load_masked(p, m.lo, other.lo), load_masked((const A *)((const char *)p + sizeof m.lo), m.hi, other.hi)};
}
template <class A, class B, int N> INLINE void store_masked(A *p, Pack<B, N> m, Pack<A, N> x) {
    store_masked(p, m.lo, x.lo);
    store_masked((A *)((char *)p + sizeof m.lo), m.hi, x.hi);
}
template <> INLINE Lanes<float> load_part<float>(const float *p, ptrdiff_t n, float fill) { return load_masked(p, first<float>(n), splat<float>(fill)); }
template <> INLINE Lanes<widened> load_part<widened>(const widened *p, ptrdiff_t n, float fill) { return load_part<float>(&p->value, n, fill); }
template <> INLINE Lanes<double> load_part<double>(const double *p, ptrdiff_t n, double fill) { return load_masked(p, first<double>(n), splat<double>(fill)); }
template <> INLINE void store_part<float>(float *p, Lanes<float> x, ptrdiff_t n) { store_masked(p, first<float>(n), x); }
template <> INLINE void store_part<widened>(widened *p, Lanes<widened> x, ptrdiff_t n) { store_part<float>(&p->value, x, n); }
template <> INLINE void store_part<double>(double *p, Lanes<double> x, ptrdiff_t n) { store_masked(p, first<double>(n), x); }
// Of the half types by way of whole Lanes of them in memory, or in a register where the machine has masks for 16 bits.
template <class S> INLINE Lanes<S> load_part_of_halves(const S *p, ptrdiff_t n, float fill) {
    alignas(32) S a[16] = {};
#if SOFTCORE_VECTOR == 64
    _mm256_store_si256((__m256i *)a, _mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
#else
    std::memcpy(a, p, n * sizeof(S));
#endif
    return select(first<S>(n), load<S>(a), splat<S>(fill));
}
template <class S> INLINE void store_part_of_halves(S *p, Lanes<S> x, ptrdiff_t n) {
    alignas(32) S a[16];
    store<S>(a, x);
#if SOFTCORE_VECTOR == 64
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), _mm256_load_si256((const __m256i *)a));
#else
    std::memcpy(p, a, n * sizeof(S));
#endif
}
template <> INLINE Lanes<half> load_part<half>(const half *p, ptrdiff_t n, float fill) { return load_part_of_halves(p, n, fill); }
template <> INLINE Lanes<bfloat16> load_part<bfloat16>(const bfloat16 *p, ptrdiff_t n, float fill) { return load_part_of_halves(p, n, fill); }
template <> INLINE void store_part<half>(half *p, Lanes<half> x, ptrdiff_t n) { store_part_of_halves(p, x, n); }
template <> INLINE void store_part<bfloat16>(bfloat16 *p, Lanes<bfloat16> x, ptrdiff_t n) { store_part_of_halves(p, x, n); }
#endif

// The same value, which the compiler will not load again for its second use: a load across two lines costs more than a register.
template <class A> INLINE Pack<A, 1> in_register(Pack<A, 1> x) {
#if SOFTCORE_VECTOR == 64
    asm("" : "+v"(x.v));
#elif defined(X86)
    asm("" : "+x"(x.v));
#endif
    return x;
}
template <class A, int N> INLINE Pack<A, N> in_register(Pack<A, N> x) { return {in_register(x.lo), in_register(x.hi)}; }

// Two Lanes at a time where a Lanes is one vector: twice the independent work, for loops that wait for each other's results.
template <class S> struct Several { typedef Pack<acc<S>, SOFTCORE_VECTOR == 64 ? 2 : 64 / SOFTCORE_VECTOR> type; };
template <class A, int N> INLINE void repeat(Pack<A, N> x, Pack<A, N> *p) { *p = x; }
template <class A, int N> INLINE void repeat(Pack<A, N> x, Pack<A, 2 * N> *p) { *p = {x, x}; }
template <class P, class A, int N> INLINE P repeat(Pack<A, N> x) { P p; repeat(x, &p); return p; }
template <class S> INLINE Lanes<S> &part(Lanes<S> *x, ptrdiff_t) { return *x; }
template <class S> INLINE Lanes<S> &part(Pack<acc<S>, 128 / SOFTCORE_VECTOR> *x, ptrdiff_t i) { return i ? x->hi : x->lo; }

// load_some, store_some: n lanes, all of them or a part.  stream: a store past the cache, for an aligned p.
template <class S> INLINE Lanes<S> load_some(const S *p, ptrdiff_t n, double fill) {
    return __builtin_expect(n >= lanes<S>(), 1) ? load<S>(p) : load_part<S>(p, n, (acc<S>)fill);
}
template <class S> INLINE void store_some(S *p, Lanes<S> x, ptrdiff_t n) {
    if (__builtin_expect(n >= lanes<S>(), 1)) store<S>(p, x); else store_part<S>(p, x, n);
}
template <class S> INLINE void stream(S *p, Lanes<S> x) { store<S>(p, x); }
template <> INLINE void stream<float>(float *p, Lanes<float> x) { stream_pack(p, x); }
template <> INLINE void stream<double>(double *p, Lanes<double> x) { stream_pack(p, x); }
// How many elements to write before p starts a cache line, for `stream`; -1 where it never will.
template <class S> INLINE ptrdiff_t to_alignment(const S *p) {
    uintptr_t past = (uintptr_t)p % 64;
    if (past % sizeof(S) || sizeof(S) != sizeof(acc<S>)) return -1;
    return past ? (ptrdiff_t)((64 - past) / sizeof(S)) : 0;
}
INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }
INLINE void prefetch_bytes(const char *p, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < bytes; i += 64) prefetch(p + i);
}
INLINE void prefetch_near(const void *p) { __builtin_prefetch(p, 0, 3); }  // into the first cache

// ---------------------------------------------------------------- folds across lanes

// Half against half down to 16 bytes, and those against themselves moved by 8, 4, 2 and 1 bytes.
template <class A, int BYTES> struct Part { typedef A type __attribute__((vector_size(BYTES))); };
template <class V> INLINE V larger_vector(V a, V b) { return a > b ? a : b; }
#if defined(X86)
#if SOFTCORE_VECTOR >= 32
template <class A> INLINE typename Part<A, 16>::type to_16(__m256i x) {
    typedef typename Part<A, 16>::type V;
    return larger_vector((V)_mm256_castsi256_si128(x), (V)_mm256_extracti128_si256(x, 1));
}
#else
template <class A> INLINE typename Part<A, 16>::type to_16(__m128i x) { return (typename Part<A, 16>::type)x; }
#endif
#if SOFTCORE_VECTOR == 64
template <class A> INLINE typename Part<A, 16>::type to_16(__m512i x) {
    typedef typename Part<A, 32>::type V;
    return to_16<A>((__m256i)larger_vector((V)_mm512_castsi512_si256(x), (V)_mm512_extracti64x4_epi64(x, 1)));
}
#endif
template <class A, int BYTES> INLINE typename Part<A, 16>::type fold_by(typename Part<A, 16>::type x) {
    typedef typename Part<A, 16>::type V;
    return BYTES < (int)sizeof(A) ? x : larger_vector((V)_mm_srli_si128((__m128i)x, BYTES), x);
}
template <class A> INLINE A largest_of(Pack<A, 1> x) { return fold_by<A, 1>(fold_by<A, 2>(fold_by<A, 4>(fold_by<A, 8>(to_16<A>((m_si)x.v)))))[0]; }
#else
template <class A> INLINE A largest_of(Pack<A, 1> x) {
    A m = x.v[0];
    for (unsigned i = 1; i < SOFTCORE_VECTOR / sizeof(A); i++) m = x.v[i] > m ? x.v[i] : m;
    return m;
}
#endif
template <class A, int N> INLINE A largest_of(Pack<A, N> x) { return largest_of(greater(x.lo, x.hi)); }
template <class S> INLINE acc<S> largest(Lanes<S> x) { return largest_of(x); }
// With -0 below +0, as `max` of lanes.
template <class S> INLINE acc<S> largest_signed(Lanes<S> x) {
    acc<S> a[lanes<S>()], m;
    store_pack(a, x);
    m = a[0];
    for (ptrdiff_t i = 1; i < lanes<S>(); i++) m = a[i] > m || (a[i] == m && std::signbit((double)m)) ? a[i] : m;
    return m;
}
#if SOFTCORE_VECTOR >= 32
INLINE float largest8(__m256 a) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
INLINE double largest4(__m256d a) {
    __m128d b = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(b, _mm_unpackhi_pd(b, b)));
}
#if SOFTCORE_VECTOR == 64
template <> INLINE float largest<float>(Lanes<float> x) { return largest8(_mm256_max_ps(_mm512_castps512_ps256((__m512)x.v), _mm512_extractf32x8_ps((__m512)x.v, 1))); }
template <> INLINE double largest<double>(Lanes<double> x) { return largest4(_mm256_max_pd(_mm512_castpd512_pd256((__m512d)x.v), _mm512_extractf64x4_pd((__m512d)x.v, 1))); }
#else
template <> INLINE float largest<float>(Lanes<float> x) { return largest8((__m256)greater(x.lo, x.hi).v); }
template <> INLINE double largest<double>(Lanes<double> x) { return largest4((__m256d)greater(x.lo, x.hi).v); }
#endif
template <> INLINE float largest<half>(Lanes<half> x) { return largest<float>(x); }
template <> INLINE float largest<bfloat16>(Lanes<bfloat16> x) { return largest<float>(x); }
#endif

// One bit for each byte of a mask.
#if SOFTCORE_VECTOR == 64
INLINE uint64_t bytes_set(m_si m) { return _mm512_movepi8_mask(m); }
#elif SOFTCORE_VECTOR == 32
INLINE uint64_t bytes_set(m_si m) { return (uint32_t)_mm256_movemask_epi8(m); }
#elif defined(X86)
INLINE uint64_t bytes_set(m_si m) { return (uint32_t)_mm_movemask_epi8(m); }
#else
INLINE uint64_t bytes_set(m_si m) {
    unsigned char b[sizeof m];
    uint64_t set = 0;
    std::memcpy(b, &m, sizeof m);
    for (unsigned i = 0; i < sizeof m; i++) set |= (uint64_t)(b[i] & 1) << i;
    return set;
}
#endif
template <class A> INLINE uint64_t bytes_set(Pack<A, 1> m) { return bytes_set((m_si)m.v); }
template <class A, int N> INLINE uint64_t bytes_set(Pack<A, N> m) { return bytes_set(m.lo) | bytes_set(m.hi) << sizeof m.lo; }

// Where the first (or last) of n elements equals v, or is NaN if v is; -1 if none does.
template <class S> inline ptrdiff_t find(const S *x, ptrdiff_t n, acc<S> v, bool last, const unsigned char *mask) {
    const Lanes<S> wanted = splat<S>(v);
    const ptrdiff_t L = lanes<S>(), full = mask ? 0 : n / L * L;
    const bool nan = v != v;
    auto same = [&](ptrdiff_t j) {
        acc<S> a = widen<S>(x[j]);
        return (nan ? a != a : a == v) && (!mask || mask[j]);
    };
    auto alike = [&](ptrdiff_t j) { Lanes<S> a = load<S>(x + j); return bytes_set(nan ? a != a : a == wanted); };
    ptrdiff_t j = 0;
    if (!last) {
        for (; j < full; j += L) if (uint64_t set = alike(j)) return j + __builtin_ctzll(set) / sizeof(acc<S>);
        while (j < n && !same(j)) j++;
        return j < n ? j : -1;
    }
    for (j = n; j > full; j--) if (same(j - 1)) return j - 1;
    for (; j > 0; j -= L) if (uint64_t set = alike(j - L)) return j - 1 - __builtin_clzll(set) / sizeof(acc<S>);
    return -1;
}
// The same of four Lanes that are known to have a v, and without a branch that could be guessed wrong.
template <class S, bool LAST> INLINE ptrdiff_t find_in_four(const S *x, acc<S> v) {
    const ptrdiff_t L = lanes<S>();
    const Lanes<S> wanted = splat<S>(v);
    uint64_t set = 0;
    ptrdiff_t j = 0;
    for (ptrdiff_t i = 0; i < 4; i++) {
        const ptrdiff_t at = LAST ? i : 3 - i;
        const uint64_t here = bytes_set(load<S>(x + at * L) == wanted);
        j = here ? at * L : j;
        set = here ? here : set;
    }
    return j + (LAST ? 63 - __builtin_clzll(set) : __builtin_ctzll(set)) / (ptrdiff_t)sizeof(acc<S>);
}

// The sum of all lanes in double, in one fixed tree: lane i meets i + 8 (float), then i + 4, i + 2, i + 1.  The
// kernels that walk columns add their accumulators in the same order.
template <class A> INLINE A tree(Pack<A, 1> a) {
    A t[SOFTCORE_VECTOR / sizeof(A)];
    std::memcpy(t, &a.v, sizeof t);
    for (unsigned w = SOFTCORE_VECTOR / sizeof(A) / 2; w; w /= 2)
        for (unsigned i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
}
#if SOFTCORE_VECTOR >= 32
INLINE double tree4(__m256d a) {
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}
#if SOFTCORE_VECTOR == 64
template <> INLINE double tree<double>(Pack<double, 1> a) { return tree4(_mm256_add_pd(_mm512_castpd512_pd256((__m512d)a.v), _mm512_extractf64x4_pd((__m512d)a.v, 1))); }
#else
template <> INLINE double tree<double>(Pack<double, 1> a) { return tree4((__m256d)a.v); }
#endif
#endif
template <class A, int N> INLINE A tree(Pack<A, N> a) { return tree(a.lo + a.hi); }
template <class S> INLINE double sum_lanes(Lanes<S> x) { return tree(to_double(x)); }
template <> INLINE double sum_lanes<double>(Lanes<double> x) { return tree(x); }

}  // namespace
}  // namespace softcore
