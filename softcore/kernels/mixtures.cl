// mixtures.cl: what softmax_gate and topk_gate are made of, besides the softmax.

// ---------------------------------------------------------------- sums and products

#if defined(OP_sum) || defined(OP_dot)

#ifdef OP_dot
#define B_PARAMETER , const __global IN1 *b
#define B_ROW , b + at[1]
#define B_TIMES(j) take1(t, b, j, n, 0) *
#else
#define B_PARAMETER
#define B_ROW
#define B_TIMES(j)
#endif
FUNCTION void sum_tile(const Task *t, const __global IN0 *a B_PARAMETER MASK_PARAMETER, long j, long n, V *high, V *low) {
    V e[4];
    FOUR(k) e[k] = HIDE(B_TIMES(j + k * STEP) take0(t, a, j + k * STEP, n, 0), j + k * STEP, 0);
    add_tile(high, low, e);
}
// The sum of a row, or of the products of two.
#ifdef OP_dot
KERNEL(dot)
#else
KERNEL(sum)
#endif
(Task task, const __global IN0 *a B_PARAMETER, __global OUT0 *y MASK_PARAMETER) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        ACCUMULATORS(high, low)
        OVER_TILES(sum_tile(t, a + at[0] B_ROW MASK_ROW, j, end, high + chain, low + chain))
        Sum s = sum_lanes(high, low);
        OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
#ifdef SCALED
        s.high = s.high * t->number[3];
        s.low = s.low * t->number[3];
#endif
        SET(0, y + at[INPUTS], total(s))
    }
}

#endif
#ifdef OP_product

#ifdef MASKED
#define SHOWN(v) (mask_of(t, mask + at[MASK], j, n) ? (v) : ZERO)
#else
#define SHOWN(v) (v)
#endif
KERNEL(product)(Task task, const __global IN0 *a, const __global IN1 *b, __global OUT0 *y MASK_PARAMETER) {
    OVER_UNITS(bring0(t, y + at[2], j, n, SHOWN(take0(t, a + at[0], j, n, 0) * take1(t, b + at[1], j, n, 0)));)
}

#endif

// ---------------------------------------------------------------- the largest, and what is said by places

// Rows of the number of elements that the task's option says lie beside rows of n.
#define SMALL_ROW(i) (t->arg[i].stride[t->nouter])

#ifdef OP_largest

typedef struct { ACC value; long index; } Place;
// Whether a comes before b in descending order: NaN before numbers, and of equals the one with the smaller index.
FUNCTION bool precedes(Place a, Place b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan;
    return (a_nan || a.value == b.value) ? a.index < b.index : a.value > b.value;
}
// The one that comes first, of which either may be missing.
FUNCTION Place first_of(Place a, Place b) {
    if (a.index == LONG_MAX) return b;
    return b.index != LONG_MAX && precedes(b, a) ? b : a;
}
// Which of VEC elements come after `before` in that order.
FUNCTION I comes_after(Place before, V v, I index) {
    const I later = index > (I)((SIGNED)before.index);
    if (before.value != before.value) return (v == v) | later;
    return (v < CONSTANT(before.value)) | ((v == CONSTANT(before.value)) & later);
}
// The largest elements of a row in descending order and where they are: each time the first of those that follow the one before. Lanes
// keep the first that they meet, and places in integers as wide as elements.
KERNEL(largest)(Task task, const __global IN0 *x, __global OUT0 *y, __global OUT1 *index) {
    const Task *t = &task;
    SCRATCH(Place, places)
    I lanes;
    LANES(k, VEC) ((SIGNED *)&lanes)[k] = k;
    FOR_ROWS {
        Place before = {0, -1};
        for (int c = 0; c < t->option; c++) {
            V top = ZERO;
            I at_top = (I)(-1);
            for (long j = LANE * VEC; j < n; j += STEP) {
                const V v = take0(t, x + at[0], j, n, 0);
                const I here = lanes + (I)((SIGNED)j);
                const I better = (at_top < (I)(0)) | (v > top) | ((v != v) & (top == top));
                const I wins = better & (here < (I)((SIGNED)n)) & (c ? comes_after(before, v, here) : (I)(-1));
                top = wins ? v : top;
                at_top = wins ? here : at_top;
            }
            Place best = {0, LONG_MAX};
            for (int k = 0; k < VEC; k++) {
                const Place p = {((ACC *)&top)[k], ((SIGNED *)&at_top)[k]};
                if (p.index >= 0) best = first_of(best, p);
            }
            OVER_GROUP(places, best, first_of(places[own], places[other]))
            if (LANE == 0 && n) {
                set0(y + at[1] + c * SMALL_ROW(1), best.value);
                index[at[2] + c * SMALL_ROW(2)] = best.index;
            }
            before = best;
        }
    }
}

#endif
#ifdef OP_take

// The elements of x at the places in index.
KERNEL(take)(Task task, const __global IN0 *x, const __global IN1 *index, __global OUT0 *y) {
    const Task *t = &task;
    FOR_ROWS {
        if (!n) continue;
        for (long c = LANE; c < t->option; c += WG)
            set0(y + at[2] + c * SMALL_ROW(2), value0(x + at[0] + AT(t, 0, (long)index[at[1] + c * SMALL_ROW(1)])));
    }
}

#endif
#ifdef OP_spread

// A row of zeros to which the elements of x are added at the places in index, in order.
KERNEL(spread)(Task task, const __global IN0 *x, const __global IN1 *index, __global OUT0 *y) {
    const Task *t = &task;
    FOR_ROWS {
        for (long j = LANE * VEC; j < n; j += STEP) put0(t, y + at[2], j, n, ZERO);
        if (WG > 1) barrier(CLK_GLOBAL_MEM_FENCE);
        if (LANE || !n) continue;
        for (int c = 0; c < t->option; c++) {
            __global OUT0 *p = y + at[2] + AT(t, 2, (long)index[at[1] + c * SMALL_ROW(1)]);
            *p = *p + value0(x + at[0] + c * SMALL_ROW(0));
        }
    }
}

#endif
