// softmax.cl: softmax, log_softmax and logsumexp, each forward above its backward, on the state (m, l): see softcore/fold.py.
//
// A row of n elements of x gives a row of y, or one y; dy and y, dx likewise.
//
// number[0] is a factor of x that is exact: 1, the sign of a negative scale, or a scale that is 0 or not finite. number[1] + number[2]
// is the scale, positive, and number[3] the scale as it was given. Without SCALED all of them are 1.

#if defined(OP_softmax) || defined(OP_log_softmax) || defined(OP_logsumexp) || defined(OP_cross_entropy)

// Elements j to j + VEC of x; what lies past the end is the empty state's -inf.
FUNCTION V elements(const Task *t, const __global IN0 *row, long j, long n) {
    V v = take0(t, row, j, n, -INFINITY);
#ifdef SCALED
    v = v * CONSTANT(t->number[0]);
#ifdef COLUMNS
    if (j >= n) v = CONSTANT(-INFINITY);
#else
    for (int k = 0; k < VEC; k++)
        if (j + k >= n) ((ACC *)&v)[k] = -INFINITY;
#endif
#endif
    return v;
}
#define X(j) HIDE(elements(t, x, j, n), j, -INFINITY)

// scale (x - m) and what that lost. Where x is infinite or far away the loss says nothing, and decay does not look at it.
FUNCTION V scaled_difference(const Task *t, V x, V m, V *low) {
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
FUNCTION void max_tile(const Task *t, const __global IN0 *x MASK_PARAMETER, long j, long n, V *top) {
    FOUR(k) {
        const V v = X(j + k * STEP);
        top[k] = v > top[k] ? v : top[k];
    }
}
#define MAX_OF_ROW(m)                                                                                                  \
    V top[4] = {CONSTANT(-INFINITY), CONSTANT(-INFINITY), CONSTANT(-INFINITY), CONSTANT(-INFINITY)};                   \
    OVER_TILES(max_tile(t, x + at[0] MASK_ROW, j, end, top))                                                           \
    top[0] = top[1] > top[0] ? top[1] : top[0];                                                                        \
    top[2] = top[3] > top[2] ? top[3] : top[2];                                                                        \
    R m = largest_lane(top[2] > top[0] ? top[2] : top[0]);                                                             \
    OVER_GROUP(highs, m, highs[other] > highs[own] ? highs[other] : highs[own])

// In what unit exponentials are summed: exp(scale (x - origin)) 2^(HEADROOM - k). Where |scale m| is small the origin is 0 and k alone
// follows m: x itself is reduced by multiples of ln 2, and no bit is lost in forming x - m. Elsewhere the origin is m, and x - m is
// exact by Sterbenz' lemma for every x that matters.
typedef struct { V origin, magic, lowest; } Frame;
FUNCTION Frame frame_of(const Task *t, R m) {
#ifdef SCALED
    const R z = m * t->number[1];
#else
    const R z = m;
#endif
    const R zero = 0, k = ((z < NEAR) & (z > -NEAR)) ? (z * LOG2E + MAGIC) - MAGIC : zero;
    const R origin = ((z < NEAR) & (z > -NEAR)) ? zero : m;
    const Frame f = {SPLAT(origin), SPLAT(MAGIC + BIAS + HEADROOM - k), SPLAT(LOWEST + k * LN2_HIGH)};
    return f;
}
FUNCTION void exps_in_frame(const Task *t, V *e, const Frame *f) {
#ifdef SCALED
    FOUR(k) {
        V low, z = scaled_difference(t, e[k], f->origin, &low);
        const I far = z < f->lowest;
        e[k] = exp_offset_low(far ? f->lowest : z, far ? CONSTANT(0) : low, f->magic);
    }
#else
    FOUR(k) e[k] = e[k] - f->origin;
    FOUR(k) e[k] = e[k] < f->lowest ? f->lowest : e[k];
    exps_offset(e, f->magic);
#endif
}
#endif

#ifdef KEPT
// A tile of exponentials, to wait in local memory for their sum, and back.
FUNCTION void keep(__local ACC *kept, long j, long n, const V *e) {
    FOUR(k) if (j + k * STEP < n) *(__local V *)(kept + j + k * STEP) = e[k];
}
FUNCTION void take_kept(const __local ACC *kept, long j, long n, V *e) {
    FOUR(k) e[k] = j + k * STEP < n ? *(const __local V *)(kept + j + k * STEP) : ZERO;
}
#endif

// ---------------------------------------------------------------- the state of a row

#if defined(OP_log_softmax) || (defined(OP_logsumexp) && !defined(WEIGHTED)) || defined(OP_cross_entropy) ||           \
    (defined(OP_softmax) && defined(PART))

// m, the frame f of it, the count of the elements that equal it, and the sum l of the others, in that frame: what is small beside 1 is
// kept. Fewer maxima than a float can count are counted exactly, and of others nothing small is kept.
// For a gradient the exponentials are kept.
#if defined(KEPT) && defined(OP_cross_entropy)
#define REST_PARAMETER , __local ACC *kept
#define REST_ARGUMENT , (__local ACC *)exponentials
#else
#define REST_PARAMETER
#define REST_ARGUMENT
#endif
FUNCTION void rest_tile(const Task *t, const __global IN0 *x MASK_PARAMETER REST_PARAMETER, long j, long n, V m, const Frame *f, V *high,
                        V *low, V *equal) {
    V e[4];
    I top[4];
    FOUR(k) e[k] = X(j + k * STEP);
    FOUR(k) top[k] = e[k] == m;
    exps_in_frame(t, e, f);
#if defined(KEPT) && defined(OP_cross_entropy)
    keep(kept, j, n, e);
#endif
    FOUR(k) {
        *equal = *equal + (top[k] ? ONE : ZERO);
        e[k] = top[k] ? ZERO : e[k];
    }
    add_tile(high, low, e);
}
#ifdef BATCHED
FUNCTION R count_of_rows(V *equal) {
    for (int w = VEC / 2; w; w /= 2)
        for (int k = 0; k < w; k++) equal[k] = both(equal[k], equal[k + w], 0) + both(equal[k], equal[k + w], 1);
    return equal[0];
}
#else
#define HALVE_COUNT(w, h) const Lanes##h v##h = HALF(h, v##w, 0) + HALF(h, v##w, 1);
FUNCTION R count_of(V equal) {
#ifdef COLUMNS
    return equal;
#else
    const V V_LANES = equal;
    HALVES(HALVE_COUNT)
    return v1;
#endif
}
#endif
// The exponential of the maximum, in two parts.
FUNCTION V exp_of_maximum(const Task *t, V m, const Frame *f, V *lost) {
    V low, z = scaled_difference(t, m, f->origin, &low);
    const V e = exp_in_two(z, low, f->magic, lost);
    *lost = m - m == ZERO ? *lost : ZERO;
    return m - m == ZERO ? e : ONE;
}
#define STATE_OF_PART(m)                                                                                               \
    MAX_OF_ROW(m)                                                                                                      \
    const Frame f = frame_of(t, m);                                                                                    \
    ACCUMULATORS(high, low)                                                                                            \
    V equal = ZERO;                                                                                                    \
    OVER_TILES({ MEANWHILE rest_tile(t, x + at[0] MASK_ROW REST_ARGUMENT, j, end, SPLAT(m), &f, high + chain, low + chain, &equal); })\
    Sum l = sum_lanes(high, low);                                                                                      \
    OVER_GROUP(sums, l, add_sums(sums[own], sums[other]))                                                              \
    R count = count_of(equal);                                                                                         \
    OVER_GROUP(highs, count, highs[own] + highs[other])
#if defined(PART) && STAGE == 1
#define LEAVE_STATE                                                                                                    \
    STATE_OF_PART(m)                                                                                                   \
    if (LANE == 0) {                                                                                                   \
        __global ACC *state = STATE_OF(part);                                                                          \
        state[0] = m;                                                                                                  \
        state[1] = count;                                                                                              \
        state[2] = l.high;                                                                                             \
        state[3] = l.low;                                                                                              \
    }
#elif defined(PART)
// What the part adds to the sum of a row whose maximum is larger: its own sum, its maxima among it, in the frame of the row.
FUNCTION Sum in_frame_of_row(const Task *t, const __global ACC *state, const Frame *f) {
    const ACC zero = 0;
    const Frame own = frame_of(t, state[0]);
    V e_low, e = exp_of_maximum(t, CONSTANT(state[0]), &own, &e_low), error, lost, low;
    const V maxima = two_product(CONSTANT(state[1]), e, &error);
    const Sum others = {state[2], state[3]}, tops = {of_row(maxima), of_row(error + CONSTANT(state[1]) * e_low)};
    const Sum s = add_sums(tops, others);
    // exp(its origin - the origin) 2^(its k - k), in the unit of sums so that it is no subnormal number, and the sum without its own
    const V k = f->magic - own.magic;
    V shift = scaled_difference(t, own.origin, f->origin, &low), rest;
    shift = two_sum(shift, k * CONSTANT(LN2_HIGH), &rest);
    low = (low != low ? ZERO : low) + (rest + k * CONSTANT(LN2_LOW));
    const I far = !(shift > CONSTANT(LOWEST));
    V factor = exp_in_two(far ? CONSTANT(LOWEST) : shift, far ? ZERO : low, CONSTANT(MAGIC + BIAS + HEADROOM), &lost);
    factor = far ? ZERO : factor;
    lost = far ? ZERO : lost;
    const V sum = CONSTANT(s.high / UNIT), high = two_product(sum, factor, &error);
    const Sum r = {of_row(high), of_row(error + (sum * lost + CONSTANT(s.low / UNIT) * factor))}, none = {s.high - s.high, zero};
    return of_row(own.origin) == -INFINITY ? none : r;
}
#define STATE_OF_ROW(m)                                                                                                \
    const __global ACC *states_of_row = STATE_OF(0);                                                                   \
    ACC m = -INFINITY;                                                                                                 \
    for (long p = 0; p < parts; p++) m = states_of_row[4 * p] > m ? states_of_row[4 * p] : m;                          \
    const Frame f = frame_of(t, m);                                                                                    \
    ACC count = 0;                                                                                                     \
    Sum l = {0, 0};                                                                                                    \
    for (long p = 0; p < parts; p++) {                                                                                 \
        const __global ACC *state = states_of_row + 4 * p;                                                             \
        const Sum own = {state[2], state[3]};                                                                          \
        if (state[0] == m) count += state[1];                                                                          \
        l = add_sums(l, state[0] == m ? own : in_frame_of_row(t, state, &f));                                          \
    }
#else
#define STATE_OF_ROW(m) STATE_OF_PART(m)
#endif

#endif

// ---------------------------------------------------------------- rows side by side

#if defined(COLUMNS) && (defined(OP_softmax) || defined(OP_log_softmax) || defined(OP_logsumexp))

// Far apart as the elements of a row are, a stretch of each is read at once, of SLAB vectors, and the stretches SOON_ROWS further on are
// asked for: no processor sees them coming. Where something comes `first`, for each vector of a stretch, that brings what `call` reads.
#define SOON_ROWS 2
#define X_OF(w) (x + at[0] + (w) * VEC)
#define Y_OF(w) (y + at[1] + (w) * VEC)
FUNCTION long soon(long tile, int chain) { return tile + chain + SOON_ROWS + (chain + SOON_ROWS < VEC ? 0 : TILE - VEC); }
#define OVER_SLAB(last, call) OVER_SLAB_AFTER(last, , call)
#define OVER_SLAB_AFTER(last, first, call)                                                                             \
    {                                                                                                                  \
        const long whole = t->width == VEC ? (last) / TILE * TILE : 0;                                                 \
        for (long tile = 0; tile < whole; tile += TILE)                                                                \
            for (int chain = 0; chain < VEC; chain++) {                                                                \
                const long j = tile + chain, end = LONG_MAX;                                                           \
                t->width = VEC; /* as it is: the tests for it go away */                                               \
                for (int w = 0; w < count; w++) { first; }                                                             \
                for (int w = 0; w < count; w++) {                                                                      \
                    t->width = VEC;                                                                                    \
                    FOUR(k) SOON(X_OF(w) + AT(t, 0, soon(tile, chain) + k * STEP));                                    \
                    call;                                                                                              \
                }                                                                                                      \
            }                                                                                                          \
        for (long tile = whole; tile < (last); tile += TILE)                                                           \
            for (int chain = 0; chain < VEC; chain++)                                                                  \
                for (int w = 0; w < count; w++) {                                                                      \
                    const long j = tile + chain, end = n;                                                              \
                    first;                                                                                             \
                    call;                                                                                              \
                }                                                                                                      \
    }
FUNCTION void top_tile(const Task *t, const __global IN0 *x MASK_PARAMETER, long j, long n, V *m) {
    V top[4] = {*m, *m, *m, *m};
    max_tile(t, x MASK_ARGUMENT, j, n, top);
    top[0] = top[1] > top[0] ? top[1] : top[0];
    top[2] = top[3] > top[2] ? top[3] : top[2];
    *m = top[2] > top[0] ? top[2] : top[0];
}
#define FILL(vectors, value)                                                                                           \
    for (int i = 0; i < (int)(sizeof vectors / sizeof *vectors); i++) vectors[i] = CONSTANT(value);
// Maxima of the elements before `last`, and their frames; and sums of nothing.
#define MAXIMA_OF_SLAB(m, last)                                                                                        \
    V m[SLAB], high[SLAB * VEC], low[SLAB * VEC];                                                                      \
    Frame f[SLAB];                                                                                                     \
    FILL(m, -INFINITY)                                                                                                 \
    FILL(high, 0)                                                                                                      \
    FILL(low, 0)                                                                                                       \
    OVER_SLAB(last, top_tile(t, X_OF(w) MASK_VECTOR(w), j, end, m + w))                                                \
    for (int w = 0; w < count; w++) f[w] = frame_of(t, m[w]);
#define CHAIN_OF(w) ((w) * VEC + chain)
#define WRITE_SLAB(call)                                                                                               \
    const bool past = streams0(t, y + at[1]);                                                                           \
    OVER_SLAB(n, {                                                                                                     \
        if (!past) FOUR(k) SOON_WRITTEN(Y_OF(w) + AT(t, 1, soon(tile, chain) + k * STEP));                             \
        call;                                                                                                          \
    })

#endif

// ---------------------------------------------------------------- rows in batches

#ifdef BATCHED

// Up to VEC rows, one in each lane of `m` and of what follows it; `a` and `b` are what results are made with. A batch goes through three
// steps: maxima, sums of exponentials, results. Each waits for the one before it, and is bound by something else. So three batches are
// worked on side by side, each a step behind the next, row by row in one loop over their elements; and between the steps all rows of a
// batch in lanes.
typedef struct {
    long count, at[VEC][ARGS];
    V m, a, b;
    Frame frame;
} Batch;
// What is known of each row of a step in the lanes of its elements.
typedef struct { V top[VEC], high[VEC], low[VEC], equal[VEC]; } Found;
// Where exponentials wait for their sum, until those of the row that is summed next take their place.
#ifdef KEPT
#define KEPT_PARAMETER , __local ACC *kept
#define KEPT_ARGUMENT , (__local ACC *)kept
#define KEPT_OF(r) (kept + (r) * ((n + VEC - 1) / VEC * VEC))
#else
#define KEPT_PARAMETER
#define KEPT_ARGUMENT
#endif
#define AHEAD 2048  // elements from what is read to what is asked for
#define OF_ROW(v, r) CONSTANT(((const ACC *)&(v))[r])
#ifdef OP_logsumexp
#define WRITES 0
#else
#define WRITES 1
#endif
// What is done with a tile of each of three rows. 32 registers hold what all three need, and what one waits for, another has. With 16 they
// would go through memory (4096 x 1024 on AVX2 2.4 to 2.2 ms): there one row follows the other, and exponentials are taken from where
// they waited before others come.
#ifdef __AVX512F__
#define OVER_TILES_OF_THREE(meet, take, write, ask, add)                                                               \
    OVER_TILES({                                                                                                       \
        V e[4];                                                                                                        \
        meet;                                                                                                          \
        take;                                                                                                          \
        ask;                                                                                                           \
        add;                                                                                                           \
        write;                                                                                                         \
    })
#else
#define OVER_TILES_OF_THREE(meet, take, write, ask, add)                                                               \
    OVER_TILES({                                                                                                       \
        V e[4];                                                                                                        \
        take;                                                                                                          \
        write;                                                                                                         \
    })                                                                                                                 \
    OVER_TILES(meet)                                                                                                   \
    OVER_TILES({                                                                                                       \
        ask;                                                                                                           \
        add;                                                                                                           \
    })
#endif
// The lines of memory that the four vectors at p lie in.
#define FOR_LINES(k, p) FOUR(k) if (k * STEP * sizeof *(p) % 64 == 0)
// A function that takes row r of each batch a step further, as far as steps are wanted. `sum` is called on tiles with `at` and `f` of the
// row that is summed, `take` and `result` with `to`, `g`, `a` and `b` of the one that is written. All loads of a tile come before its
// stores.
#define DEFINE_ADVANCE(sum, take, result)                                                                              \
    FUNCTION void advance(const Task *t, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER KEPT_PARAMETER,        \
                          const Batch *next, const Batch *now, const Batch *done, Found *found, int r, bool meet,      \
                          bool add, bool write) {                                                                      \
        const long n = t->n, *from = next->at[r], *at = now->at[r], *to = done->at[r];                                 \
        V top[4] = {CONSTANT(-INFINITY), CONSTANT(-INFINITY), CONSTANT(-INFINITY), CONSTANT(-INFINITY)};               \
        V high = ZERO, low = ZERO, equal = ZERO;                                                                       \
        const V m = OF_ROW(now->m, r), a = OF_ROW(done->a, r), b = OF_ROW(done->b, r);                                 \
        const Frame f = frame_of_row(now, r), g = frame_of_row(done, r);                                               \
        const bool past = write && WRITES && streams0(t, y + to[1]);                                                    \
        OVER_TILES_OF_THREE(                                                                                           \
            if (meet) max_tile(t, x + from[0] MASK_AT(from), j, end, top), if (write) take, if (write) result, {       \
                if (meet) FOR_LINES(k, x) SOON(x + from[0] + AT(t, 0, j + k * STEP) + AHEAD);                          \
                if (write && WRITES && !past) FOR_LINES(k, y) SOON_WRITTEN(y + to[1] + AT(t, 1, j + k * STEP) + AHEAD);\
            },                                                                                                         \
            if (add) sum)                                                                                              \
        if (meet) {                                                                                                    \
            top[0] = top[1] > top[0] ? top[1] : top[0];                                                                \
            top[2] = top[3] > top[2] ? top[3] : top[2];                                                                \
            found->top[r] = top[2] > top[0] ? top[2] : top[0];                                                         \
        }                                                                                                              \
        if (add) {                                                                                                     \
            found->high[r] = high;                                                                                     \
            found->low[r] = low;                                                                                       \
            found->equal[r] = equal;                                                                                   \
        }                                                                                                              \
    }
FUNCTION Frame frame_of_row(const Batch *b, int r) {
    const Frame f = {OF_ROW(b->frame.origin, r), OF_ROW(b->frame.magic, r), OF_ROW(b->frame.lowest, r)};
    return f;
}
#define ADVANCE(first, stop, meet, add, write)                                                                         \
    for (int r = first; r < stop; r++)                                                                                 \
        advance(t, x, y MASK_ARGUMENT KEPT_ARGUMENT, next, now, done, &found, r, meet, add, write);
// Enters the rows from `base` on, and takes each batch a step further.
#define STEP_FURTHER                                                                                                   \
    next->count = clamp(last - base, 0L, width);                                                                       \
    for (int r = 0; r < next->count; r++) enter(t, base + r, next->at[r]);                                             \
    const long all = min(min(next->count, now->count), WRITES ? done->count : VEC);                                    \
    ADVANCE(0, all, true, true, WRITES)                                                                                \
    if (WRITES) ADVANCE(all, done->count, false, false, true)                                                          \
    ADVANCE(all, next->count, true, false, false)                                                                      \
    ADVANCE(all, now->count, false, true, false)                                                                       \
    next->m = largest_of_rows(found.top);                                                                              \
    next->frame = frame_of(t, next->m);
// The statement that follows is to make `a` and `b` of what the rows of `now` come to.
#define FOR_BATCHES                                                                                                    \
    const long groups = get_num_groups(1), last = t->rows * (get_group_id(1) + 1) / groups, width = min(t->width, (long)VEC); \
    Batch batches[3], *next = batches, *now = batches + 1, *done = batches + 2, *spare;                                \
    Found found;                                                                                                       \
    now->m = ZERO;                                                                                                     \
    now->frame = frame_of(t, now->m);                                                                                  \
    now->count = done->count = 0;                                                                                      \
    for (int r = 0; r < VEC; r++) found.top[r] = found.high[r] = found.low[r] = found.equal[r] = ZERO;                 \
    for (long base = t->rows * get_group_id(1) / groups; base < last + (1 + WRITES) * width;                           \
         base += width, spare = done, done = now, now = next, next = spare)

#endif

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
// Exponentials of short columns wait in local memory for their sum, four vectors after the other as they come.
#ifdef KEPT
#define KEPT_OF(w) ((__local ACC *)kept + ((tile / 4 + chain) * SLAB + (w)) * 4 * VEC)
#define ADD_TILE(w)                                                                                                    \
    {                                                                                                                  \
        V e[4];                                                                                                        \
        exponentials_of(t, X_OF(w) MASK_VECTOR(w), j, end, f + w, e);                                                  \
        keep(KEPT_OF(w), 0, LONG_MAX, e);                                                                              \
        add_tile(high + CHAIN_OF(w), low + CHAIN_OF(w), e);                                                            \
    }
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
            take_kept(KEPT_OF(w), 0, LONG_MAX, e);
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

// ---------------------------------------------------------------- log_softmax and logsumexp

#if (defined(OP_log_softmax) || defined(OP_logsumexp) || defined(OP_cross_entropy)) && !defined(WEIGHTED)

// log(count + s / e), e being what the maximum adds to the sum: the elements that equal it are counted, and only the others added, so
// that what is small beside 1 is kept.
FUNCTION R log_of_sum(R count, Sum s, V e, V e_low) {
    V error, share = SPLAT(s.high) / e;
    const V product = two_product(share, e, &error);
    const V share_low = (((SPLAT(s.high) - product) - error) + (SPLAT(s.low) - share * e_low)) / e;
    const R zero = 0, one = 1, high = of_row(share), low = of_row(share_low);
    const Sum part = {high, low}, ones = {count, zero}, whole = add_sums(ones, part);
#define SPIKE(a, b) (((count == 1) & (high < (ACC)0.4)) ? (a) : (b))
    return of_row(log_of(SPLAT(SPIKE(one, whole.high)), SPLAT(SPIKE(high, zero)), SPLAT(SPIKE(low, whole.low))));
}
#define FOLD_OF_ROW(m, log)                                                                                            \
    STATE_OF_ROW(m)                                                                                                    \
    V e_low, e = exp_of_maximum(t, SPLAT(m), &f, &e_low);                                                              \
    const R log = total(l) != total(l) ? (R)NAN : log_of_sum(count, l, e, e_low);
#ifdef COLUMNS
#define REST_OF_SLAB(m, log)                                                                                           \
    MAXIMA_OF_SLAB(m, n)                                                                                               \
    V equal[SLAB], log[SLAB];                                                                                          \
    FILL(equal, 0)                                                                                                     \
    OVER_SLAB(n, rest_tile(t, X_OF(w) MASK_VECTOR(w), j, end, m[w], f + w, high + CHAIN_OF(w), low + CHAIN_OF(w), equal + w)) \
    for (int w = 0; w < count; w++) {                                                                                  \
        const Sum l = sum_lanes(high + w * VEC, low + w * VEC);                                                        \
        V e_low, e = exp_of_maximum(t, m[w], f + w, &e_low);                                                           \
        log[w] = total(l) != total(l) ? CONSTANT(NAN) : log_of_sum(equal[w], l, e, e_low);                             \
    }
#endif

#ifdef BATCHED
FUNCTION R log_of_batch(const Task *t, const Batch *b, Found *found) {
    const Sum l = sum_of_rows(found->high, found->low);
    V e_low, e = exp_of_maximum(t, b->m, &b->frame, &e_low);
    return total(l) != total(l) ? CONSTANT(NAN) : log_of_sum(count_of_rows(found->equal), l, e, e_low);
}
#endif

#endif
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
KERNEL(logsumexp_backward)(Task task, const __global IN0 *dy, const __global IN1 *x, const __global IN2 *y B_PARAMETER,
                                 __global OUT0 *dx MASK_PARAMETER) {
    const Task *t = &task;
    FOR_ROWS {
        const R g = of_row0(t, dy + at[0], n), lse = of_row2(t, y + at[2], n);
        OVER_TILES(lse_dx_tile(t, x + at[1] B_ROW, dx + at[INPUTS] MASK_ROW, j, end, g, lse))
    }
}

#endif
