// state.cl: the state (m, l) of a row, its maximum and the sum of the exponentials: see softcore/fold.py. Of one row at a time, of rows side
// by side, and of several rows a step behind each other; and the logarithm of the sum.
//
// number[0] is a factor of x that is exact: 1, the sign of a negative scale, or a scale that is 0 or not finite. number[1] + number[2]
// is the scale, positive, and number[3] the scale as it was given. Without SCALED all of them are 1.

// ---------------------------------------------------------------- a walk over rows side by side

#ifdef COLUMNS

// Far apart as the elements of a row are, a stretch of each is read at once, of SLAB vectors, and the stretches SOON_ROWS further on are
// asked for, as an op's SOON_OF_SLAB says: no processor sees them coming. Where something comes `first`, for each vector of a stretch, that
// brings what `call` reads.
#define SOON_ROWS 2
#define OF_SLAB(p, i, w) ((p) + at[i] + (w) * VEC)  // operand i's vector w
#define CHAIN_OF(w) ((w) * VEC + chain)             // its sum
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
                    FOUR(k) SOON_OF_SLAB(w, soon(tile, chain) + k * STEP);                                             \
                    call;                                                                                              \
                }                                                                                                      \
            }                                                                                                          \
        for (long tile = whole; tile < (last); tile += TILE)                                                           \
            for (int chain = 0; chain < VEC && tile + chain < (last); chain++)                                         \
                for (int w = 0; w < count; w++) {                                                                      \
                    const long j = tile + chain, end = n;                                                              \
                    first;                                                                                             \
                    call;                                                                                              \
                }                                                                                                      \
    }
#define FILL(vectors, value)                                                                                           \
    for (int i = 0; i < (int)(sizeof vectors / sizeof *vectors); i++) vectors[i] = CONSTANT(value);

#endif

// ---------------------------------------------------------------- elements and their exponentials

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

#define X_OF(w) OF_SLAB(x, 0, w)
#define Y_OF(w) OF_SLAB(y, 1, w)
#define SOON_OF_SLAB(w, j) SOON(X_OF(w) + AT(t, 0, j))
FUNCTION void top_tile(const Task *t, const __global IN0 *x MASK_PARAMETER, long j, long n, V *m) {
    V top[4] = {*m, *m, *m, *m};
    max_tile(t, x MASK_ARGUMENT, j, n, top);
    top[0] = top[1] > top[0] ? top[1] : top[0];
    top[2] = top[3] > top[2] ? top[3] : top[2];
    *m = top[2] > top[0] ? top[2] : top[0];
}
// Maxima of the elements before `last`, and their frames; and sums of nothing.
#define MAXIMA_OF_SLAB(m, last)                                                                                        \
    V m[SLAB], high[SLAB * VEC], low[SLAB * VEC];                                                                      \
    Frame f[SLAB];                                                                                                     \
    FILL(m, -INFINITY)                                                                                                 \
    FILL(high, 0)                                                                                                      \
    FILL(low, 0)                                                                                                       \
    OVER_SLAB(last, top_tile(t, X_OF(w) MASK_VECTOR(w), j, end, m + w))                                                \
    for (int w = 0; w < count; w++) f[w] = frame_of(t, m[w]);
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

// ---------------------------------------------------------------- the logarithm of the sum

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
