// softmax.cl: softmax, log_softmax and logsumexp, each forward above its backward, on the state (m, l) of state.cl, where the
// numbers of a task are told.
//
// A row of n elements of x gives a row of y, or one y; dy and y, dx likewise.

// ---------------------------------------------------------------- softmax

#ifdef OP_softmax

FUNCTION void exponentials_of(const Task *t, const __global IN0 *x MASK_PARAMETER, long j, long n, const Frame *f, V *e) {
    FOUR(k) e[k] = X(j + k * STEP);
    exps_in_frame(t, e, f);
}
FUNCTION void exp_tile(const Task *t, const __global IN0 *x MASK_PARAMETER, long j, long n, const Frame *f, V *high, V *low) {
    V e[4];
    exponentials_of(t, x MASK_ARGUMENT, j, n, f, e);
    add_tile(high, low, e);
}
// 1 / l in two parts: neither the rounding of l nor that of its reciprocal is among the errors of a share.
FUNCTION void invert(Sum l, V *high, V *low) {
    V error;
    *high = SPLAT((ACC)1 / l.high);
    const V product = two_product(SPLAT(l.high), *high, &error);
    *low = (((ONE - product) - error) - SPLAT(l.low) * *high) * *high;
}
#ifdef KEPT
FUNCTION void keep_tile(const Task *t, const __global IN0 *x MASK_PARAMETER, __local ACC *kept, long j, long n, const Frame *f, V *high,
                        V *low) {
    V e[4];
    exponentials_of(t, x MASK_ARGUMENT, j, n, f, e);
    keep(kept, j, n, e);
    add_tile(high, low, e);
}
#endif
FUNCTION void put_shares(const Task *t, __global OUT0 *y MASK_PARAMETER, long j, long n, const V *e, V inverse, V inverse_low, bool past) {
    V share[4];
    FOUR(k) share[k] = HIDE(MAD(e[k], inverse, e[k] * inverse_low), j + k * STEP, 0);
    send_tile0(t, y, j, n, share, past);
}
FUNCTION void share_tile(const Task *t, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER, long j, long n, const Frame *f, V inverse,
                         V inverse_low, bool past) {
    V e[4];
    exponentials_of(t, x MASK_ARGUMENT, j, n, f, e);
    put_shares(t, y MASK_ARGUMENT, j, n, e, inverse, inverse_low, past);
}
#ifdef COLUMNS
// The factor that takes sums from a frame to that of the maximum. False if an exponential of the maximum might be too large for the first.
FUNCTION bool unit_of_frame(const Frame *f, const Frame *own, V *unit) {
    const V k = own->magic - f->magic;
    const I holds = (f->origin == own->origin) & (k >= CONSTANT(-HEADROOM / 2));
    *unit = power_of_two(CONSTANT(MAGIC + BIAS) + k);
    bool all = true;
    for (int i = 0; i < VEC; i++) all &= ((const SIGNED *)&holds)[i] != 0;
    return all;
}
// Exponentials of short columns wait in local memory for their sum, four vectors after the other as they come: what counts elements from j
// on finds the next of them there.
#ifdef KEPT
#define KEPT_OF(w) ((__local ACC *)kept + ((tile / 4 + chain) * SLAB + (w)) * 4 * VEC - j)
#define ADD_TILE(w) keep_tile(t, X_OF(w) MASK_VECTOR(w), KEPT_OF(w), j, end, f + w, high + CHAIN_OF(w), low + CHAIN_OF(w));
#else
#define ADD_TILE(w) exp_tile(t, X_OF(w) MASK_VECTOR(w), j, end, f + w, high + CHAIN_OF(w), low + CHAIN_OF(w));
#endif
KERNEL(softmax)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER) {
    Task *t = &task;
#ifdef KEPT
    __local V kept[KEPT];
#endif
    FOR_SLABS {
        // The first elements give the frame, and the maximum is met as exponentials are added. Frames are powers of two apart, so that not
        // a bit of the sum depends on which it was, unless that is too small.
        MAXIMA_OF_SLAB(m, min(n, (long)TILE))
        OVER_SLAB_AFTER(n, top_tile(t, X_OF(w) MASK_VECTOR(w), j, end, m + w), ADD_TILE(w))
        V unit[SLAB], inverse[SLAB], inverse_low[SLAB];
        bool summed = true;
        for (int w = 0; w < count; w++) {
            const Frame own = frame_of(t, m[w]);
            summed &= unit_of_frame(f + w, &own, unit + w);
            f[w] = own;
        }
        if (!summed) {
            FILL(unit, 1)
            FILL(high, 0)
            FILL(low, 0)
            OVER_SLAB(n, ADD_TILE(w))
        }
        for (int w = 0; w < count; w++) {
            const Sum s = sum_lanes(high + w * VEC, low + w * VEC), l = {s.high * unit[w], s.low * unit[w]};
            invert(l, inverse + w, inverse_low + w);
            inverse[w] = m[w] == CONSTANT(-INFINITY) ? CONSTANT(NAN) : inverse[w];
        }
#ifdef KEPT
        for (int w = 0; w < count; w++) inverse[w] = inverse[w] * unit[w], inverse_low[w] = inverse_low[w] * unit[w];
        WRITE_SLAB({
            V e[4];
            take_kept(KEPT_OF(w), j, end, e);
            put_shares(t, Y_OF(w) MASK_VECTOR(w), j, end, e, inverse[w], inverse_low[w], past);
        })
#else
        WRITE_SLAB(share_tile(t, X_OF(w), Y_OF(w) MASK_VECTOR(w), j, end, f + w, inverse[w], inverse_low[w], past))
#endif
    }
}
#elif defined(BATCHED)
#ifdef KEPT
DEFINE_ADVANCE(keep_tile(t, x + at[0] MASK_AT(at), KEPT_OF(r), j, end, &f, &high, &low), take_kept(KEPT_OF(r), j, end, e),
               put_shares(t, y + to[1] MASK_AT(to), j, end, e, a, b, past))
#else
DEFINE_ADVANCE(exp_tile(t, x + at[0] MASK_AT(at), j, end, &f, &high, &low), exponentials_of(t, x + to[0] MASK_AT(to), j, end, &g, e),
               put_shares(t, y + to[1] MASK_AT(to), j, end, e, a, b, past))
#endif
KERNEL(softmax)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER) {
    const Task *t = &task;
#ifdef KEPT
    __local V kept[KEPT];
#endif
    FOR_BATCHES {
        STEP_FURTHER
        invert(sum_of_rows(found.high, found.low), &now->a, &now->b);
        now->a = now->m == CONSTANT(-INFINITY) ? CONSTANT(NAN) : now->a;
    }
}
#else
KERNEL(softmax)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER STATES_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
    FOR_ROWS {
#ifdef LEAVE_STATE
        LEAVE_STATE
#elif defined(PART)
        STATE_OF_ROW(m)
        V e_low, e = exp_of_maximum(t, SPLAT(m), &f, &e_low), error, inverse, inverse_low;
        const V maxima = two_product(CONSTANT(count), e, &error);
        const Sum tops = {of_row(maxima), of_row(error + CONSTANT(count) * e_low)};
        invert(add_sums(tops, l), &inverse, &inverse_low);
        inverse = m - m == 0 ? inverse : CONSTANT(NAN);
        OVER_TILES(share_tile(t, x + at[0], y + at[1] MASK_ROW, j, end, &f, inverse, inverse_low, false))
#else
        MAX_OF_ROW(m)
        const Frame f = frame_of(t, m);
        ACCUMULATORS(high, low)
        OVER_TILES(exp_tile(t, x + at[0] MASK_ROW, j, end, &f, high + chain, low + chain))
        Sum l = sum_lanes(high, low);
        OVER_GROUP(sums, l, add_sums(sums[own], sums[other]))
        V inverse, inverse_low;
        invert(l, &inverse, &inverse_low);
        inverse = SPLAT(m) == CONSTANT(-INFINITY) ? CONSTANT(NAN) : inverse;
        OVER_TILES(share_tile(t, x + at[0], y + at[1] MASK_ROW, j, end, &f, inverse, inverse_low, false))
#endif
    }
}
#endif

#endif

#if defined(OP_softmax_backward) || defined(OP_log_softmax_backward)

// The sum s of a row, to which `call` adds tiles, and what is done with it.
#define SUM_OF_PART(s, call)                                                                                           \
    ACCUMULATORS(high, low)                                                                                            \
    OVER_TILES(call)                                                                                                   \
    Sum s = sum_lanes(high, low);                                                                                      \
    OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
#ifdef COLUMNS
#define DY_OF(w) OF_SLAB(dy, 0, w)
#define Y_OF(w) OF_SLAB(y, 1, w)
#define SOON_OF_SLAB(w, j)                                                                                             \
    {                                                                                                                  \
        SOON(DY_OF(w) + AT(t, 0, j));                                                                                  \
        SOON(Y_OF(w) + AT(t, 1, j));                                                                                   \
    }
#define SUMS_OF_SLAB(s, call)                                                                                          \
    V high[SLAB * VEC], low[SLAB * VEC], s[SLAB];                                                                      \
    FILL(high, 0)                                                                                                      \
    FILL(low, 0)                                                                                                       \
    OVER_SLAB(n, call)                                                                                                 \
    for (int w = 0; w < count; w++) s[w] = total(sum_lanes(high + w * VEC, low + w * VEC));
#endif
#if defined(PART) && STAGE == 1
#define SUM_OF_ROW(s, call)                                                                                            \
    SUM_OF_PART(s, call)                                                                                               \
    if (LANE == 0) leave_sum(STATE_OF(part), s);
#define AT_LAST(statements)
#elif defined(PART)
#define SUM_OF_ROW(s, call) const Sum s = joined_sum(STATE_OF(0), parts);
#define AT_LAST(statements) statements
#else
#define SUM_OF_ROW(s, call) SUM_OF_PART(s, call)
#define AT_LAST(statements) statements
#endif

#endif
#ifdef OP_softmax_backward

FUNCTION void dot_tile(const Task *t, const __global IN0 *dy, const __global IN1 *y MASK_PARAMETER, long j, long n, V *high, V *low) {
    V e[4];
    FOUR(k) {
        const long i = j + k * STEP;
        e[k] = HIDE(take0(t, dy, i, n, 0) * take1(t, y, i, n, 0), i, 0);
    }
    add_tile(high, low, e);
}
FUNCTION void dx_tile(const Task *t, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx MASK_PARAMETER, long j, long n,
                      V dot) {
    V v[4];
    FOUR(k) {
        const long i = j + k * STEP;
        v[k] = take1(t, y, i, n, 0) * (take0(t, dy, i, n, 0) - dot);
#ifdef SCALED
        v[k] = CONSTANT(t->number[3]) * v[k];
#endif
        v[k] = HIDE(v[k], i, 0);
    }
    bring_tile0(t, dx, j, n, v);
}
#ifdef COLUMNS
KERNEL(softmax_backward)(Task task, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx MASK_PARAMETER) {
    Task *t = &task;
    FOR_SLABS {
        SUMS_OF_SLAB(dot, dot_tile(t, DY_OF(w), Y_OF(w) MASK_VECTOR(w), j, end, high + CHAIN_OF(w), low + CHAIN_OF(w)))
        OVER_SLAB(n, dx_tile(t, DY_OF(w), Y_OF(w), OF_SLAB(dx, 2, w) MASK_VECTOR(w), j, end, dot[w]))
    }
}
#else
KERNEL(softmax_backward)(Task task, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx MASK_PARAMETER STATES_PARAMETER) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        SUM_OF_ROW(s, dot_tile(t, dy + at[0], y + at[1] MASK_ROW, j, end, high + chain, low + chain))
        const V dot = SPLAT(total(s));
        AT_LAST(OVER_TILES(dx_tile(t, dy + at[0], y + at[1], dx + at[2] MASK_ROW, j, end, dot)))
    }
}
#endif

#endif

// ---------------------------------------------------------------- log_softmax and logsumexp

#ifdef OP_log_softmax

// What is left of x when the logarithm of the sum is taken from it, which comes as `lse` and a rest: rounded and what that lost, or where
// there is a scale the maximum and what follows it.
FUNCTION void take_elements(const Task *t, const __global IN0 *x MASK_PARAMETER, long j, long n, V *e) { FOUR(k) e[k] = X(j + k * STEP); }
FUNCTION void put_log_shares(const Task *t, __global OUT0 *y MASK_PARAMETER, long j, long n, const V *e, V lse, V rest, bool past) {
    V share[4];
    FOUR(k) {
        const V v = e[k];
#ifdef SCALED
        V lost, z = scaled_difference(t, v, lse, &lost);
        const V difference = v - lse;
        const I exact = z - z == ZERO;
        // The difference of huge numbers may overflow, a part of it not.
        z = difference - difference == ZERO ? z : v * CONSTANT(t->number[1]) - lse * CONSTANT(t->number[1]);
        share[k] = (z - rest) + (exact ? lost : ZERO);
#else
        share[k] = (v - lse) - rest;
#endif
        share[k] = HIDE(share[k], j + k * STEP, -INFINITY);
    }
    send_tile0(t, y, j, n, share, past);
}
FUNCTION void log_share_tile(const Task *t, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER, long j, long n, V lse, V rest,
                             bool past) {
    V e[4];
    take_elements(t, x MASK_ARGUMENT, j, n, e);
    put_log_shares(t, y MASK_ARGUMENT, j, n, e, lse, rest, past);
}
FUNCTION V parts_of_lse(R m, R log, V *rest) {
    *rest = SPLAT(log + (m - m));  // NaN for a row that has no softmax
#ifdef SCALED
    return SPLAT(m);
#else
    return two_sum(SPLAT(m), *rest, rest);
#endif
}
#ifdef BATCHED
DEFINE_ADVANCE(rest_tile(t, x + at[0] MASK_AT(at), j, end, m, &f, &high, &low, &equal),
               take_elements(t, x + to[0] MASK_AT(to), j, end, e), put_log_shares(t, y + to[1] MASK_AT(to), j, end, e, a, b, past))
KERNEL(log_softmax)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER) {
    const Task *t = &task;
    FOR_BATCHES {
        STEP_FURTHER
        now->a = parts_of_lse(now->m, log_of_batch(t, now, &found), &now->b);
    }
}
#elif defined(COLUMNS)
KERNEL(log_softmax)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER) {
    Task *t = &task;
    FOR_SLABS {
        REST_OF_SLAB(m, lse)
        V rest[SLAB];
        for (int w = 0; w < count; w++) lse[w] = parts_of_lse(m[w], lse[w], rest + w);
        WRITE_SLAB(log_share_tile(t, X_OF(w), Y_OF(w) MASK_VECTOR(w), j, end, lse[w], rest[w], past))
    }
}
#else
KERNEL(log_softmax)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER STATES_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
    FOR_ROWS {
#ifdef LEAVE_STATE
        LEAVE_STATE
#else
        FOLD_OF_ROW(m, log)
        V rest, lse = parts_of_lse(m, log, &rest);
        OVER_TILES(log_share_tile(t, x + at[0], y + at[1] MASK_ROW, j, end, lse, rest, false))
#endif
    }
}
#endif

#endif
#ifdef OP_log_softmax_backward

FUNCTION void sum_tile(const Task *t, const __global IN0 *dy MASK_PARAMETER, long j, long n, V *high, V *low) {
    V e[4];
    FOUR(k) e[k] = HIDE(take0(t, dy, j + k * STEP, n, 0), j + k * STEP, 0);
    add_tile(high, low, e);
}
FUNCTION void log_dx_tile(const Task *t, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx MASK_PARAMETER, long j, long n,
                          V sum) {
    V v[4];
    FOUR(k) {
        const V z = take1(t, y, j + k * STEP, n, 0);
        V share = exp_of(z, CONSTANT(0));
        // A share is positive, however small: times an infinite sum it is infinite.
        share = (((sum == CONSTANT(INFINITY)) | (sum == CONSTANT(-INFINITY))) & (z > CONSTANT(-INFINITY))) ? ONE : share;
        v[k] = take0(t, dy, j + k * STEP, n, 0) - share * sum;
#ifdef SCALED
        v[k] = CONSTANT(t->number[3]) * v[k];
#endif
        v[k] = HIDE(v[k], j + k * STEP, 0);
    }
    bring_tile0(t, dx, j, n, v);
}
#ifdef COLUMNS
KERNEL(log_softmax_backward)(Task task, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx MASK_PARAMETER) {
    Task *t = &task;
    FOR_SLABS {
        SUMS_OF_SLAB(sum, sum_tile(t, DY_OF(w) MASK_VECTOR(w), j, end, high + CHAIN_OF(w), low + CHAIN_OF(w)))
        OVER_SLAB(n, log_dx_tile(t, DY_OF(w), Y_OF(w), OF_SLAB(dx, 2, w) MASK_VECTOR(w), j, end, sum[w]))
    }
}
#else
KERNEL(log_softmax_backward)(Task task, const __global IN0 *dy, const __global IN1 *y, __global OUT0 *dx
                             MASK_PARAMETER STATES_PARAMETER) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        SUM_OF_ROW(s, sum_tile(t, dy + at[0] MASK_ROW, j, end, high + chain, low + chain))
        const V sum = SPLAT(total(s));
        AT_LAST(OVER_TILES(log_dx_tile(t, dy + at[0], y + at[1], dx + at[2] MASK_ROW, j, end, sum)))
    }
}
#endif

#endif
#if defined(OP_logsumexp) && !defined(WEIGHTED)

#ifdef SCALED
#define SCALE(m) (m * t->number[1])
#else
#define SCALE(m) m
#endif
#if OUTPUTS > 1
#define SET_SIGN(value) SET(1, sign + at[2], value)
#else
#define SET_SIGN(value)
#endif
#define SET_RESULTS                                                                                                    \
    SET(0, y + at[1], log != log ? log : m - m == 0 ? SCALE(m) + log : m)                                              \
    SET_SIGN(log != log ? log : m == -INFINITY ? (R)0 : (R)1)
#ifdef BATCHED
DEFINE_ADVANCE(rest_tile(t, x + at[0] MASK_AT(at), j, end, m, &f, &high, &low, &equal), (void)0, (void)0)
#endif
KERNEL(logsumexp)(Task task, const __global IN0 *x, __global OUT0 *y
#if OUTPUTS > 1
                        , __global OUT1 *sign
#endif
                        MASK_PARAMETER STATES_PARAMETER) {
    Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
#ifdef BATCHED
    FOR_BATCHES {
        STEP_FURTHER
        const V m = now->m, log = log_of_batch(t, now, &found);
        SET_RESULTS
    }
#elif defined(COLUMNS)
    FOR_SLABS {
        REST_OF_SLAB(tops, logs)
        for (int w = 0; w < count; w++) {
            const V m = tops[w], log = logs[w];
            SET_RESULTS
            for (int i = 0; i < ARGS; i++) at[i] += VEC * t->arg[i].stride[t->nouter - 1];
        }
    }
#else
    FOR_ROWS {
#ifdef LEAVE_STATE
        LEAVE_STATE
#else
#ifdef PART
        if (part) continue;
#endif
        FOLD_OF_ROW(m, log)
        SET_RESULTS
#endif
    }
#endif
}

#endif
#if defined(OP_logsumexp) && defined(WEIGHTED)

// The same with weights b of either sign. An element whose weight is 0 does not count.
FUNCTION V weighted(const Task *t, const __global IN0 *x, const __global IN1 *b MASK_PARAMETER, long j, long n) {
    return take1(t, b, j, n, 0) == CONSTANT(0) ? CONSTANT(-INFINITY) : X(j);
}
FUNCTION ACC shift(ACC m) { return m - m == 0 ? m : 0; }
FUNCTION V weight_of(const Task *t, const __global IN1 *b MASK_PARAMETER, long j, long n) { return HIDE(take1(t, b, j, n, 0), j, 0); }
// A finite weight but 0 as part 2^exponent, 1 <= |part| < 2: neither the smallest nor the largest weight may lose or overflow in a product.
FUNCTION V parted(V weight, V *exponent) {
    const I small = (weight < CONSTANT(1 / UNIT)) & (weight > CONSTANT(-1 / UNIT));
    const I bits = PASTE(as_, PASTE(SIGNED, VEC))(small ? weight * CONSTANT(UNIT) : weight);
    const I field = (I)((SIGNED)(2 * BIAS + 1)) << MANTISSA, k = ((bits & field) >> MANTISSA) - (I)(BIAS);
    const V e = PASTE(as_, V_NAME)(k + PASTE(as_, PASTE(SIGNED, VEC))(CONSTANT(MAGIC))) - CONSTANT(MAGIC);
    *exponent = small ? e - CONSTANT(HEADROOM) : e;
    return PASTE(as_, V_NAME)((bits & ~field) | ((I)(BIAS) << MANTISSA));
}
// Terms that are not finite: an infinite weight makes any positive exponential infinite, however small, and of -inf the exponential is 0.
FUNCTION I finite_term(V weight, V v) { return (weight - weight == CONSTANT(0)) & (v < CONSTANT(INFINITY)); }
// b exp(x - shift(m)) is about 2^this.
FUNCTION V power_of_term(V weight, V v, ACC m) {
    V k;
    parted(weight, &k);
    const V power = k + (v - CONSTANT(shift(m))) * CONSTANT(LOG2E);
    return (finite_term(weight, v) & (weight != CONSTANT(0))) ? power : CONSTANT(-INFINITY);
}
// b exp(x - shift(m)) 2^-top: the power of two of each weight is one with that of its exponential.
FUNCTION void term_tile(const Task *t, const __global IN0 *x, const __global IN1 *b MASK_PARAMETER, long j, long n, ACC m, ACC top,
                        V *high, V *low) {
    V e[4];
    FOUR(i) {
        const V weight = weight_of(t, b MASK_ARGUMENT, j + i * STEP, n), v = weighted(t, x, b MASK_ARGUMENT, j + i * STEP, n);
        V lost, z = scaled_difference(t, v, CONSTANT(shift(m)), &lost), k, part = parted(weight, &k);
        k = finite_term(weight, v) ? k - CONSTANT(top) : CONSTANT(0);
        const V lowest = CONSTANT(LOWEST) - k * CONSTANT(LN2_HIGH);
        const I far = !(z > lowest);
        const V share = exp_offset_low(far ? lowest : z, far ? CONSTANT(0) : lost, CONSTANT(MAGIC + BIAS + HEADROOM) + k);
        const V term = (far | (CONSTANT(m) == CONSTANT(INFINITY))) ? CONSTANT(0) : part * (share * CONSTANT(1 / UNIT));
        const V infinite = weight * (v > CONSTANT(-INFINITY) ? CONSTANT(INFINITY) : v == v ? CONSTANT(0) : v);
        e[i] = weight == CONSTANT(0) ? weight : finite_term(weight, v) ? term : infinite;
    }
    add_tile(high, low, e);
}
KERNEL(logsumexp)(Task task, const __global IN0 *x, const __global IN1 *b, __global OUT0 *y
#if OUTPUTS > 1
                        , __global OUT1 *sign
#endif
                        MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
    FOR_ROWS {
        V top = CONSTANT(-INFINITY);
        for (long j = LANE * VEC; j < n; j += STEP) {
            const V v = weighted(t, x + at[0], b + at[1] MASK_ROW, j, n);
            top = v > top ? v : top;
        }
        ACC m = largest_lane(top);
        OVER_GROUP(highs, m, highs[other] > highs[own] ? highs[other] : highs[own])
        top = CONSTANT(-INFINITY);
        for (long j = LANE * VEC; j < n; j += STEP) {
            const V v = weighted(t, x + at[0], b + at[1] MASK_ROW, j, n);
            const V power = power_of_term(weight_of(t, b + at[1] MASK_ROW, j, n), v, m);
            top = power > top ? power : top;
        }
        ACC k = largest_lane(top);
        OVER_GROUP(highs, k, highs[other] > highs[own] ? highs[other] : highs[own])
        k = k > -INFINITY ? rint(k) : 0;
        ACCUMULATORS(high, low)
        OVER_TILES(term_tile(t, x + at[0], b + at[1] MASK_ROW, j, end, m, k, high + chain, low + chain))
        Sum l = sum_lanes(high, low);
        OVER_GROUP(sums, l, add_sums(sums[own], sums[other]))
        if (LANE == 0 && n) {
            // As much of 2^k as keeps the sum a normal number goes back into it, so that what is near 1 is seen as such.
            const ACC within = fabs(k) <= HEADROOM / 2 ? k : 0, part = fabs(total(l)) < 1 / UNIT ? HEADROOM : within, rest = k - part;
            const ACC unit = of_row(power_of_two(CONSTANT(MAGIC + BIAS + part)));
            const Sum scaled = {l.high * unit, l.low * unit};
            const ACC sum = total(scaled), size = fabs(sum), rounding = (scaled.high - sum) + scaled.low;  // all may be in the low part
            const bool near = size > (ACC)0.8 && size < (ACC)1.2 && rest == 0;
            const ACC one = near ? 1 : 0, s = sum < 0 ? -1 : 1;
            V lost;
            const ACC large = of_row(two_sum(CONSTANT(shift(m)), CONSTANT(rest * LN2_HIGH), &lost));
            ACC log = of_row(log_of(CONSTANT(one), CONSTANT(size - one), CONSTANT(s * rounding)));
            log = size == 0 ? -INFINITY : sum - sum == 0 ? large + (log + (of_row(lost) + rest * LN2_LOW)) : size;
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

#ifdef WEIGHTED
#define B_PARAMETER , const __global IN3 *b
#define B_ROW , b + at[3]
#else
#define B_PARAMETER
#define B_ROW
#endif
FUNCTION void lse_dx_tile(const Task *t, const __global IN1 *x B_PARAMETER, __global OUT0 *dx MASK_PARAMETER, long j, long n, R dy, R y) {
    V v[4];
    FOUR(k) {
        V low, z = two_sum(take1(t, x, j + k * STEP, n, 0), SPLAT(-y), &low);
        v[k] = SPLAT(dy) * (SPLAT(y) == CONSTANT(-INFINITY) ? CONSTANT(0) : exp_of(z, low));
#ifdef WEIGHTED
        const V weight = take3(t, b, j + k * STEP, n, 0);
        v[k] = weight == CONSTANT(0) ? weight : weight * v[k];
#endif
        v[k] = HIDE(v[k], j + k * STEP, 0);
    }
    bring_tile0(t, dx, j, n, v);
}
// dy and y hold one value a row.
#ifdef COLUMNS
#define SOON_OF_SLAB(w, j) SOON(OF_SLAB(x, 1, w) + AT(t, 1, j))
KERNEL(logsumexp_backward)(Task task, const __global IN0 *dy, const __global IN1 *x, const __global IN2 *y, __global OUT0 *dx
                           MASK_PARAMETER) {
    Task *t = &task;
    FOR_SLABS {
        V g[SLAB], lse[SLAB];
        for (int w = 0; w < count; w++) {
            g[w] = of_row0(t, dy + at[0] + w * VEC * t->arg[0].stride[t->nouter - 1], n);
            lse[w] = of_row2(t, y + at[2] + w * VEC * t->arg[2].stride[t->nouter - 1], n);
        }
        OVER_SLAB(n, lse_dx_tile(t, OF_SLAB(x, 1, w), OF_SLAB(dx, INPUTS, w) MASK_VECTOR(w), j, end, g[w], lse[w]))
    }
}
#else
KERNEL(logsumexp_backward)(Task task, const __global IN0 *dy, const __global IN1 *x, const __global IN2 *y B_PARAMETER,
                                 __global OUT0 *dx MASK_PARAMETER) {
    const Task *t = &task;
    FOR_ROWS {
        const R g = of_row0(t, dy + at[0], n), lse = of_row2(t, y + at[2], n);
        OVER_TILES(lse_dx_tile(t, x + at[1] B_ROW, dx + at[INPUTS] MASK_ROW, j, end, g, lse))
    }
}
#endif

#endif
