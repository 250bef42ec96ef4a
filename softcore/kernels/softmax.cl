// softmax.cl: softmax, log_softmax and logsumexp, each forward above its backward, on the state (m, l): see softcore/fold.py.
//
// A row of n elements of x gives a row of y, or one y; dy and y, dx likewise.
//
// number[0] is a factor of x that is exact: 1, the sign of a negative scale, or a scale that is 0 or not finite. number[1] + number[2]
// is the scale, positive, and number[3] the scale as it was given. Without SCALED all of them are 1.

#if defined(OP_softmax) || defined(OP_log_softmax) || defined(OP_logsumexp)

// Elements j to j + VEC of x; what lies past the end is the empty state's -inf.
static V elements(const Task *t, const __global IN0 *row, long j, long n) {
    V v = take0(t, row, j, n, -INFINITY);
#ifdef SCALED
    v = v * CONSTANT(t->number[0]);
    for (int k = 0; k < VEC; k++)
        if (j + k >= n) ((ACC *)&v)[k] = -INFINITY;
#endif
    return v;
}
#define X(j) HIDE(elements(t, x + at[0], j, n), j, -INFINITY)

// scale (x - m) and what that lost. Where x is infinite or far away the loss says nothing, and decay does not look at it.
static V scaled_difference(const Task *t, V x, V m, V *low) {
    V rest, d = two_sum(x, -m, &rest);
#ifdef SCALED
    V error, p = two_product(d, CONSTANT(t->number[1]), &error);
    *low = error + (rest * CONSTANT(t->number[1]) + d * CONSTANT(t->number[2]));
    return p;
#else
    *low = rest;
    return d;
#endif
}

// The largest element of a row; of NaN the sums that follow will tell.
#define MAX_OF_ROW(m)                                                                                                  \
    {                                                                                                                  \
        V top[4] = {CONSTANT(-INFINITY), CONSTANT(-INFINITY), CONSTANT(-INFINITY), CONSTANT(-INFINITY)};               \
        for (long j = LANE * VEC; j < n; j += TILE)                                                                    \
            for (int k = 0; k < 4; k++) {                                                                              \
                const V v = X(j + k * STEP);                                                                           \
                top[k] = v > top[k] ? v : top[k];                                                                      \
            }                                                                                                          \
        top[0] = top[1] > top[0] ? top[1] : top[0];                                                                    \
        top[2] = top[3] > top[2] ? top[3] : top[2];                                                                    \
        m = largest_lane(top[2] > top[0] ? top[2] : top[0]);                                                           \
        OVER_GROUP(highs, m, highs[other] > highs[own] ? highs[other] : highs[own])                                    \
    }
// The sum over the work-items of a row.
#define SUM_OVER_GROUP(s)                                                                                              \
    OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))

#endif

// ---------------------------------------------------------------- softmax

#ifdef OP_softmax

// In what unit exponentials are summed: exp(scale (x - origin)) 2^(HEADROOM - k). Where |scale m| is small the origin is 0 and k alone
// follows m: x itself is reduced by multiples of ln 2, and no bit is lost in forming x - m. Elsewhere the origin is m, and x - m is
// exact by Sterbenz' lemma for every x that matters. Without a finite m the origin is 0.
typedef struct { V origin, magic, lowest; } Frame;
static Frame frame_of(const Task *t, ACC m) {
    ACC z = m, origin = 0, k = 0;
#ifdef SCALED
    z = m * t->number[1];
#endif
    if (z < NEAR && z > -NEAR)
        k = (z * LOG2E + MAGIC) - MAGIC;
    else if (m - m == 0)
        origin = m;
    const Frame f = {CONSTANT(origin), CONSTANT(MAGIC + BIAS + HEADROOM - k), CONSTANT((ACC)(LOWEST + k * LN2_HIGH))};
    return f;
}
static V exp_in_frame(const Task *t, V x, const Frame *f) {
#ifdef SCALED
    V low, z = scaled_difference(t, x, f->origin, &low);
    const I far = z < f->lowest;
    return exp_offset(far ? f->lowest : z, far ? CONSTANT(0) : low, f->magic);
#else
    const V z = x - f->origin;
    return exp_offset(z < f->lowest ? f->lowest : z, CONSTANT(0), f->magic);
#endif
}
__kernel void softmax(const Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
    FOR_ROWS {
        ACC m;
        MAX_OF_ROW(m)
        const Frame f = frame_of(t, m);
        V high = CONSTANT(0), low = CONSTANT(0);
        for (long j = LANE * VEC; j < n; j += TILE) {
            V e[4];
            for (int k = 0; k < 4; k++) e[k] = exp_in_frame(t, X(j + k * STEP), &f);
            add_tile(&high, &low, e);
        }
        Sum l = sum_lanes(high, low);
        SUM_OVER_GROUP(l)
        const V inverse = CONSTANT(m == -INFINITY ? NAN : 1 / total(l));
        for (long j = LANE * VEC; j < n; j += STEP) put0(t, y + at[1], j, n, HIDE(exp_in_frame(t, X(j), &f) * inverse, j, 0));
    }
}

#endif
#ifdef OP_softmax_backward

__kernel void softmax_backward(const Task task, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        V high = CONSTANT(0), low = CONSTANT(0);
        for (long j = LANE * VEC; j < n; j += TILE) {
            V e[4];
            for (int k = 0; k < 4; k++) {
                const long at_j = j + k * STEP;
                e[k] = HIDE(take0(t, dy + at[0], at_j, n, 0) * take1(t, y + at[1], at_j, n, 0), at_j, 0);
            }
            add_tile(&high, &low, e);
        }
        Sum s = sum_lanes(high, low);
        OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
        const V dot = CONSTANT(total(s));
        for (long j = LANE * VEC; j < n; j += STEP) {
            V v = take1(t, y + at[1], j, n, 0) * (take0(t, dy + at[0], j, n, 0) - dot);
#ifdef SCALED
            v = CONSTANT(t->number[3]) * v;
#endif
            put0(t, dx + at[2], j, n, HIDE(v, j, 0));
        }
    }
}

#endif

// ---------------------------------------------------------------- log_softmax and logsumexp

#if (defined(OP_log_softmax) || defined(OP_logsumexp)) && !defined(WEIGHTED)

// log(count + s): the elements that equal the maximum are counted, and only the others added, so that what is small beside 1 is kept.
static ACC log_of_sum(long count, Sum s) {
    const ACC high = s.high * (ACC)(1 / UNIT), low = s.low * (ACC)(1 / UNIT);
    if (count == 1 && high < (ACC)0.4) return lane0(log_of(CONSTANT(1), CONSTANT(high), CONSTANT(low)));
    Sum whole = {(ACC)count, 0}, part = {high, low};
    whole = add_sums(whole, part);
    return lane0(log_of(CONSTANT(whole.high), CONSTANT(0), CONSTANT(whole.low)));
}
#define FOLD_OF_ROW(m, log)                                                                                            \
    ACC m, log;                                                                                                        \
    MAX_OF_ROW(m)                                                                                                      \
    {                                                                                                                  \
        V high = CONSTANT(0), low = CONSTANT(0);                                                                       \
        I equal = (I)(0);                                                                                              \
        for (long j = LANE * VEC; j < n; j += TILE) {                                                                  \
            V e[4];                                                                                                    \
            for (int k = 0; k < 4; k++) {                                                                              \
                const V v = X(j + k * STEP);                                                                           \
                const I top = v == CONSTANT(m);                                                                        \
                V lost, z = scaled_difference(t, v, CONSTANT(m), &lost);                                               \
                equal = equal - top;                                                                                   \
                e[k] = top ? CONSTANT(0) : decay(z, lost);                                                             \
            }                                                                                                          \
            add_tile(&high, &low, e);                                                                                  \
        }                                                                                                              \
        Sum l = sum_lanes(high, low);                                                                                  \
        SUM_OVER_GROUP(l)                                                                                              \
        long count = 0;                                                                                                \
        for (int k = 0; k < VEC; k++) count += ((SIGNED *)&equal)[k];                                                  \
        OVER_GROUP(counts, count, counts[own] + counts[other])                                                         \
        log = total(l) != total(l) ? NAN : log_of_sum(count, l);                                                       \
    }

#endif
#ifdef OP_log_softmax

__kernel void log_softmax(const Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
    SCRATCH(long, counts)
    FOR_ROWS {
        FOLD_OF_ROW(m, log)
        const V shift = CONSTANT(log + (m - m));  // NaN for a row that has no softmax
        for (long j = LANE * VEC; j < n; j += STEP) {
            V low, z = scaled_difference(t, X(j), CONSTANT(m), &low);
            low = low != low ? CONSTANT(0) : low;
            put0(t, y + at[1], j, n, HIDE((z - shift) + low, j, -INFINITY));
        }
    }
}

#endif
#ifdef OP_log_softmax_backward

__kernel void log_softmax_backward(const Task task, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        V high = CONSTANT(0), low = CONSTANT(0);
        for (long j = LANE * VEC; j < n; j += TILE) {
            V e[4];
            for (int k = 0; k < 4; k++) e[k] = HIDE(take0(t, dy + at[0], j + k * STEP, n, 0), j + k * STEP, 0);
            add_tile(&high, &low, e);
        }
        Sum s = sum_lanes(high, low);
        OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
        const ACC sum = total(s);
        for (long j = LANE * VEC; j < n; j += STEP) {
            const V z = take1(t, y + at[1], j, n, 0);
            V share = exp_of(z, CONSTANT(0));
            // A share is positive, however small: times an infinite sum it is infinite.
            if (isinf(sum)) share = z > CONSTANT(-INFINITY) ? CONSTANT(1) : share;
            V v = take0(t, dy + at[0], j, n, 0) - share * CONSTANT(sum);
#ifdef SCALED
            v = CONSTANT(t->number[3]) * v;
#endif
            put0(t, dx + at[2], j, n, HIDE(v, j, 0));
        }
    }
}

#endif
#if defined(OP_logsumexp) && !defined(WEIGHTED)

__kernel void logsumexp(const Task task, const __global IN0 *x, __global OUT0 *y
#if OUTPUTS > 1
                        , __global OUT1 *sign
#endif
                        MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
    SCRATCH(long, counts)
    FOR_ROWS {
        FOLD_OF_ROW(m, log)
        if (LANE == 0 && n) {
            set0(y + at[1], log != log ? log : m - m == 0 ? m + log : m);
#if OUTPUTS > 1
            set1(sign + at[2], log != log ? log : m == -INFINITY ? 0 : 1);
#endif
        }
    }
}

#endif
#if defined(OP_logsumexp) && defined(WEIGHTED)

// The same with weights b of either sign. An element whose weight is 0 does not count; an infinite weight makes any positive
// exponential infinite, and of -inf the exponential is exactly 0.
__kernel void logsumexp(const Task task, const __global IN0 *x, const __global IN1 *b, __global OUT0 *y
#if OUTPUTS > 1
                        , __global OUT1 *sign
#endif
                        MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
    FOR_ROWS {
        ACC m = -INFINITY;
        for (long j = LANE * VEC; j < n; j += STEP) {
            const V v = HIDE(take1(t, b + at[1], j, n, 0) == CONSTANT(0) ? CONSTANT(-INFINITY) : X(j), j, -INFINITY);
            const ACC a = largest_lane(v);
            m = a > m ? a : m;
        }
        OVER_GROUP(highs, m, highs[other] > highs[own] ? highs[other] : highs[own])
        const ACC shift = m - m == 0 ? m : 0;
        V high = CONSTANT(0), low = CONSTANT(0);
        for (long j = LANE * VEC; j < n; j += TILE) {
            V e[4];
            for (int k = 0; k < 4; k++) {
                const long at_j = j + k * STEP;
                const V weight = HIDE(take1(t, b + at[1], at_j, n, 0), at_j, 0), v = X(at_j);
                V lost, z = scaled_difference(t, v, CONSTANT(shift), &lost);
                V term = m == INFINITY ? (v == v ? CONSTANT(1) : v) : decay(z, lost) * CONSTANT(1 / UNIT);
                term = v == CONSTANT(INFINITY) ? v : v == CONSTANT(-INFINITY) ? CONSTANT(0) : term;
                e[k] = weight == CONSTANT(0) ? CONSTANT(0) : weight * term;
            }
            add_tile(&high, &low, e);
        }
        Sum l = sum_lanes(high, low);
        SUM_OVER_GROUP(l)
        if (LANE == 0 && n) {
            const ACC sum = total(l), size = fabs(sum);
            const bool near = size > (ACC)0.8 && size < (ACC)1.2;
            const ACC one = near ? 1 : 0, s = sum < 0 ? -1 : 1;
            ACC log = lane0(log_of(CONSTANT(one), CONSTANT(s * l.high - one), CONSTANT(s * l.low)));
            log = size == 0 ? -INFINITY : sum - sum == 0 ? shift + log : size;
#if OUTPUTS > 1
            set1(sign + at[3], sum != sum ? sum : sum == 0 ? 0 : s);
#else
            log = sum < 0 ? NAN : log;
#endif
            set0(y + at[2], log);
        }
    }
}

#endif
#ifdef OP_logsumexp_backward

// dy and y hold one value a row.
__kernel void logsumexp_backward(const Task task, const __global IN0 *dy, const __global IN1 *x, const __global IN2 *y,
#ifdef WEIGHTED
                                 const __global IN3 *b,
#endif
                                 __global OUT0 *dx MASK_PARAMETER) {
    const Task *t = &task;
    FOR_ROWS {
        const ACC g = n ? value0(dy + at[0]) : 0, lse = n ? value2(y + at[2]) : 0;
        for (long j = LANE * VEC; j < n; j += STEP) {
            V low, z = two_sum(take1(t, x + at[1], j, n, 0), CONSTANT(-lse), &low);
            V v = CONSTANT(g) * (lse == -INFINITY ? CONSTANT(0) : exp_of(z, low));
#ifdef WEIGHTED
            const V weight = take3(t, b + at[3], j, n, 0);
            v = weight == CONSTANT(0) ? weight : weight * v;
#endif
            put0(t, dx + at[INPUTS], j, n, HIDE(v, j, 0));
        }
    }
}

#endif
