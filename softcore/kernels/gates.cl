// gates.cl: gates and gated linear units with their gradients, element by element. The formulas and their reasons are those of gates.h.

// ---------------------------------------------------------------- products that neither overflow nor vanish on the way

// What decays with exp(-u) is kept 2^HEADROOM larger where it is far out, so that it has all its bits until the last
// multiplication, by `tail`: 2^-HEADROOM there and 1 elsewhere.
FUNCTION V times_tail(V a, V b, V tail) { return magnitude(a) > ONE ? (a * tail) * b : (a * b) * tail; }
// 2 a b c * tail, for c of at most 1: the larger of a and b meets c, which cannot overflow; if that vanishes, so does the rest.
FUNCTION V twice_product(V a, V b, V c, V tail) {
    const I first = magnitude(a) > magnitude(b);
    const V m = times_tail(first ? b : a, (first ? a : b) * c, tail);
    return m + m;
}
// c + a * b where the two nearly cancel.
#ifdef HAS_FMA
#define near_cancel(a, b, c) MAD(a, b, c)
#else
FUNCTION V near_cancel(V a, V b, V c) {
    V error, p = two_product(a, b, &error);
    return (c + p) + error;
}
#endif

// ---------------------------------------------------------------- the two shares of a sigmoid

// exp(t + low) / tail in two parts, for t <= 0; 0 below the reach of the headroom.
typedef struct { V high, low, tail; } Decay;
FUNCTION Decay decay_in_two(V t, V low) {
    const I far = t < CONSTANT(-HEADROOM * LN2_HIGH), gone = t < CONSTANT(LOWEST);
    V lost;
    const V magic = far ? CONSTANT(MAGIC + BIAS + HEADROOM) : CONSTANT(MAGIC + BIAS);
    const V e = exp_in_two(gone ? CONSTANT(LOWEST) : t, gone ? ZERO : low, magic, &lost);
    const Decay d = {gone ? ZERO : e, lost, far ? CONSTANT(1 / UNIT) : ONE};
    return d;
}
// sigmoid(|r|) and sigmoid(-|r|) / tail.
typedef struct { V major, minor, tail; } Shares;
FUNCTION Shares shares_of(Decay d) {
    const V z = d.high * d.tail, sum = ONE + z, w = ONE / sum;
    const V sum_low = MAD(d.low, d.tail, (ONE - sum) + z);
    const V major = MAD(w, MAD(-sum_low, w, near_cancel(-sum, w, ONE)), w);
    const Shares s = {major, d.high * major, d.tail};
    return s;
}
FUNCTION Shares shares(V u) { return shares_of(decay_in_two(-u, ZERO)); }

// ---------------------------------------------------------------- gate

// The first number whose sigmoid rounds to 1, and the last whose sigmoid rounds to 0.
#ifdef DOUBLE
#define ROUNDS_TO_1 0x1.2b708872320e2p+5
#define ROUNDS_TO_0 -0x1.74910d52d3052p+9
#define LARGEST 0x1.fffffffffffffp+1023
#else
#define ROUNDS_TO_1 0x1.154246p+4f
#define ROUNDS_TO_0 -0x1.9fe36ap+6f
#define LARGEST 0x1.fffffep+127f
#endif
FUNCTION I is_settled(V r) { return (r >= CONSTANT(ROUNDS_TO_1)) | (r <= CONSTANT(ROUNDS_TO_0)); }

// What is neither far open nor far closed takes a plain way, by exp(-|r|), unless a product on it would overflow or vanish, and the rest a
// careful one. They are told apart element by element, so that no result depends on its neighbours.
#ifdef DOUBLE
#define PLAIN_LEAST 0x1p-964
#else
#define PLAIN_LEAST 0x1p-97f
#endif
#define PLAIN_MOST (LARGEST / 8)
FUNCTION V plain_decay(V r) { return exp_offset(-magnitude(r), CONSTANT(MAGIC + BIAS)); }
FUNCTION I is_far(V r) { return magnitude(r) >= CONSTANT(ROUNDS_TO_1); }
FUNCTION I is_small(V a) { return magnitude(a) < CONSTANT(PLAIN_LEAST); }
FUNCTION I is_large(V a) { return magnitude(a) >= CONSTANT(PLAIN_MOST); }
// Whether some lane is true. OpenCL's `any` is a function that PoCL 3.0 calls, and every register with a constant is saved around it.
#if defined(__AVX__) && VEC == 8 && defined(FLOAT) && defined(__OPTIMIZE__)
FUNCTION bool some(I is) {
    typedef float Signs __attribute__((vector_size(32)));
    return __builtin_ia32_movmskps256(__builtin_astype(is, Signs)) != 0;
}
#else
FUNCTION bool some(I is) { return largest_lane(is ? ONE : ZERO) > 0; }
#endif

#ifdef OP_gate

// The result lies between the branches, and a rounding must not carry it beyond the largest number.
RARE V careful_gate(V x, V y, V r) {
    const I low = r < ZERO;
    const Shares s = shares(magnitude(r));
    const V chosen = low ? y : x, other = low ? x : y, f = MAD(chosen, s.major, (other * s.minor) * s.tail);
    const V high = chosen > other ? chosen : other, least = chosen > other ? other : chosen;
    return is_settled(r) ? chosen : f > high ? high : f < least ? least : f;
}
FUNCTION V gate_of(V x, V y, V r) {
    const I low = r < ZERO;
    const V z = plain_decay(r), sum = MAD(low ? x : y, z, low ? y : x), f = sum / (z + ONE);
    const I odd = is_far(r) | is_large(sum);
    if (!some(odd)) return f;
    return odd ? careful_gate(x, y, r) : f;
}
KERNEL(gate)(Task task, const __global IN0 *x, const __global IN1 *y, const __global IN2 *r, __global OUT0 *f) {
    OVER_UNITS(bring0(t, f + at[3], j, n, gate_of(take0(t, x + at[0], j, n, 0), take1(t, y + at[1], j, n, 0), take2(t, r + at[2], j, n, 0)));)
}

#endif
#if defined(OP_gate_backward) || defined(OP_gate_backward_sum)

// The gradients of x, y and r. A difference of huge numbers is halved, and the product is not doubled then.
RARE void careful_gradients(V df, V x, V y, V r, V *d) {
    const I low = r < ZERO, settled = is_settled(r);
    const I huge = (magnitude(x) > CONSTANT(LARGEST / 4)) | (magnitude(y) > CONSTANT(LARGEST / 4));
    const Shares s = shares(magnitude(r));
    const V by = huge ? CONSTANT(0.5) : ONE, product = s.major * s.minor;
    const V slope = twice_product(df, x * by - y * by, huge ? product : product * CONSTANT(0.5), s.tail);
    const V chosen = settled ? df : df * s.major, other = settled ? ZERO : (df * s.minor) * s.tail;
    d[0] = low ? other : chosen;
    d[1] = low ? chosen : other;
    d[2] = settled ? ZERO : slope;
}
FUNCTION void gate_gradients(V df, V x, V y, V r, V *d) {
    const I low = r < ZERO;
    const V z = plain_decay(r), sum = z + ONE, w = ONE / sum;
    const V major = MAD(w, MAD((sum - ONE) - z, w, near_cancel(-sum, w, ONE)), w), minor = z * major;
    const V chosen = df * major, other = df * minor, across = x - y;
    d[0] = low ? other : chosen;
    d[1] = low ? chosen : other;
    d[2] = (chosen * minor) * across;
    const I large = ~(magnitude(df * across) < CONSTANT(PLAIN_MOST));  // or NaN, of 0 times infinity
    const I odd = is_far(r) | (is_small(df) & (df != ZERO)) | large;
    if (!some(odd)) return;
    V careful[3];
    careful_gradients(df, x, y, r, careful);
    for (int i = 0; i < 3; i++) d[i] = odd ? careful[i] : d[i];
}
#define GRADIENTS(j, n, d) gate_gradients(take0(t, df, j, n, 0), take1(t, x, j, n, 0), take2(t, y, j, n, 0), take3(t, r, j, n, 0), d)

#endif
#ifdef OP_gate_backward

// OPTION has a bit for each gradient that is wanted: those of x, y and r, in this order.
#if OUTPUTS > 1
#define SECOND_PARAMETER , __global OUT1 *d1
#define PUT_SECOND put1(t, d1 + at[5], j, n, (OPTION & 3) == 3 ? d[1] : d[2]);
#else
#define SECOND_PARAMETER
#define PUT_SECOND
#endif
#if OUTPUTS > 2
#define THIRD_PARAMETER , __global OUT2 *d2
#define PUT_THIRD put2(t, d2 + at[6], j, n, d[2]);
#else
#define THIRD_PARAMETER
#define PUT_THIRD
#endif
KERNEL(gate_backward)(Task task, const __global IN0 *df, const __global IN1 *x, const __global IN2 *y, const __global IN3 *r,
                      __global OUT0 *d0 SECOND_PARAMETER THIRD_PARAMETER) {
    OVER_UNITS({
        V d[3];
        gate_gradients(take0(t, df + at[0], j, n, 0), take1(t, x + at[1], j, n, 0), take2(t, y + at[2], j, n, 0), take3(t, r + at[3], j, n, 0), d);
        put0(t, d0 + at[4], j, n, OPTION & 1 ? d[0] : OPTION & 2 ? d[1] : d[2]);
        PUT_SECOND
        PUT_THIRD
    })
}

#endif
#ifdef OP_gate_backward_sum

FUNCTION void sum_tile(const Task *t, const __global IN0 *df, const __global IN1 *x, const __global IN2 *y, const __global IN3 *r, long j,
                       long n, V *high, V *low) {
    V e[4], d[3];
    FOUR(k) {
        GRADIENTS(j + k * STEP, n, d);
        e[k] = d[OPTION];
    }
    add_tile(high, low, e);
}
// The sum of gradient OPTION over a row.
KERNEL(gate_backward_sum)(Task task, const __global IN0 *df, const __global IN1 *x, const __global IN2 *y, const __global IN3 *r,
       __global OUT0 *d) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        ACCUMULATORS(high, low)
        OVER_TILES(sum_tile(t, df + at[0], x + at[1], y + at[2], r + at[3], j, end, high + chain, low + chain))
        Sum s = sum_lanes(high, low);
        OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
        if (LANE == 0 && n) set0(d + at[4], total(s));
    }
}

#endif

// ---------------------------------------------------------------- glu

#if defined(OP_glu) || defined(OP_glu_backward)

#define BY_SIGMOID 0
#define BY_SILU 1
#define BY_GELU 2
#define BY_GELU_TANH 3
#define BY_RELU 4
#define BY_NOTHING 5
#define FAR_OUT 1e4f  // beyond it nothing bends

#if OPTION == BY_GELU

// The distribution function of the normal distribution at -u is exp(-u^2 / 2) times R(u), half the scaled complementary error
// function; and R(u) (u + c) is a polynomial in v = (u - c) / (u + c), to 2^-27 for floats and 2^-57 for doubles.
#define PER_ROOT_2PI 0.39894228040143267794
#define CENTRE 3.125
#ifdef DOUBLE
#define TERMS 26
__constant double TAIL[TERMS] = {
    0.7334536297658464, -0.5249629920509298, 0.2526617700670369, -0.0638274204611504, -0.005330864627985874, 0.008007587896629411,
    -4.606988246335483e-05, -0.0011657495661675042, -4.348938329914707e-05, 0.00019828610030095937, 3.801199831041082e-05,
    -3.165309268371329e-05, -1.5464388517394268e-05, 2.5992198409914326e-06, 4.331790201465749e-06, 8.848427446479572e-07,
    -7.46177222667624e-07, -5.229176857088673e-07, -1.4136015809754943e-10, 1.384214831070801e-07, 3.848404484439806e-08,
    -1.9927121708432204e-08, -6.9746175675446796e-09, 2.3553185055055496e-09, -3.3172520909860533e-10, -6.223301747168558e-10};
#else
#define TERMS 11
__constant float TAIL[TERMS] = {
    0.733453631401062f, -0.5249630212783813f, 0.25266170501708984f, -0.06382676959037781f, -0.005330922082066536f, 0.00800267979502678f,
    -4.2819494410650805e-05f, -0.0011472267797216773f, -5.225466884439811e-05f, 0.00016120023792609572f, 3.751566691789776e-05f};
#endif
typedef struct { V high, low; } Two;
// R(u) in two parts: the roundings after that of the polynomial are carried along.
FUNCTION Two scaled_tail(V u) {
    V sum_low, low, sum = two_sum(u, CONSTANT(CENTRE), &sum_low), w = ONE / sum;
    const V rest = MAD(-sum_low, w, near_cancel(-sum, w, ONE)), twice = CONSTANT(-2 * CENTRE);
    const V v = MAD(w * rest, twice, MAD(w, twice, ONE));
    V q = CONSTANT(TAIL[TERMS - 1]);
    for (int i = TERMS - 2; i > 0; i--) q = MAD(q, v, CONSTANT(TAIL[i]));
    const V p = MAD(q, v, CONSTANT(TAIL[0])), p_low = near_cancel(q, v, CONSTANT(TAIL[0]) - p);
    const V high = two_product(p, w, &low);
    const Two r = {high, MAD(high, rest, MAD(p_low, w, low))};
    return r;
}
// exp(-u^2 / 2) / tail, in two parts.
FUNCTION Decay bell(V u) {
    V error, square = two_product(u, u, &error);
    return decay_in_two(square * CONSTANT(-0.5), error * CONSTANT(-0.5));
}

#endif
#if OPTION == BY_GELU_TANH

// What the approximation of gelu by tanh takes the sigmoid of, u = 2 sqrt(2 / pi) (b + 0.044715 b^3), as b times this, in two
// parts: far out the exponential of a rounding error would show.
#ifdef DOUBLE
#define BEND 0x1.9884533d43651p+0
#define BEND_LOW -0x1.cbc0d30ebfd15p-54
#define CUBIC 0x1.2444f2a4d8b4bp-4
#define CUBIC_LOW -0x1.3023b0e5fbc6ep-58
#else
#define BEND 0x1.988454p+0f
#define BEND_LOW -0x1.857936p-25f
#define CUBIC 0x1.2444f2p-4f
#define CUBIC_LOW 0x1.49b16ap-29f
#endif
FUNCTION Shares shares_by_tanh(V u) {
    V square_low, cube_low, sum_low, low, square = two_product(u, u, &square_low), cube = two_product(square, CONSTANT(CUBIC), &cube_low);
    cube_low = MAD(square_low, CONSTANT(CUBIC), MAD(square, CONSTANT(CUBIC_LOW), cube_low));
    const V sum = two_sum(cube, CONSTANT(BEND), &sum_low), high = two_product(u, sum, &low);
    return shares_of(decay_in_two(-high, -MAD(u, (sum_low + cube_low) + CONSTANT(BEND_LOW), low)));
}
#define SHARES(u) shares_by_tanh(u)
#else
#define SHARES(u) shares(u)
#endif

// value * tail.
typedef struct { V value, tail; } Tailed;
// A decaying share for b < 0, a growing one elsewhere.
FUNCTION Tailed at_side(V b, V low, V high, V tail) {
    const Tailed a = {b < ZERO ? low : high, b < ZERO ? tail : ONE};
    return a;
}
FUNCTION V magnitude_within(V b) {
    const V u = magnitude(b);
    return u > CONSTANT(FAR_OUT) ? CONSTANT(FAR_OUT) : u;
}
// The activation of b, at -inf its limit.
FUNCTION Tailed activation_of(V b) {
    const V u = magnitude_within(b);
#if OPTION == BY_NOTHING
    const Tailed a = {b, ONE};
#elif OPTION == BY_RELU
    const Tailed a = {b <= ZERO ? ZERO : b, ONE};  // -0 becomes 0
#elif OPTION == BY_GELU  // u Phi(-u), or what is left of u without it
    const Decay e = bell(u);
    const Two r = scaled_tail(u);
    V low, high = two_product(r.high, e.high, &low);
    const V g = MAD(u, high, u * MAD(r.high, e.low, MAD(r.low, e.high, low)));
    const Tailed a = at_side(b, -g, b - g * e.tail, e.tail);
#else
    const Shares s = SHARES(u);
    Tailed a = at_side(b, s.minor, s.major, s.tail);
#if OPTION != BY_SIGMOID
    a.value = (CONSTANT(-FAR_OUT) > b ? CONSTANT(-FAR_OUT) : b) * a.value;
#endif
#endif
    return a;
}
FUNCTION V careful_product(V a, V b) {
    const Tailed f = activation_of(b);
#if OPTION == BY_RELU || OPTION == BY_NOTHING
    return a * f.value;
#elif OPTION == BY_SILU  // half of a subnormal would lose a bit before it meets a
    return magnitude(b) < CONSTANT(PLAIN_LEAST) ? (a * b) * CONSTANT(0.5) : times_tail(a, f.value, f.tail);
#else
    return times_tail(a, f.value, f.tail);
#endif
}
#if OPTION == BY_SIGMOID || OPTION == BY_SILU
// They take the plain way of a gate too.
FUNCTION V times_plain_share(V product, V b, V z) { return product * (b < ZERO ? z : ONE) / (ONE + z); }
#if OPTION == BY_SILU
#define SHARED(a, b) ((a) * (b))  // what the share multiplies
#else
#define SHARED(a, b) (a)
#endif
#endif

#endif
#ifdef OP_glu

#if OPTION == BY_SIGMOID || OPTION == BY_SILU
RARE V odd_glu(V a, V b) { return careful_product(a, b); }
FUNCTION V glu_of(V a, V b) {
    const V product = SHARED(a, b), y = times_plain_share(product, b, plain_decay(b));
    const I odd = is_far(b) | (is_small(product) & (a != ZERO) & (b != ZERO)) | is_large(product);
    if (!some(odd)) return y;
    return odd ? odd_glu(a, b) : y;
}
#else
#define glu_of careful_product
#endif
KERNEL(glu)(Task task, const __global IN0 *a, const __global IN1 *b, __global OUT0 *y) {
    OVER_UNITS(bring0(t, y + at[2], j, n, glu_of(take0(t, a + at[0], j, n, 0), take1(t, b + at[1], j, n, 0)));)
}

#endif
#ifdef OP_glu_backward

// Half the derivative of the activation, at infinities its limit.
FUNCTION Tailed half_slope_of(V b) {
    const V one_half = CONSTANT(0.5), u = magnitude_within(b);
#if OPTION == BY_NOTHING
    const Tailed a = {one_half, ONE};
#elif OPTION == BY_RELU
    const Tailed a = {b > ZERO ? one_half : (b != b ? b : ZERO), ONE};
#elif OPTION == BY_GELU  // Phi + b phi, which at b and -b make 1
    const Decay e = bell(u);
    const Two r = scaled_tail(u);
    const V h = (e.high * one_half) * (MAD(u, CONSTANT(-PER_ROOT_2PI), r.high) + r.low);
    const Tailed a = at_side(b, h, one_half - h * e.tail, e.tail);
#elif OPTION == BY_SIGMOID
    const Shares s = SHARES(u);
    const Tailed a = {s.major * s.minor * one_half, s.tail};
#else  // s + b s (1 - s) u', where u is what the sigmoid s is taken of
    const Shares s = SHARES(u);
#if OPTION == BY_GELU_TANH
    const V v = u * MAD(u * u, CONSTANT(3 * CUBIC), CONSTANT(BEND));
#else
    const V v = u;
#endif
    const Tailed a = at_side(b, (s.minor * one_half) * (ONE - v * s.major), (s.major * one_half) * MAD(v, s.minor * s.tail, ONE), s.tail);
#endif
    return a;
}
FUNCTION void careful_products(V dy, V a, V b, V *d) {
    const Tailed f = half_slope_of(b);
    d[0] = careful_product(dy, b);
    d[1] = twice_product(dy, a, f.value, f.tail);
}
#if defined(FLOAT) && (OPTION == BY_SIGMOID || OPTION == BY_SILU)  // of doubles the plain slope would be off by 4.6 units
RARE void odd_products(V dy, V a, V b, V *d) { careful_products(dy, a, b, d); }
FUNCTION void glu_gradients(V dy, V a, V b, V *d) {
    const V z = plain_decay(b), sum = ONE + z, share = b < ZERO ? z : ONE, other = b < ZERO ? ONE : z;
#if OPTION == BY_SILU  // of b s: s + b s (1 - s)
    const V slope = share * MAD(b, other, sum) / (sum * sum);
#else
    const V slope = share * other / (sum * sum);
#endif
    const V to_a = SHARED(dy, b), to_b = dy * a;
    d[0] = times_plain_share(to_a, b, z);
    d[1] = to_b * slope;
    const I lost = (is_small(to_a) & (b != ZERO)) | (is_small(to_b) & (a != ZERO));
    const I odd = is_far(b) | (lost & (dy != ZERO)) | is_large(to_a) | is_large(to_b);
    if (!some(odd)) return;
    V careful[2];
    odd_products(dy, a, b, careful);
    for (int i = 0; i < 2; i++) d[i] = odd ? careful[i] : d[i];
}
#else
#define glu_gradients careful_products
#endif
KERNEL(glu_backward)(Task task, const __global IN0 *dy, const __global IN1 *a, const __global IN2 *b, __global OUT0 *da,
       __global OUT1 *db) {
    OVER_UNITS({
        V d[2];
        glu_gradients(take0(t, dy + at[0], j, n, 0), take1(t, a + at[1], j, n, 0), take2(t, b + at[2], j, n, 0), d);
        put0(t, da + at[3], j, n, d[0]);
        put1(t, db + at[4], j, n, d[1]);
    })
}

#endif
