// max.cl: maxima, their places, and the gradient that goes there. ACC is x's own type, integers included, but for the gradient.
//
// NaN wins, and of NaNs the first; which of equal elements is first goes by their index, whoever met it.

// ---------------------------------------------------------------- the fold

// Elements j to j + VEC of x (operand I_X); what lies past the end or is masked out is the least value of the type.
#ifdef OP_max_backward
#define I_X 1
#define X(j) HIDE(take1(t, x, j, n, LEAST), j, LEAST)
typedef const __global IN1 *Pointer;
#else
#define I_X 0
#define X(j) HIDE(take0(t, x, j, n, LEAST), j, LEAST)
typedef const __global IN0 *Pointer;
#endif

FUNCTION void max_tile(const Task *t, Pointer x MASK_PARAMETER, long j, long n, V *top) {
    FOUR(k) {
        const V v = X(j + k * STEP);
        top[k] = LARGER(v, top[k]);
    }
}
#define HALVE_LARGER(w, h) const Lanes##h v##h = LARGER(HALF(h, v##w, 1), HALF(h, v##w, 0));
FUNCTION ACC largest_or_nan(const V *top) {
    const V a = LARGER(top[1], top[0]), b = LARGER(top[3], top[2]), V_LANES = LARGER(b, a);
    HALVES(HALVE_LARGER)
    return v1;
}
#define MAX_OF_PART(m)                                                                                                 \
    V top[4] = {CONSTANT(LEAST), CONSTANT(LEAST), CONSTANT(LEAST), CONSTANT(LEAST)};                                   \
    OVER_TILES(max_tile(t, x + at[I_X] MASK_ROW, j, end, top))                                                         \
    ACC m = largest_or_nan(top);                                                                                       \
    OVER_GROUP(highs, m, LARGER(highs[other], highs[own]))
#if defined(PART) && STAGE == 1
#define LEAVE_MAXIMUM                                                                                                  \
    MAX_OF_PART(m)                                                                                                     \
    if (LANE == 0) STATE_OF(part)[0] = m;
#elif defined(PART)
// Of a row, when its first part comes; the elements to look at are then those of the first part, or the last, that has it.
#define MAX_OF_ROW(m)                                                                                                  \
    if (part) continue;                                                                                                \
    ACC m = LEAST;                                                                                                     \
    for (long p = 0; p < parts; p++) m = LARGER(STATE_OF(p)[0], m);
#define ENTER_PART_WITH(m, last)                                                                                       \
    for (long p = 0; p < parts; p++) {                                                                                 \
        const long q = (last) && m == m ? p : parts - 1 - p;                                                           \
        if (STATE_OF(q)[0] == m || (m != m && STATE_OF(q)[0] != STATE_OF(q)[0])) part = q;                             \
    }                                                                                                                  \
    begin = part * PART;                                                                                               \
    n = min(t->n, begin + PART);
#else
#define MAX_OF_ROW(m) MAX_OF_PART(m)
#endif
#ifndef ENTER_PART_WITH
#define ENTER_PART_WITH(m, last)
#endif

// Which elements are the maximum, or NaN where that is.
FUNCTION I alike(V v, ACC m) { return m == m ? v == CONSTANT(m) : v != v; }
#define HITS(j) (alike(X(j), m) & part(t MASK_ARGUMENT, j, n))
// What lies within the row and takes part.
FUNCTION I part(const Task *t MASK_PARAMETER, long j, long n) {
#ifdef MASKED
    return mask_of(t, mask, j, n);
#else
    if (j + VEC <= n) return (I)(-1);
    I in = (I)(0);
    for (int k = 0; k < VEC; k++) ((SIGNED *)&in)[k] = j + k < n ? -1 : 0;
    return in;
#endif
}
#define HALVE_ANY(w, h) const Bits##h v##h = ((const Bits##h *)&v##w)[0] | ((const Bits##h *)&v##w)[1];
FUNCTION bool any_lane(I hits) {
    const I V_LANES = hits;
    HALVES(HALVE_ANY)
    return v1 != 0;
}
// The index of the first maximum that this work-item met, or of the last; NONE if it met none. Of NaNs it is always the first.
#define NONE LONG_MAX
FUNCTION void find_tile(const Task *t, Pointer x MASK_PARAMETER, long j, long n, ACC m, bool last, long *found) {
    I hits[4];
    FOUR(k) hits[k] = HITS(j + k * STEP);
    if (!any_lane((hits[0] | hits[1]) | (hits[2] | hits[3]))) return;
    for (int k = 0; k < 4; k++)
        for (int lane = 0; lane < VEC; lane++)
            if (((SIGNED *)&hits[k])[lane] && (last || *found == NONE)) *found = j + k * STEP + lane;
}
// Places of the last are compared as negative numbers, so that the smaller one always wins.
#define FIND_IN_ROW(index, last)                                                                                       \
    const bool backwards = (last) && m == m;                                                                           \
    ENTER_PART_WITH(m, last)                                                                                           \
    long index = NONE;                                                                                                 \
    OVER_TILES({                                                                                                       \
        if (index != NONE && !backwards) break;                                                                        \
        find_tile(t, x + at[I_X] MASK_ROW, j, end, m, backwards, &index);                                              \
    })                                                                                                                 \
    index = backwards && index != NONE ? -index : index;                                                               \
    OVER_GROUP(places, index, min(places[other], places[own]))                                                         \
    index = index < 0 ? -index : index;

// ---------------------------------------------------------------- max, argmax

#ifdef OP_max

KERNEL(max)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER STATES_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    FOR_ROWS {
#ifdef LEAVE_MAXIMUM
        LEAVE_MAXIMUM
#else
        MAX_OF_ROW(m)
        if (LANE == 0 && n) set0(y + at[1], m);
#endif
    }
}

#endif
#ifdef OP_argmax

KERNEL(argmax)(Task task, const __global IN0 *x, __global OUT0 *index MASK_PARAMETER STATES_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
    FOR_ROWS {
#ifdef LEAVE_MAXIMUM
        LEAVE_MAXIMUM
#else
        MAX_OF_ROW(m)
        FIND_IN_ROW(i, OPTION)
        if (LANE == 0 && n) index[at[1]] = i;
#endif
    }
}

#endif
#ifdef OP_max_with_argmax

KERNEL(max_with_argmax)(Task task, const __global IN0 *x, __global OUT0 *y, __global OUT1 *index MASK_PARAMETER STATES_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
    FOR_ROWS {
#ifdef LEAVE_MAXIMUM
        LEAVE_MAXIMUM
#else
        MAX_OF_ROW(m)
        FIND_IN_ROW(i, OPTION)
        if (LANE == 0 && n) {
            set0(y + at[1], m);
            index[at[2]] = i;
        }
#endif
    }
}

#endif

// ---------------------------------------------------------------- hardmax, max_backward

// A vector of a row of zeros, but for one element.
FUNCTION V one_at(long j, long index, ACC value) {
    V v = CONSTANT(0);
    for (int k = 0; k < VEC; k++)
        if (j + k == index) ((ACC *)&v)[k] = value;
    return v;
}

#ifdef OP_hardmax

KERNEL(hardmax)(Task task, const __global IN0 *x, __global OUT0 *y) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
    FOR_ROWS {
        MAX_OF_ROW(m)
        FIND_IN_ROW(i, 0)
        for (long j = LANE * VEC; j < n; j += STEP) bring0(t, y + at[1], j, n, one_at(j, i, 1));
    }
}

#endif
#ifdef OP_is_max

// 1 where an element is its row's maximum.
KERNEL(is_max)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    FOR_ROWS {
        MAX_OF_ROW(m)
        for (long j = LANE * VEC; j < n; j += STEP) {
            const V v = take0(t, x + at[0], j, n, 0);
            bring0(t, y + at[1], j, n, v == CONSTANT(m) ? CONSTANT(1) : CONSTANT(0));
        }
    }
}

#endif
#ifdef OP_max_backward

#define FIRST 0
#define LAST 1
#define SPLIT 2
#define ALL 3

FUNCTION void share_tile(const Task *t, Pointer x, __global OUT0 *dx MASK_PARAMETER, long j, long n, ACC m, ACC dy) {
    FOUR(k) bring0(t, dx, j + k * STEP, n, HITS(j + k * STEP) ? CONSTANT(dy) : CONSTANT(0));
}
FUNCTION void count_tile(const Task *t, Pointer x MASK_PARAMETER, long j, long n, ACC m, I *count) {
    FOUR(k) *count = *count - HITS(j + k * STEP);
}
// dy holds one value a row, and so does index, which takes the place of the search.
KERNEL(max_backward)(Task task, const __global IN0 *dy, const __global IN1 *x,
#ifdef INDEXED
                           const __global IN2 *index,
#endif
                           __global OUT0 *dx MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
    FOR_ROWS {
        ACC g = n ? value0(dy + at[0]) : 0;
#ifdef INDEXED
        const long i = n ? (long)index[at[2]] : 0;
        for (long j = LANE * VEC; j < n; j += STEP) {
            const V v = one_at(j, i, g);
#ifdef MASKED
            bring0(t, dx + at[3], j, n, mask_of(t, mask + at[MASK], j, n) ? v : CONSTANT(0));
#else
            bring0(t, dx + at[3], j, n, v);
#endif
        }
#else
        MAX_OF_ROW(m)
#if OPTION == FIRST || OPTION == LAST
        FIND_IN_ROW(i, OPTION == LAST)
        for (long j = LANE * VEC; j < n; j += STEP) bring0(t, dx + at[2], j, n, one_at(j, i, g));
#else
#if OPTION == SPLIT
        I counts = (I)(0);
        OVER_TILES(count_tile(t, x + at[1] MASK_ROW, j, end, m, &counts))
        long count = 0;
        for (int k = 0; k < VEC; k++) count += ((SIGNED *)&counts)[k];
        OVER_GROUP(places, count, places[other] + places[own])
        g = g / (ACC)count;
#endif
        OVER_TILES(share_tile(t, x + at[1], dx + at[2] MASK_ROW, j, end, m, g))
#endif
#endif
    }
}

#endif
