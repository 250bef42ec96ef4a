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
#define HALVE_FIRST(w, h) const Bits##h v##h = min(((const Bits##h *)&v##w)[0], ((const Bits##h *)&v##w)[1]);
#define HALVE_LAST(w, h) const Bits##h v##h = max(((const Bits##h *)&v##w)[0], ((const Bits##h *)&v##w)[1]);
FUNCTION I numbered(void) {
    I lanes;
    LANES(k, VEC) ((SIGNED *)&lanes)[k] = k;
    return lanes;
}
FUNCTION int first_lane(I hits) {
    const I V_LANES = hits ? numbered() : (I)(VEC);
    HALVES(HALVE_FIRST)
    return v1;
}
FUNCTION int last_lane(I hits) {
    const I V_LANES = hits ? numbered() : (I)(-1);
    HALVES(HALVE_LAST)
    return v1;
}
// The index of the first maximum that this work-item met, or of the last; NONE if it met none. Of NaNs it is always the first.
#define NONE LONG_MAX
FUNCTION void find_tile(const Task *t, Pointer x MASK_PARAMETER, long j, long n, ACC m, bool last, long *found) {
    I hits[4];
    FOUR(k) hits[k] = HITS(j + k * STEP);
    if (!any_lane((hits[0] | hits[1]) | (hits[2] | hits[3]))) return;
    for (int i = 0; i < 4; i++) {
        const int k = last ? 3 - i : i;
        if (!any_lane(hits[k])) continue;
        *found = j + k * STEP + (last ? last_lane(hits[k]) : first_lane(hits[k]));
        return;
    }
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

// ---------------------------------------------------------------- rows side by side

#ifdef COLUMNS

// Of each row, in its lane: the largest element so far, and its place, -1 if there is none. A place is counted in integers as wide as
// elements.
#define X_OF(w) (x + at[I_X] + (w) * VEC)
#define BEATS(v, m, last) (((last) ? (v) >= (m) : (v) > (m)) | (((v) != (v)) & ((m) == (m))))
#define SOON_ROWS 4  // rows of memory ahead: no processor sees them coming
#define OVER_SLAB(call)                                                                                                \
    for (long j = 0; j < n; j++)                                                                                       \
        for (int w = 0; w < count; w++) {                                                                              \
            SOON(X_OF(w) + AT(t, I_X, j + SOON_ROWS));                                                                 \
            call;                                                                                                      \
        }
#define FILL(vectors, value)                                                                                           \
    for (int i = 0; i < SLAB; i++) vectors[i] = value;
#define MAXIMA_OF_SLAB(m)                                                                                              \
    V m[SLAB];                                                                                                         \
    FILL(m, CONSTANT(LEAST))                                                                                           \
    OVER_SLAB(meet(t, X_OF(w) MASK_VECTOR(w), j, n, m + w))
#define PLACES_OF_SLAB(m, place, last)                                                                                 \
    V m[SLAB];                                                                                                         \
    I place[SLAB];                                                                                                     \
    FILL(m, CONSTANT(LEAST))                                                                                           \
    FILL(place, (I)(-1))                                                                                               \
    OVER_SLAB(meet_at(t, X_OF(w) MASK_VECTOR(w), j, n, last, m + w, place + w))
FUNCTION void meet(const Task *t, Pointer x MASK_PARAMETER, long j, long n, V *m) {
    const V v = X(j);
    *m = LARGER(v, *m);
}
FUNCTION I part_of_column(const Task *t MASK_PARAMETER, long j, long n) {
#ifdef MASKED
    return mask_of(t, mask, j, n);
#else
    return (I)(-1);
#endif
}
FUNCTION void meet_at(const Task *t, Pointer x MASK_PARAMETER, long j, long n, bool last, V *m, I *place) {
    const V v = X(j);
    const I better = (BEATS(v, *m, last) | (*place < (I)(0))) & part_of_column(t MASK_ARGUMENT, j, n);
    *m = better ? v : *m;
    *place = better ? (I)((SIGNED)j) : *place;
}
// Which elements of rows are the largest of theirs.
FUNCTION I alike_in_columns(const Task *t, Pointer x MASK_PARAMETER, long j, long n, V m) {
    const V v = X(j);
    return ((v == m) | ((v != v) & (m != m))) & part_of_column(t MASK_ARGUMENT, j, n);
}
FUNCTION void put_places(const Task *t, __global long *index, int operand, I place) {
    for (int e = 0; e < t->width; e++) index[e * t->arg[operand].stride[t->nouter - 1]] = max(0L, (long)((SIGNED *)&place)[e]);
}
// From the rows of a vector to those of the next.
#define NEXT_ROWS for (int i = 0; i < ARGS; i++) at[i] += VEC * t->arg[i].stride[t->nouter - 1];

#endif

// ---------------------------------------------------------------- max, argmax

#ifdef OP_max

KERNEL(max)(Task task, const __global IN0 *x, __global OUT0 *y MASK_PARAMETER STATES_PARAMETER) {
    Task *t = &task;
    SCRATCH(ACC, highs)
#ifdef COLUMNS
    FOR_SLABS {
        MAXIMA_OF_SLAB(m)
        for (int w = 0; w < count; w++) {
            SET(0, y + at[1], m[w])
            NEXT_ROWS
        }
    }
#else
    FOR_ROWS {
#ifdef LEAVE_MAXIMUM
        LEAVE_MAXIMUM
#else
        MAX_OF_ROW(m)
        if (LANE == 0 && n) set0(y + at[1], m);
#endif
    }
#endif
}

#endif
#ifdef OP_argmax

KERNEL(argmax)(Task task, const __global IN0 *x, __global OUT0 *index MASK_PARAMETER STATES_PARAMETER) {
    Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
#ifdef COLUMNS
    FOR_SLABS {
        PLACES_OF_SLAB(m, place, OPTION)
        for (int w = 0; w < count; w++) {
            put_places(t, index + at[1], 1, place[w]);
            NEXT_ROWS
        }
    }
#else
    FOR_ROWS {
#ifdef LEAVE_MAXIMUM
        LEAVE_MAXIMUM
#else
        MAX_OF_ROW(m)
        FIND_IN_ROW(i, OPTION)
        if (LANE == 0 && n) index[at[1]] = i;
#endif
    }
#endif
}

#endif
#ifdef OP_max_with_argmax

KERNEL(max_with_argmax)(Task task, const __global IN0 *x, __global OUT0 *y, __global OUT1 *index MASK_PARAMETER STATES_PARAMETER) {
    Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
#ifdef COLUMNS
    FOR_SLABS {
        PLACES_OF_SLAB(m, place, OPTION)
        for (int w = 0; w < count; w++) {
            SET(0, y + at[1], m[w])
            put_places(t, index + at[2], 2, place[w]);
            NEXT_ROWS
        }
    }
#else
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
#endif
}

#endif

// ---------------------------------------------------------------- hardmax, max_backward

// A row of zeros, but for one element, if there is one: from the work-item that puts zeros around it.
#define PUT_ONE(row, index, value)                                                                                     \
    for (long j = LANE * VEC; j < n; j += STEP) bring0(t, row, j, n, CONSTANT(0));                                     \
    if ((index) < n && (index) / VEC % WG == LANE) set0((row) + AT(t, INPUTS, index), value);

#ifdef OP_hardmax

KERNEL(hardmax)(Task task, const __global IN0 *x, __global OUT0 *y) {
    Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
#ifdef COLUMNS
    FOR_SLABS {
        PLACES_OF_SLAB(m, place, false)
        OVER_SLAB(put0(t, y + at[1] + w * VEC, j, n, place[w] == (I)((SIGNED)j) ? CONSTANT(1) : CONSTANT(0)))
    }
#else
    FOR_ROWS {
        MAX_OF_ROW(m)
        FIND_IN_ROW(i, 0)
        PUT_ONE(y + at[1], i, 1)
    }
#endif
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
    Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(long, places)
#ifdef COLUMNS
    FOR_SLABS {
        PLACES_OF_SLAB(m, place, OPTION == LAST)
        V g[SLAB];
        for (int w = 0; w < count; w++) g[w] = of_row0(t, dy + at[0] + w * VEC * t->arg[0].stride[t->nouter - 1], n);
#if OPTION == FIRST || OPTION == LAST
        OVER_SLAB(put0(t, dx + at[2] + w * VEC, j, n, place[w] == (I)((SIGNED)j) ? g[w] : CONSTANT(0)))
#else
#if OPTION == SPLIT
        I alike[SLAB];
        FILL(alike, (I)(0))
        OVER_SLAB(alike[w] = alike[w] - alike_in_columns(t, X_OF(w) MASK_VECTOR(w), j, n, m[w]))
        for (int w = 0; w < count; w++)
            for (int e = 0; e < t->width; e++) ((ACC *)&g[w])[e] /= (ACC)((SIGNED *)&alike[w])[e];
#endif
        OVER_SLAB({
            const I is_largest = alike_in_columns(t, X_OF(w) MASK_VECTOR(w), j, n, m[w]);
            put0(t, dx + at[2] + w * VEC, j, n, is_largest ? g[w] : CONSTANT(0));
        })
#endif
    }
#else
    FOR_ROWS {
        ACC g = of_row0(t, dy + at[0], n);
#ifdef INDEXED
        const long i = n ? (long)index[at[2]] : 0;
#ifdef MASKED
        if (n && !mask[at[MASK] + place(t, MASK, i)]) g = 0;
#endif
        PUT_ONE(dx + at[3], i, g)
#else
        MAX_OF_ROW(m)
#if OPTION == FIRST || OPTION == LAST
        FIND_IN_ROW(i, OPTION == LAST)
        PUT_ONE(dx + at[2], i, g)
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
#endif
}

#endif
