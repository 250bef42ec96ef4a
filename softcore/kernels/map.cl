// map.cl: what happens to one element alone, each function above its gradient, and sums of gradients over what was broadcast.

#define A(j) take0(t, a + at[0], j, n, 0)
#define B(j) take1(t, b + at[1], j, n, 0)
#define DEFINE_UNARY(name, expression)                                                                                 \
    __kernel void softcore_##name(Task task, const __global IN0 *a, __global OUT0 *y) {                                \
        OVER_UNITS(const V x = A(j); bring0(t, y + at[1], j, n, expression);)                                          \
    }
#define DEFINE_BINARY(name, expression)                                                                                \
    __kernel void softcore_##name(Task task, const __global IN0 *a, const __global IN1 *b, __global OUT0 *y) {         \
        OVER_UNITS(const V u = A(j), v = B(j); bring0(t, y + at[2], j, n, expression);)                                \
    }

// x in y's dtype: of floating dtypes rounded to the nearest.
#ifdef OP_copy
DEFINE_UNARY(copy, x)
#endif

// ---------------------------------------------------------------- maximum, relu, step

#ifdef OP_maximum
// Of zeros -0 is the smaller; other equal numbers have the same bits.
#if defined(FLOAT) || defined(DOUBLE)
FUNCTION V either(V u, V v) { return PASTE(as_, V_NAME)(PASTE(as_, PASTE(SIGNED, VEC))(u) & PASTE(as_, PASTE(SIGNED, VEC))(v)); }
DEFINE_BINARY(maximum, u == v ? either(u, v) : LARGER(u, v))
#else
DEFINE_BINARY(maximum, LARGER(u, v))
#endif
#endif
#ifdef OP_relu
DEFINE_UNARY(relu, x <= ZERO ? ZERO : x)
#endif

#if defined(FLOAT) || defined(DOUBLE)

#ifdef OP_relu_backward
DEFINE_BINARY(relu_backward, v > ZERO ? u : (v <= ZERO ? ZERO : CONSTANT(NAN)))
#endif
#ifdef OP_step
DEFINE_UNARY(step, x > ZERO ? ONE : (x <= ZERO ? ZERO : x))
#endif

// ---------------------------------------------------------------- sigmoid, log_sigmoid, softplus

FUNCTION V sigmoid_of(V x) {
    const V z = decay_of(x), top = x < ZERO ? z : CONSTANT(UNIT);
    return top / MAD(z, CONSTANT(1 / UNIT), ONE) * CONSTANT(1 / UNIT);
}
FUNCTION V log1p_decay(V x) { return log1p_unit(decay_of(x) * CONSTANT(1 / UNIT)); }

#ifdef OP_sigmoid
DEFINE_UNARY(sigmoid, sigmoid_of(x))
#endif
#ifdef OP_sigmoid_backward
DEFINE_BINARY(sigmoid_backward, u * (v * (ONE - v)))
#endif
#ifdef OP_log_sigmoid
DEFINE_UNARY(log_sigmoid, (x < ZERO ? x : ZERO) - log1p_decay(x))
#endif
#ifdef OP_log_sigmoid_backward
DEFINE_BINARY(log_sigmoid_backward, u * sigmoid_of(-v))
#endif
#ifdef OP_softplus
DEFINE_UNARY(softplus, (x > ZERO ? x : ZERO) + log1p_decay(x))
#endif
#ifdef OP_softplus_backward
DEFINE_BINARY(softplus_backward, u * sigmoid_of(v))
#endif

// ---------------------------------------------------------------- maximum_backward

#if defined(OP_maximum_backward) || defined(OP_maximum_backward_sum)

// The share of dy that goes to a: all, none, or half where the two are equal or both NaN.
FUNCTION V share_of_a(V dy, V a, V b) {
    const I equal = (a == b) | ((a != a) & (b != b)), larger = (a > b) | (a != a);
    return equal ? dy * CONSTANT(0.5) : (larger ? dy : ZERO);
}
FUNCTION V gradient(int i, V dy, V a, V b) { return i == 0 ? share_of_a(dy, a, b) : share_of_a(dy, b, a); }

#endif
#ifdef OP_maximum_backward

// OPTION says which gradients are wanted: bit 0 that of a, bit 1 that of b.
#if OUTPUTS > 1
#define SECOND_PARAMETER , __global OUT1 *db
#define PUT_SECOND put1(t, db + at[4], j, n, gradient(1, g, u, v));
#else
#define SECOND_PARAMETER
#define PUT_SECOND
#endif
KERNEL(maximum_backward)(Task task, const __global IN0 *dy, const __global IN1 *a, const __global IN2 *b, __global OUT0 *da SECOND_PARAMETER) {
    OVER_UNITS({
        const V g = take0(t, dy + at[0], j, n, 0), u = take1(t, a + at[1], j, n, 0), v = take2(t, b + at[2], j, n, 0);
        const V first = gradient(OPTION & 1 ? 0 : 1, g, u, v);
        PUT_SECOND
        put0(t, da + at[3], j, n, first);
    })
}

#endif
#ifdef OP_maximum_backward_sum

FUNCTION void sum_tile(const Task *t, const __global IN0 *dy, const __global IN1 *a, const __global IN2 *b, long j, long n, V *high,
                       V *low) {
    V e[4];
    FOUR(k) {
        const long i = j + k * STEP;
        e[k] = gradient(OPTION, take0(t, dy, i, n, 0), take1(t, a, i, n, 0), take2(t, b, i, n, 0));
    }
    add_tile(high, low, e);
}
// The sum of gradient OPTION over a row.
KERNEL(maximum_backward_sum)(Task task, const __global IN0 *dy, const __global IN1 *a, const __global IN2 *b, __global OUT0 *da) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        ACCUMULATORS(high, low)
        OVER_TILES(sum_tile(t, dy + at[0], a + at[1], b + at[2], j, end, high + chain, low + chain))
        Sum s = sum_lanes(high, low);
        OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
        if (LANE == 0 && n) set0(da + at[3], total(s));
    }
}

#endif

#endif
